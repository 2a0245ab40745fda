/* exaone.c - EXAONE 3 (num_layers, layer_norm_epsilon) and 4 (norms after the parts; of a hybrid only the
 * sliding layers rotate). Sources: modeling_exaone.py beside LGAI-EXAONE/EXAONE-3.0-7.8B-Instruct;
 * configuration_ and modeling_exaone4.py of huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"

#include <string.h>

static const struct kvp_rule exaone_rules[] = {
    {"layer_norm_epsilon", KVP_KEY_ANY, "read: the norm's epsilon"},
    {0},
};
static const struct kvp_rule exaone4_rules[] = {
    {"sliding_window_pattern", KVP_KEY_ANY, "read where layer_types is absent: a number, or letters of which G is global"},
    {0},
};

/* Is layer i one that sees all keys? Without a pattern that can be read: every 4th, and the last. */
static kvp_err is_global(const struct kvp_reader *r, uint32_t i, bool *global)
{
    const json_t *v = kvp_json_get(&r->j, "sliding_window_pattern");
    uint32_t every = 4;

    if (json_is_string(v) && json_string_length(v)) {
        *global = json_string_value(v)[i % json_string_length(v)] == 'G' || i + 1 == r->m->layers;
        return KVP_OK;
    }
    KVP_TRY(kvp_read_count(r, "sliding_window_pattern", &every));
    *global = !every || (i + 1) % every == 0 || i + 1 == r->m->layers;
    return KVP_OK;
}

static kvp_err exaone4_layers(struct kvp_reader *r)
{
    const bool types = kvp_json_get(&r->j, "layer_types") != NULL;
    const bool hybrid = kvp_json_get(&r->j, "sliding_window") != NULL;

    r->m->numbers.norms_after = r->m->numbers.norms_only_after = true;
    for (uint32_t i = 0; i < r->m->layers; i++) {
        bool global = !r->layer[i].window;

        if (hybrid && !types)
            KVP_TRY(is_global(r, i, &global));
        if (global)
            r->layer[i].window = 0;
        r->layer[i].no_rope = hybrid && global;
    }
    return KVP_OK;
}

const struct kvp_dialect family_exaone[] = {
    {
        .model_type = {"exaone"},
        .rules = {exaone_rules},
        .architectures = {"ExaoneForCausalLM"},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_layers", "num_hidden_layers"},
                [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_HEAD_DIM] = {"head_dim"},
                [KVP_SIZE_FFN] = {"intermediate_size"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .absent = {[KVP_SIZE_POSITIONS] = 2048}, .ffn_per_width = 4,
        .act_key = "activation_function", .act = "silu", .eps_key = "layer_norm_epsilon", .eps = 1e-6,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
    },
    {
        .model_type = {"exaone4"},
        .rules = {exaone4_rules, kvp_rules_llama},
        .architectures = {"Exaone4ForCausalLM", "Exaone4Model"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 2048},
        .bias = KVP_BIAS_NONE, .qk_norm = true, .window = KVP_WINDOW_EVERY, .layers = exaone4_layers,
    },
    {.model_type = {0}},
};
