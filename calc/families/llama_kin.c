/* llama_kin.c - what is Llama but for a bias, a default, a norm or a multiplier: Granite, Helium, SmolLM3,
 * Apertus, TeleChat3, openPangu. Sources: configuration_ and modeling_{granite,helium,smollm3,apertus}.py of
 * huggingface/transformers; modeling_openpangu_dense.py beside openPangu-Embedded-7B; TeleChat3 in ml-explore/mlx-lm. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"

static const struct kvp_rule smollm3_rules[] = {
    {"use_sliding_window", KVP_KEY_FALSE, "layers without rotation would slide"},
    {"max_window_layers", KVP_KEY_ANY, "nothing without use_sliding_window"},
    {"no_rope_layers", KVP_KEY_ANY, "read: which layers rotate"},
    {"no_rope_layer_interval", KVP_KEY_ANY, "read where no_rope_layers is absent"},
    {0},
};
static const struct kvp_rule apertus_rules[] = {
    {"qk_norm", KVP_KEY_TRUE, "q and k would have no norms"},
    {"post_norm", KVP_KEY_FALSE, "norms would follow the layers' parts"},
    {0},
};
static const struct kvp_rule pangu_rules[] = {
    {"bias", KVP_KEY_ANY, "read: biases of q, k, v and o"},
    {0},
};

static kvp_err granite_layers(struct kvp_reader *r)
{
    return kvp_read_multipliers(r);
}

/* o_proj never has a bias; rotation pairs neighbouring elements. */
static kvp_err helium_layers(struct kvp_reader *r)
{
    r->m->numbers.rope_neighbours = true;
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].o_bias = false;
    return KVP_OK;
}

/* no_rope_layers[i] is 1 where layer i rotates; absent, every no_rope_layer_interval-th does not. */
static kvp_err smollm3_layers(struct kvp_reader *r)
{
    const json_t *list;
    uint32_t interval = 4;

    KVP_TRY(kvp_read_list(r, "no_rope_layers", &list));
    KVP_TRY(kvp_read_count(r, "no_rope_layer_interval", &interval));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const json_t *v = list ? json_array_get(list, i) : NULL;

        r->layer[i].no_rope = list ? json_is_integer(v) && !json_integer_value(v) : interval && (i + 1) % interval == 0;
    }
    return KVP_OK;
}

/* xIELU: two learned numbers a layer, and two that its checkpoint holds beside them (beta, eps). */
static kvp_err apertus_layers(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++)
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "xielu", 1, 1, 4, false));
    return KVP_OK;
}

static kvp_err pangu_layers(struct kvp_reader *r)
{
    bool bias = true;

    KVP_TRY(kvp_read_flag(r, "bias", &bias));
    for (uint32_t i = 0; i < r->m->layers; i++)
        r->layer[i].qkv_bias = r->layer[i].o_bias = bias;
    return KVP_OK;
}

const struct kvp_dialect family_llama_kin[] = {
    {
        .model_type = {"granite"},
        .rules = {kvp_rules_llama},
        .architectures = {"GraniteForCausalLM", "GraniteModel"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 2048}, .bias = KVP_BIAS_KEYS, .layers = granite_layers,
    },
    {
        .model_type = {"helium"},
        .rules = {kvp_rules_llama},
        .architectures = {"HeliumForCausalLM", "HeliumModel"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_KV_HEADS] = 20, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 4096},
        .bias = KVP_BIAS_KEYS, .layers = helium_layers,
    },
    {
        .model_type = {"smollm3"},
        .rules = {kvp_rules_llama, smollm3_rules},
        .architectures = {"SmolLM3ForCausalLM", "SmolLM3Model"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_KV_HEADS] = 4, [KVP_SIZE_POSITIONS] = 32768},
        .bias = KVP_BIAS_KEYS, .tied = true, .window = KVP_WINDOW_FROM, .layers = smollm3_layers,
    },
    {
        .model_type = {"apertus"},
        .rules = {kvp_rules_llama, apertus_rules},
        .architectures = {"ApertusForCausalLM", "ApertusModel"},
        .key = LLAMA_KEYS, .absent = {[KVP_SIZE_POSITIONS] = 65536},
        .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-5,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_PLAIN,
        .bias = KVP_BIAS_ATTN, .qk_norm = true, .layers = apertus_layers, .not_run = "the xIELU activation",
    },
    {
        .model_type = {"telechat3"},
        .rules = {kvp_rules_llama},
        .architectures = {"Telechat3ForCausalLM", "TeleChat3ForCausalLM"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 32768}, .bias = KVP_BIAS_KEYS,
    },
    {
        .model_type = {"PanguEmbedded"},
        .rules = {pangu_rules, kvp_rules_llama},
        .architectures = {"PanguEmbeddedForCausalLM"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 32768}, .bias = KVP_BIAS_NONE, .layers = pangu_layers,
    },
    {.model_type = {0}},
};
