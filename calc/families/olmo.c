/* olmo.c - OLMo 1 (norms without weights), 2 (norms after the blocks, wide norms on q and k), 3 (three of four
 * layers slide). Sources: configuration_ and modeling_{olmo,olmo2,olmo3}.py in huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"

static const struct kvp_rule olmo_rules[] = {
    {"clip_qkv", KVP_KEY_ANY, "limits values; no size"},
    {0},
};

static kvp_err olmo_layers(struct kvp_reader *r)
{
    r->m->norm_vectors = 0;
    r->m->norm = KVP_NORM_LAYER;
    r->m->norm_eps = 1e-5; /* whatever the config says */
    if (kvp_json_get(&r->j, "clip_qkv"))
        kvp_cannot_run(r->m, "q, k and v are clipped");
    return KVP_OK;
}

static kvp_err olmo2_layers(struct kvp_reader *r)
{
    r->proto.qk_norm = r->proto.qk_norm_wide = true;
    kvp_spread(r);
    r->m->numbers.norms_after = r->m->numbers.norms_only_after = true;
    return KVP_OK;
}

static kvp_err olmo3_layers(struct kvp_reader *r)
{
    KVP_TRY(olmo2_layers(r));
    return kvp_read_slides(r, 4096, 4);
}

#define OLMO .rules = {olmo_rules, kvp_rules_llama, kvp_rules_layer_norm}, LLAMA_LIKE, .absent = {[KVP_SIZE_POSITIONS] = 2048}, .bias = KVP_BIAS_ATTN

const struct kvp_dialect family_olmo[] = {
    {.model_type = {"olmo"}, .architectures = {"OlmoForCausalLM"}, OLMO, .layers = olmo_layers},
    {.model_type = {"olmo2"}, .architectures = {"Olmo2ForCausalLM"}, OLMO, .layers = olmo2_layers},
    {.model_type = {"olmo3"}, .architectures = {"Olmo3ForCausalLM"}, OLMO, .window = KVP_WINDOW_HOOK, .layers = olmo3_layers},
    {.model_type = {0}},
};
