/* gemma.c - Gemma 1, 2 and 3. Sources: configuration_ and modeling_{gemma,gemma2,gemma3,siglip}.py of
 * huggingface/transformers. A wrapper's text_config may leave out whatever the class has as a default. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/vision.h"

#include <math.h>

static const struct kvp_rule gemma_rules[] = {
    {"sliding_window_size", KVP_KEY_ANY, "what another loader calls sliding_window"},
    {"sliding_window_pattern", KVP_KEY_ANY, "read where layer_types is absent: every how manieth layer sees all keys"},
    {"_sliding_window_pattern", KVP_KEY_ANY, "read where layer_types is absent: every how manieth layer sees all keys"},
    {"use_bidirectional_attention", KVP_KEY_FALSE, "tokens would see later ones"},
    {0},
};

static const char *const pattern_keys[] = {"sliding_window_pattern", "_sliding_window_pattern", NULL};

static kvp_err every(struct kvp_reader *r, uint32_t pattern)
{
    KVP_TRY(kvp_read_count_of(r, pattern_keys, &pattern));
    if (!pattern)
        return kvp_key_fail(r, KVP_EINPUT, pattern_keys[0], "expected a number above 0");
    if (!kvp_json_get(&r->j, "layer_types"))
        for (uint32_t i = pattern - 1; i < r->m->layers; i += pattern)
            r->layer[i].window = 0;
    return KVP_OK;
}

/* The embedding's rows are scaled, in the checkpoint's dtype; q.k by query_pre_attn_scalar, not by the head's size. */
static kvp_err numbers(struct kvp_reader *r, double score_cap, double logit_cap, double query_scalar)
{
    struct kvp_numbers *n = &r->m->numbers;

    n->embed_scale = sqrt((double)r->m->width);
    n->norm_add_one = true;
    n->norms_after = r->d->norms == 4;
    if (query_scalar <= 0)
        return KVP_OK;
    n->score_cap = json_object_get(r->j.object, "attn_logit_softcapping") ? 0 : score_cap; /* null: not capped */
    n->logit_cap = json_object_get(r->j.object, "final_logit_softcapping") ? 0 : logit_cap;
    KVP_TRY(kvp_json_real(&r->j, "attn_logit_softcapping", &n->score_cap, NULL));
    KVP_TRY(kvp_json_real(&r->j, "final_logit_softcapping", &n->logit_cap, NULL));
    KVP_TRY(kvp_json_real(&r->j, "query_pre_attn_scalar", &query_scalar, NULL));
    n->score_scale = 1 / sqrt(query_scalar);
    return KVP_OK;
}

static kvp_err gemma1_layers(struct kvp_reader *r)
{
    return numbers(r, 0, 0, 0);
}

static kvp_err gemma2_layers(struct kvp_reader *r)
{
    KVP_TRY(numbers(r, 50, 30, 256));
    return every(r, 2);
}

static kvp_err gemma3_layers(struct kvp_reader *r)
{
    double local = 10000;

    KVP_TRY(numbers(r, 0, 0, 256));
    KVP_TRY(kvp_json_real(&r->j, "rope_local_base_freq", &local, NULL));
    if (r->m->numbers.window_theta == 0)
        r->m->numbers.window_theta = local;
    if (!kvp_json_get(&r->j, "rope_theta") && !kvp_json_get(&r->j, "rope_parameters"))
        r->m->rope_theta = 1e6;
    return every(r, 6);
}

/* SigLIP without its head, then a norm and a projection of the pooled patches. */
static kvp_err gemma3_towers(struct kvp_reader *r)
{
    struct vision v = {.width = 1152, .ffn = 4304, .layers = 27, .patch = 14, .image = 224, .channels = 3};
    bool found;

    KVP_TRY(vision_read(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(vision_vit(r, &v));
    KVP_TRY(vision_norm(r, "tower.post_layernorm", v.width, 1));
    KVP_TRY(tower_add(r, "projector.soft_emb_norm", v.width, 1, 1));
    return tower_add(r, "projector.input_projection", v.width, r->m->width, 1);
}

#define GEMMA(V, D, I, L, H, K, P)                                                                                   \
    .key = LLAMA_KEYS, .act_key = "hidden_activation", .act = "gelu_pytorch_tanh", .eps_key = "rms_norm_eps",        \
    .eps = 1e-6, .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_ATTN,        \
    .tied = true, .absent = {[KVP_SIZE_KV_HEADS] = K, [KVP_SIZE_HEAD_DIM] = 256, [KVP_SIZE_POSITIONS] = P},          \
    .nested_absent = {[KVP_SIZE_VOCAB] = V, [KVP_SIZE_WIDTH] = D, [KVP_SIZE_FFN] = I, [KVP_SIZE_LAYERS] = L, [KVP_SIZE_HEADS] = H}

const struct kvp_dialect family_gemma[] = {
    {
        .model_type = {"gemma"},
        .rules = {gemma_rules, kvp_rules_llama},
        .architectures = {"GemmaForCausalLM", "GemmaModel"},
        GEMMA(256000, 3072, 24576, 28, 16, 16, 8192), .layers = gemma1_layers,
    },
    {
        .model_type = {"gemma2"},
        .rules = {gemma_rules, kvp_rules_llama},
        .architectures = {"Gemma2ForCausalLM", "Gemma2Model"},
        GEMMA(256000, 2304, 9216, 26, 8, 4, 8192), .norms = 4,
        .window = KVP_WINDOW_EVERY, .window_absent = 4096, .layers = gemma2_layers,
    },
    {
        .model_type = {"gemma3_text"},
        .rules = {gemma_rules, kvp_rules_llama},
        .architectures = {"Gemma3ForCausalLM", "Gemma3TextModel"},
        GEMMA(262208, 2304, 9216, 26, 8, 4, 131072), .norms = 4, .qk_norm = true,
        .window = KVP_WINDOW_EVERY, .window_absent = 4096, .layers = gemma3_layers,
    },
    {
        .model_type = {"gemma3"},
        .rules = {gemma_rules},
        .architectures = {"Gemma3ForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "gemma3_text", .towers = gemma3_towers,
    },
    {.model_type = {0}},
};
