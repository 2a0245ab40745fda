/* step.c - Step-3.5 and Step-3.7: sliding layers may have heads of their own, a shared expert without a gate.
 * Source: stepfun-ai/Step-3.5-Flash configuration_step3p5.py and modeling_step3p5.py, the copy in
 * huggingface/transformers (Step3p7): q and k always have norms; g_proj [heads, width] with
 * use_head_wise_attn_gate; attention_other_setting is for sliding layers. Their prediction layers are not counted. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"

#include <stdlib.h>
#include <string.h>

/* Heads of the layers that slide. */
static kvp_err read_other(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    struct kvp_reader other = *r;

    other.j.object = kvp_json_get(&r->j, "attention_other_setting");
    if (!other.j.object)
        return KVP_OK;
    if (!json_is_object(other.j.object))
        return kvp_key_fail(r, KVP_EINPUT, "attention_other_setting", "expected an object");
    KVP_TRY(kvp_need_count(&other, "num_attention_heads", &c->heads));
    KVP_TRY(kvp_read_count(&other, "num_attention_groups", &c->kv_heads));
    KVP_TRY(kvp_read_count(&other, "head_dim", &c->head_dim));
    c->v_head_dim = c->head_dim;
    if (!c->kv_heads || !c->head_dim || c->heads % c->kv_heads)
        return kvp_key_fail(r, KVP_EINPUT, "attention_other_setting", "its heads must be a multiple of its groups, its head_dim above 0");
    return KVP_OK;
}

/* moe_layers_enum: "3,4,5,..." */
static kvp_err enumerated(const struct kvp_reader *r, uint32_t i, bool *sparse)
{
    const char *list = NULL;
    char *end;

    KVP_TRY(kvp_json_text(&r->j, "moe_layers_enum", &list, NULL));
    if (!list)
        return moe_is_sparse(r, i, sparse);
    if (strlen(list) > 8 * (size_t)r->m->layers)
        return kvp_key_fail(r, KVP_EINPUT, "moe_layers_enum", "longer than a list of the layers");
    *sparse = false;
    for (; *list; list = *end == ',' ? end + 1 : end) {
        const unsigned long layer = strtoul(list, &end, 10);

        if (end == list || (*end && *end != ','))
            return kvp_key_fail(r, KVP_EINPUT, "moe_layers_enum", "expected numbers of layers and commas");
        *sparse = *sparse || layer == i;
    }
    return KVP_OK;
}

static kvp_err read_moe(const struct kvp_reader *r, struct kvp_layer_class *moe)
{
    KVP_TRY(moe_read(r, moe));
    KVP_TRY(kvp_read_count(r, "share_expert_dim", &moe->shared_width));
    KVP_TRY(kvp_read_flag(r, "use_moe_router_bias", &moe->router_bias));
    return kvp_json_get(&r->j, "moe_layers_enum") ? KVP_OK : moe_need_layout(r);
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    bool gate = false, sparse;

    KVP_TRY(read_moe(r, &moe));
    KVP_TRY(kvp_read_flag(r, "use_head_wise_attn_gate", &gate));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        struct kvp_layer_class *c = &r->layer[i];

        if (c->window)
            KVP_TRY(read_other(r, c));
        if (gate)
            KVP_TRY(kvp_add_extra(r, c->extra, "g_proj", c->heads, r->m->width, 1, true));
        KVP_TRY(enumerated(r, i, &sparse));
        if (sparse)
            moe_set_ffn(c, &moe);
    }
    snprintf(r->m->not_run, sizeof(r->m->not_run), "norms add 1 to their weight, a gate on every head's output");
    return KVP_OK;
}

static const struct kvp_rule rules[] = {
    {"moe_num_experts", KVP_KEY_ANY, "read: experts"},
    {"share_expert_dim", KVP_KEY_ANY, "read: width of the shared expert"},
    {"moe_layers_enum", KVP_KEY_ANY, "read: which layers have experts"},
    {"norm_expert_weight", KVP_KEY_ANY, "weights of the chosen experts sum to 1; no size"},
    {"use_head_wise_attn_gate", KVP_KEY_ANY, "read: g_proj"},
    {"use_rope_layers", KVP_KEY_ANY, "which layers rotate; no size"},
    {"num_nextn_predict_layers", KVP_KEY_ANY, "prediction layers, which are not counted"},
    {0},
};

const struct kvp_dialect family_step[] = {
    {
        .model_type = {"step3p5"},
        .rules = {rules, kvp_rules_moe},
        .architectures = {"Step3p5ForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_KV_HEADS] = {"num_key_value_heads", "num_attention_groups"},
                [KVP_SIZE_HEAD_DIM] = {"head_dim"}, [KVP_SIZE_FFN] = {"intermediate_size"},
                [KVP_SIZE_POSITIONS] = {"max_position_embeddings", "max_seq_len"}},
        .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_HEAD_DIM] = 128},
        .bias = KVP_BIAS_NONE, .qk_norm = true,
        .window = KVP_WINDOW_EVERY,
        .layers = layers,
    },
    {
        .model_type = {"step3p7"},
        .architectures = {"Step3p7ForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "step3p5",
    },
    {.model_type = {0}},
};
