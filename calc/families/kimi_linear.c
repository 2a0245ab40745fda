/* kimi_linear.c - Kimi-Linear: Kimi delta attention, latent attention every fourth layer, experts after the
 * first layers. Sources: configuration_kimi.py and modeling_kimi.py beside Kimi-Linear-48B-A3B (lists count
 * layers from 1). What Kimi-K3 adds to it is refused by name. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"
#include "calc/families/llama_like.h"

#include <string.h>

static const struct kvp_rule rules[] = {
    {"linear_attn_config", KVP_KEY_ANY, "read: which layers are linear, and their heads"},
    {"head_dim", KVP_KEY_ANY, "means nothing beside latent attention"},
    {"kv_lora_rank", KVP_KEY_ANY, "read: the latent"},
    {"q_lora_rank", KVP_KEY_ANY, "read: the low rank of q"},
    {"qk_nope_head_dim", KVP_KEY_ANY, "read: a head's part without positions"},
    {"qk_rope_head_dim", KVP_KEY_ANY, "read: a head's part with positions"},
    {"v_head_dim", KVP_KEY_ANY, "read: a head of v"},
    {"num_experts", KVP_KEY_ANY, "read: experts a layer"},
    {"num_experts_per_token", KVP_KEY_ANY, "read: experts a token"},
    {"num_shared_experts", KVP_KEY_ANY, "read: shared experts"},
    {"num_expert_group", KVP_KEY_ANY, "how experts are chosen"},
    {"moe_router_activation_func", KVP_KEY_ANY, "how experts are chosen"},
    {"topk_group", KVP_KEY_ANY, "how experts are chosen"},
    {"use_grouped_topk", KVP_KEY_ANY, "how experts are chosen"},
    {"moe_renormalize", KVP_KEY_ANY, "a factor of the experts' sum"},
    {"mla_use_nope", KVP_KEY_ANY, "read: no rotation"},
    {"first_k_dense_replace", KVP_KEY_ANY, "read: layers before the first with experts"},
    {"moe_layer_freq", KVP_KEY_TRUE, "some layers would have no experts"},
    {"mla_use_output_gate", KVP_KEY_FALSE, "attention would have a gate"},
    {"attn_res_block_size", KVP_KEY_FALSE, "blocks of layers would attend to each other's outputs"},
    {"routed_expert_hidden_size", KVP_KEY_FALSE, "experts would work in a latent of their own"},
    {"moe_intermediate_size", KVP_KEY_ANY, "read: width of an expert"},
    {0},
};

/* linear_attn_config */
static const struct kvp_rule linear_rules[] = {
    {"kda_layers", KVP_KEY_ANY, "read: layers with delta attention, from 1"},
    {"full_attn_layers", KVP_KEY_ANY, "read: layers with latent attention, from 1"},
    {"head_dim", KVP_KEY_ANY, "read: a head's size"},
    {"num_heads", KVP_KEY_ANY, "read: heads"},
    {"use_full_rank_gate", KVP_KEY_FALSE, "gates of full rank are not supported"},
    {"short_conv_kernel_size", KVP_KEY_ANY, "read: columns of the convolution"},
    {0},
};
static const struct kvp_dialect linear_config = {.model_type = {"kimi_linear (linear_attn_config)"}, .rules = {linear_rules}};

static kvp_err read_mla(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    c->mixer = KVP_MIX_MLA;
    KVP_TRY(kvp_need_count(r, "num_attention_heads", &c->heads));
    KVP_TRY(kvp_read_count(r, "q_lora_rank", &c->q_rank));
    KVP_TRY(kvp_need_count(r, "kv_lora_rank", &c->kv_rank));
    KVP_TRY(kvp_need_count(r, "qk_nope_head_dim", &c->nope_dim));
    KVP_TRY(kvp_need_count(r, "qk_rope_head_dim", &c->rope_dim));
    KVP_TRY(kvp_need_count(r, "v_head_dim", &c->v_head_dim));
    c->head_dim = c->nope_dim + c->rope_dim;
    return KVP_OK;
}

static kvp_err read_kda(const struct kvp_reader *cfg, struct kvp_layer_class *c)
{
    c->recurrent = KVP_REC_KDA;
    c->conv = 4;
    KVP_TRY(kvp_need_count(cfg, "num_heads", &c->rec_heads));
    KVP_TRY(kvp_need_count(cfg, "head_dim", &c->rec_head_dim));
    KVP_TRY(kvp_need_count(cfg, "short_conv_kernel_size", &c->conv));
    KVP_TRY(kvp_channels(cfg, "num_heads", c->rec_heads, c->rec_head_dim, &c->inner));
    c->low_rank[0] = c->low_rank[1] = c->rec_head_dim;
    return KVP_OK;
}

static kvp_err read_moe(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    uint32_t shared = 0;

    KVP_TRY(kvp_need_count(r, "num_experts", &c->experts));
    KVP_TRY(kvp_need_count(r, "num_experts_per_token", &c->experts_per_token));
    KVP_TRY(kvp_need_count(r, "moe_intermediate_size", &c->expert_width));
    KVP_TRY(kvp_read_count(r, "num_shared_experts", &shared));
    KVP_TRY(kvp_channels(r, "num_shared_experts", shared, c->expert_width, &c->shared_width));
    c->router_bias = true;
    c->ffn_width = 0;
    return KVP_OK;
}

/* A layer gets the feed-forward of `from`, and keeps its mixer. */
static void set_ffn(struct kvp_layer_class *c, const struct kvp_layer_class *from)
{
    c->ffn_width = from->ffn_width;
    c->experts = from->experts;
    c->experts_per_token = from->experts_per_token;
    c->expert_width = from->expert_width;
    c->shared_width = from->shared_width;
    c->router_bias = from->router_bias;
}

static kvp_err place(const struct kvp_reader *r, const struct kvp_reader *cfg, const struct kvp_layer_class *mla,
                     const struct kvp_layer_class *kda)
{
    const json_t *linear = kvp_json_get(&cfg->j, "kda_layers"), *full = kvp_json_get(&cfg->j, "full_attn_layers");

    for (uint32_t i = 0; i < r->m->layers; i++) {
        const bool is_full = kvp_list_has(full, i + 1);

        if (is_full == kvp_list_has(linear, i + 1))
            return kvp_key_fail(cfg, KVP_EINPUT, "kda_layers, full_attn_layers", "expected each layer, from 1, in one of the two");
        memcpy(&r->layer[i], is_full ? mla : kda, sizeof(*mla));
    }
    return KVP_OK;
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class mla, kda, moe;
    struct kvp_reader cfg = *r;
    uint32_t dense = 0;
    bool nope = false;

    cfg.j.object = kvp_json_get(&r->j, "linear_attn_config");
    if (!json_is_object(cfg.j.object))
        return kvp_key_fail(r, KVP_EINPUT, "linear_attn_config", "expected an object: which layers are linear, and their heads");
    KVP_TRY(kvp_dialect_check_keys(&cfg.j, &linear_config));
    KVP_TRY(kvp_read_flag(r, "mla_use_nope", &nope));
    if (nope)
        r->m->position = KVP_POS_NONE;
    KVP_TRY(kvp_read_count(r, "first_k_dense_replace", &dense));
    memcpy(&mla, &r->proto, sizeof(mla));
    memcpy(&kda, &r->proto, sizeof(kda));
    memcpy(&moe, &r->proto, sizeof(moe));
    KVP_TRY(read_mla(r, &mla));
    KVP_TRY(read_kda(&cfg, &kda));
    KVP_TRY(read_moe(r, &moe));
    KVP_TRY(place(r, &cfg, &mla, &kda));
    for (uint32_t i = dense; i < r->m->layers; i++)
        set_ffn(&r->layer[i], &moe);
    return KVP_OK;
}

const struct kvp_dialect family_kimi_linear[] = {
    {
        .model_type = {"kimi_linear"},
        .architectures = {"KimiLinearForCausalLM"},
        .rules = {rules},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},
                [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_FFN] = {"intermediate_size"},
                [KVP_SIZE_POSITIONS] = {"model_max_length", "max_position_embeddings"}},
        .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
        .own_mixer = true, .no_positions = true, .window = KVP_WINDOW_HOOK, .layers = layers,
    },
    {.model_type = {0}},
};
