/* vision.c - models that see, by their text part: LLaVA, Llama 3.2 Vision, Fuyu, Molmo, MiniCPM-V; and those
 * whose layers hold what this count does not know. Sources: configuration_{llava,mllama,fuyu,persimmon}.py and
 * the modelling files beside them in huggingface/transformers; llava_llama.py of haotian-liu/LLaVA;
 * modeling_molmo.py of allenai/Molmo-7B-D-0924; resampler.py of openbmb/MiniCPM-V-2. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/tower.h"

#include <string.h>

/* ---- LLaVA ------------------------------------------------------------------------------------------- */

/* The projector of two layers; CLIP itself lives in another repository. */
static kvp_err llava_tower(struct kvp_reader *r)
{
    uint32_t in = 0;
    const struct kvp_reader top = {.j = r->top, .m = r->m};

    KVP_TRY(kvp_read_count(&top, "mm_hidden_size", &in));
    KVP_TRY(tower_add(r, "projector_1", r->m->width, in, 1));
    KVP_TRY(tower_add(r, "projector_2", r->m->width, r->m->width, in ? 1 : 0));
    return tower_add(r, "projector_bias", r->m->width, 1, in ? 2 : 0);
}

static const struct kvp_rule llava_rules[] = {
    {"mm_hidden_size", KVP_KEY_ANY, "read: the projector's input"},
    {"mm_vision_select_layer", KVP_KEY_ANY, "which of the tower's layers is used"},
    {"vision_feature_layer", KVP_KEY_ANY, "which of the tower's layers is used"},
    {"projector_hidden_act", KVP_KEY_ANY, "the projector's activation"},
    {0},
};

/* ---- Llama 3.2 Vision -------------------------------------------------------------------------------- */

/* Some layers have cross-attention over the picture instead of self-attention: norms of q and k over a head,
 * and two gates. The embedding has eight rows more than the head. */
static kvp_err mllama_layers(struct kvp_reader *r)
{
    const json_t *list = kvp_json_get(&r->j, "cross_attention_layers"), *v;
    size_t i;

    json_array_foreach(list, i, v) {
        struct kvp_layer_class *c;

        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= r->m->layers)
            return kvp_key_fail(r, KVP_EINPUT, "cross_attention_layers", "expected numbers of layers");
        c = &r->layer[json_integer_value(v)];
        c->cross_heads = r->proto.heads;
        c->cross_kv_heads = r->proto.kv_heads;
        c->cross_head_dim = r->proto.head_dim;
        c->mixer = KVP_MIX_NONE;
        c->heads = c->kv_heads = c->head_dim = c->v_head_dim = 0;
        KVP_TRY(kvp_add_extra(r, c->extra, "cross_qk_norm", r->proto.head_dim, 1, 2, false));
        KVP_TRY(kvp_add_extra(r, c->extra, "cross_gates", 1, 1, 2, false));
    }
    r->m->head_rows = r->m->vocab;
    r->m->vocab += 8;
    snprintf(r->m->not_run, sizeof(r->m->not_run), "cross-attention over a picture");
    return KVP_OK;
}

/* A picture's tokens: a class token and the patches, of each tile. */
static kvp_err mllama_tower(struct kvp_reader *r)
{
    struct kvp_reader v;
    uint32_t image = 560, patch = 14, tiles = 4;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_read_count(&v, "image_size", &image));
    KVP_TRY(kvp_read_count(&v, "patch_size", &patch));
    KVP_TRY(kvp_read_count(&v, "max_num_tiles", &tiles));
    if (!patch || patch > image)
        return kvp_key_fail(&v, KVP_EINPUT, "patch_size", "expected a part of image_size");
    r->m->encoder_positions = (uint64_t)tiles * ((uint64_t)(image / patch) * (image / patch) + 1);
    return KVP_OK;
}

static const struct kvp_rule mllama_rules[] = {
    {"cross_attention_layers", KVP_KEY_ANY, "read: which layers see the picture"},
    {0},
};

/* ---- Fuyu -------------------------------------------------------------------------------------------- */

/* Everything has a bias; q and k have a LayerNorm over a head. */
static kvp_err persimmon_layers(struct kvp_reader *r)
{
    bool qk = true;

    KVP_TRY(kvp_read_flag(r, "qk_layernorm", &qk));
    for (uint32_t i = 0; i < r->m->layers && qk; i++)
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "qk_norm", r->proto.head_dim, 1, 4, false));
    snprintf(r->m->not_run, sizeof(r->m->not_run), "norms of q and k with biases, half of a head rotated");
    return KVP_OK;
}

static kvp_err fuyu_tower(struct kvp_reader *r)
{
    const struct kvp_reader top = {.j = r->top, .m = r->m};
    uint32_t patch = 30, channels = 3;

    KVP_TRY(kvp_read_count(&top, "patch_size", &patch));
    KVP_TRY(kvp_read_count(&top, "num_channels", &channels));
    KVP_TRY(tower_add(r, "vision_embed_tokens", r->m->width, patch * patch * channels, 1));
    return tower_add(r, "vision_embed_tokens_bias", r->m->width, 1, 1);
}

static const struct kvp_rule persimmon_rules[] = {
    {"qk_layernorm", KVP_KEY_ANY, "read: norms of q and k"},
    {"hidden_dropout", KVP_KEY_ANY, "training only"},
    {0},
};

/* ---- Molmo ------------------------------------------------------------------------------------------- */

/* intermediate_size counts gate and up together; 128 more embedding rows stand in a tensor of their own. */
static kvp_err molmo_layers(struct kvp_reader *r)
{
    bool bias = true, after = false, norm = false;
    uint32_t more = 128;

    KVP_TRY(kvp_read_flag(r, "qkv_bias", &bias));
    KVP_TRY(kvp_read_flag(r, "norm_after", &after));
    KVP_TRY(kvp_read_flag(r, "attention_layer_norm", &norm));
    KVP_TRY(kvp_read_count(r, "additional_vocab_size", &more));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        r->layer[i].ffn_width /= 2;
        r->layer[i].qkv_bias = bias;
        r->layer[i].qk_norm = r->layer[i].qk_norm_wide = norm;
    }
    if (after)
        snprintf(r->m->not_run, sizeof(r->m->not_run), "norms after attention and after the feed-forward");
    return kvp_add_extra(r, r->m->extra, "new_embedding", more, r->m->width, 1, false);
}

/* CLIP ViT-L/14 at 336 pixels without its last layer, two of whose layers a pooling attention reads; a gated
 * projector of the text's feed-forward width. The config says none of these sizes: they are the class's. */
static kvp_err molmo_tower(struct kvp_reader *r)
{
    enum { D = 1024, F = 4096, L = 23, PATCH = 588, POSITIONS = 577 };
    const uint32_t wide = r->proto.ffn_width / 2;

    KVP_TRY(tower_add(r, "vision_patch", D, PATCH, 1));
    KVP_TRY(tower_add(r, "vision_positions", POSITIONS, D, 1));
    KVP_TRY(tower_add(r, "vision_attention", D, D, 4 * L));
    KVP_TRY(tower_add(r, "vision_mlp", D, F, 2 * L));
    KVP_TRY(tower_add(r, "vision_mlp_bias", F, 1, L));
    KVP_TRY(tower_add(r, "vision_vectors", D, 1, 9 * L + 3));
    KVP_TRY(tower_add(r, "pooling_qkv", D, 2 * D, 3));
    KVP_TRY(tower_add(r, "pooling_o", D, D, 1));
    KVP_TRY(tower_add(r, "pooling_bias", D, 1, 4));
    KVP_TRY(tower_add(r, "pad_embed", 2, 2 * D, 1));
    KVP_TRY(tower_add(r, "projector_up", wide, D, 2));
    return tower_add(r, "projector_down", r->m->width, wide, 1);
}

static const struct kvp_rule molmo_rules[] = {
    {"attention_layer_norm", KVP_KEY_ANY, "read: norms of q and k"},
    {"layer_norm_type", KVP_KEY_ANY, "rms in every published one"},
    {"embedding_size", KVP_KEY_ANY, "read: the embedding's rows"},
    {"layer_norm_eps", KVP_KEY_ANY, "the norm's epsilon"},
    {0},
};

/* ---- MiniCPM ----------------------------------------------------------------------------------------- */

static kvp_err minicpm_layers(struct kvp_reader *r)
{
    snprintf(r->m->not_run, sizeof(r->m->not_run), "embedding, residual and logits are scaled");
    return KVP_OK;
}

/* SigLIP so400m at 384 pixels of patches of 14 (27 positions a side), without its last layer; a resampler of
 * learned queries. The config says the number of queries only. */
static kvp_err minicpmv_tower(struct kvp_reader *r)
{
    enum { D = 1152, F = 4304, PATCH = 588, POSITIONS = 27 * 27 };
    const struct kvp_reader top = {.j = r->top, .m = r->m};
    uint32_t queries = 64, L = 27;
    const uint32_t W = r->m->width;
    bool drop = true;

    KVP_TRY(kvp_read_count(&top, "query_num", &queries));
    KVP_TRY(kvp_read_flag(&top, "drop_vision_last_layer", &drop));
    L -= drop;
    KVP_TRY(tower_add(r, "vision_patch", D, PATCH, 1));
    KVP_TRY(tower_add(r, "vision_positions", POSITIONS, D, 1));
    KVP_TRY(tower_add(r, "vision_attention", D, D, 4 * L));
    KVP_TRY(tower_add(r, "vision_mlp", D, F, 2 * L));
    KVP_TRY(tower_add(r, "vision_mlp_bias", F, 1, L));
    KVP_TRY(tower_add(r, "vision_vectors", D, 1, 9 * L + 3));
    KVP_TRY(tower_add(r, "resampler_queries", queries, W, 2));
    KVP_TRY(tower_add(r, "resampler_kv", W, D, 1));
    KVP_TRY(tower_add(r, "resampler", W, W, 5));
    return tower_add(r, "resampler_vectors", W, 1, 10);
}

/* Latent attention; a value head is width / heads wide. */
static kvp_err minicpm3_layers(struct kvp_reader *r)
{
    struct kvp_layer_class c = r->proto;
    uint32_t heads = 0;

    KVP_TRY(kvp_need_count(r, "num_attention_heads", &heads));
    KVP_TRY(kvp_need_count(r, "kv_lora_rank", &c.kv_rank));
    KVP_TRY(kvp_need_count(r, "qk_rope_head_dim", &c.rope_dim));
    KVP_TRY(kvp_need_count(r, "qk_nope_head_dim", &c.nope_dim));
    KVP_TRY(kvp_read_count(r, "q_lora_rank", &c.q_rank));
    if (r->m->width % heads)
        return kvp_key_fail(r, KVP_EINPUT, "num_attention_heads", "expected a divisor of hidden_size");
    c.v_head_dim = r->m->width / heads;
    KVP_TRY(kvp_read_count(r, "v_head_dim", &c.v_head_dim));
    c.mixer = KVP_MIX_MLA;
    c.heads = heads;
    c.head_dim = c.nope_dim + c.rope_dim;
    for (uint32_t i = 0; i < r->m->layers; i++)
        memcpy(&r->layer[i], &c, sizeof(c));
    return minicpm_layers(r);
}

static const struct kvp_rule minicpm_rules[] = {
    {"dim_model_base", KVP_KEY_ANY, "how logits are scaled"},
    {"drop_vision_last_layer", KVP_KEY_ANY, "read: the tower's layers"},
    {0},
};
static const struct kvp_rule minicpm3_rules[] = {
    {"num_attention_heads", KVP_KEY_ANY, "read: query heads"},
    {"num_key_value_heads", KVP_KEY_ANY, "the query heads again: what is cached is a latent"},
    {"kv_lora_rank", KVP_KEY_ANY, "read: the latent's width"},
    {"q_lora_rank", KVP_KEY_ANY, "read: rank of q"},
    {"qk_nope_head_dim", KVP_KEY_ANY, "read: head size"},
    {"qk_rope_head_dim", KVP_KEY_ANY, "read: the rotated part"},
    {"v_head_dim", KVP_KEY_ANY, "read: head size of v"},
    {"head_dim", KVP_KEY_ANY, "says nothing with a latent"},
    {0},
};

const struct kvp_dialect family_vision[] = {
    {.model_type = {"llava", "llava_llama"}, .architectures = {"LlavaForConditionalGeneration", "LlavaLlamaForCausalLM"},
     .nested = {"text_config"}, .inner = "llama", .rules = {llava_rules}, .tower = llava_tower,
     .fill = "{\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32,\"intermediate_size\":11008,\"vocab_size\":32000}"},
    {.model_type = {"mllama"}, .architectures = {"MllamaForConditionalGeneration"}, .nested = {"text_config"}, .inner = "mllama_text_model",
     .tower = mllama_tower},
    {.model_type = {"mllama_text_model"}, .architectures = {"MllamaForCausalLM"}, LLAMA_LIKE,
     .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 131072}, .bias = KVP_BIAS_NONE,
     .rules = {kvp_rules_llama, mllama_rules}, .layers = mllama_layers},
    {.model_type = {"fuyu"}, .architectures = {"FuyuForCausalLM"}, .inner = "persimmon", .rules = {persimmon_rules}, .tower = fuyu_tower},
    {.model_type = {"persimmon"}, .architectures = {"PersimmonForCausalLM"}, .key = LLAMA_KEYS, .absent = {[KVP_SIZE_POSITIONS] = 16384},
     .act_key = "hidden_act", .act = "relu2", .eps_key = "layer_norm_eps", .eps = 1e-5, .norm = KVP_NORM_LAYER, .position = KVP_POS_ROPE,
     .ffn = KVP_FFN_PLAIN, .bias = KVP_BIAS_ALL, .rules = {kvp_rules_llama, persimmon_rules}, .layers = persimmon_layers},
    {.model_type = {"molmo"}, .architectures = {"MolmoForCausalLM"},
     .key = {[KVP_SIZE_VOCAB] = {"embedding_size", "vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"}, [KVP_SIZE_LAYERS] = {"num_hidden_layers"},
             [KVP_SIZE_HEADS] = {"num_attention_heads"}, [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_FFN] = {"intermediate_size"},
             [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
     .act = "silu", .eps = 1e-6, .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE,
     .rules = {kvp_rules_llama, molmo_rules}, .layers = molmo_layers, .tower = molmo_tower},
    {.model_type = {"minicpmv"}, .architectures = {"MiniCPMV"}, .inner = "minicpm", .rules = {minicpm_rules}, .tower = minicpmv_tower},
    {.model_type = {"minicpm3"}, .architectures = {"MiniCPM3ForCausalLM"}, LLAMA_LIKE, .own_mixer = true, .absent = {[KVP_SIZE_POSITIONS] = 32768},
     .bias = KVP_BIAS_NONE, .tied = true, .rules = {minicpm3_rules, kvp_rules_llama, minicpm_rules}, .layers = minicpm3_layers},
    {.model_type = {"cogvlm2"}, .architectures = {"CogVLMVideoForCausalLM", "CogVLMForCausalLM"},
     .refused = "its layers hold a second set of weights for pictures, whose biases config.json does not tell"},
    {.model_type = {"infimm-zephyr", "infimm-hd"}, .refused = "gated cross-attention stands between its layers, in sizes that config.json does not tell"},
    {.model_type = {0}},
};
