/* jamba.c - Jamba: Mamba-1 with norms on dt, B and C, attention without positions every few layers, experts
 * in every other feed-forward. Source: {configuration,modeling}_jamba.py of huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"
#include "calc/families/llama_like.h"

#include <string.h>

static const struct kvp_rule rules[] = {
    {"attn_layer_offset", KVP_KEY_ANY, "read: the first attention layer"},
    {"attn_layer_period", KVP_KEY_ANY, "read: every how many layers attention comes"},
    {"expert_layer_offset", KVP_KEY_ANY, "read: the first layer with experts"},
    {"expert_layer_period", KVP_KEY_ANY, "read: every how many layers experts come"},
    {"num_experts", KVP_KEY_ANY, "read: experts a layer"},
    {"num_experts_per_tok", KVP_KEY_ANY, "read: experts a token"},
    {"mamba_d_state", KVP_KEY_ANY, "read: the state's columns"},
    {"mamba_dt_rank", KVP_KEY_ANY, "read: the time step's rank"},
    {"mamba_inner_layernorms", KVP_KEY_TRUE, "there would be no norms on dt, B and C"},
    {"layers_block_type", KVP_KEY_ANY, "follows from attn_layer_period and attn_layer_offset"},
    {"layers_num_experts", KVP_KEY_ANY, "follows from expert_layer_period and expert_layer_offset"},
    {"sliding_window", KVP_KEY_FALSE, "attention of this class has no window"},
    {"attention_bias", KVP_KEY_FALSE, "this class has no such bias"},
    {"mamba_d_conv", KVP_KEY_ANY, "read: Mamba-1"},
    {"mamba_expand", KVP_KEY_ANY, "read: Mamba-1"},
    {"mamba_conv_bias", KVP_KEY_ANY, "read: Mamba-1"},
    {"mamba_proj_bias", KVP_KEY_ANY, "read: Mamba-1"},
    {"use_mamba_kernels", KVP_KEY_ANY, "which kernel, not what is stored"},
    {"use_mambapy", KVP_KEY_ANY, "which kernel, not what is stored"},
    {0},
};

static kvp_err read_mamba(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    uint32_t expand = 2;

    c->recurrent = KVP_REC_MAMBA1;
    c->state = 16;
    c->conv = 4;
    c->conv_bias = c->rec_norm = true;
    KVP_TRY(kvp_need_count(r, "mamba_d_state", &c->state));
    KVP_TRY(kvp_need_count(r, "mamba_d_conv", &c->conv));
    KVP_TRY(kvp_need_count(r, "mamba_expand", &expand));
    KVP_TRY(kvp_channels(r, "mamba_expand", expand, r->m->width, &c->inner));
    KVP_TRY(kvp_read_dt_rank(r, "mamba_dt_rank", &c->dt_rank));
    KVP_TRY(kvp_read_flag(r, "mamba_proj_bias", &c->rec_bias));
    return kvp_read_flag(r, "mamba_conv_bias", &c->conv_bias);
}

/* every[0] the period, every[1] the offset. */
static bool is_due(const uint32_t every[2], uint32_t i)
{
    return i % every[0] == every[1];
}

static kvp_err read_every(const struct kvp_reader *r, const char *period, const char *offset, uint32_t every[2])
{
    KVP_TRY(kvp_need_count(r, period, &every[0]));
    KVP_TRY(kvp_read_count(r, offset, &every[1]));
    return every[1] < every[0] ? KVP_OK : kvp_key_fail(r, KVP_EINPUT, offset, "expected less than the period");
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class mamba;
    uint32_t attention[2] = {8, 4}, moe[2] = {2, 1}, experts = 16, per_token = 2;

    KVP_TRY(read_every(r, "attn_layer_period", "attn_layer_offset", attention));
    KVP_TRY(read_every(r, "expert_layer_period", "expert_layer_offset", moe));
    KVP_TRY(kvp_read_count(r, "num_experts", &experts));
    KVP_TRY(kvp_read_count(r, "num_experts_per_tok", &per_token));
    r->m->numbers.route = KVP_ROUTE_SOFTMAX;
    memcpy(&mamba, &r->proto, sizeof(mamba));
    kvp_drop_attention(&mamba);
    KVP_TRY(read_mamba(r, &mamba));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        memcpy(c, is_due(attention, i) ? &r->proto : &mamba, sizeof(*c));
        if (experts < 2 || !is_due(moe, i))
            continue;
        c->experts = experts;
        c->experts_per_token = per_token;
        c->expert_width = c->ffn_width;
        c->ffn_width = 0;
    }
    return KVP_OK;
}

const struct kvp_dialect family_jamba[] = {
    {
        .model_type = {"jamba"},
        .architectures = {"JambaForCausalLM", "JambaModel"},
        .rules = {rules},
        .key = LLAMA_KEYS,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 262144},
        .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_NONE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
        .window = KVP_WINDOW_HOOK, .layers = layers,
    },
    {.model_type = {0}},
};
