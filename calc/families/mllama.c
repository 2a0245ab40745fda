/* mllama.c - Llama 3.2 Vision: layers named by cross_attention_layers read the vision tower's output instead of
 * the text; they are among num_hidden_layers. Source: configuration_ and modeling_mllama.py of
 * huggingface/transformers. The tower's own weights are not counted. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/tower.h"

#include <string.h>

enum { MORE_ROWS = 8 }; /* of the embedding than of the head: the image token */

static const struct kvp_rule mllama_rules[] = {
    {"cross_attention_layers", KVP_KEY_ANY, "read: which layers read the tower's output"},
    {0},
};

/* Gates, norms on q and k; k and v come from the tower's output, projected to the model's width. */
static kvp_err make_cross(struct kvp_reader *r, struct kvp_layer_class *c)
{
    struct kvp_layer_class x = *c;

    x.cross_heads = c->heads;
    x.cross_kv_heads = c->kv_heads;
    x.cross_head_dim = c->head_dim;
    x.mixer = KVP_MIX_NONE;
    x.heads = x.kv_heads = x.head_dim = x.v_head_dim = 0;
    KVP_TRY(kvp_add_extra(r, x.extra, "cross_qk_norm", c->head_dim, 1, 2, false));
    KVP_TRY(kvp_add_extra(r, x.extra, "gates", 1, 1, 2, false));
    memcpy(c, &x, sizeof(x));
    return KVP_OK;
}

/* Each of max_num_tiles tiles is (image / patch)^2 patches and a class token. */
static kvp_err read_tokens(struct kvp_reader *r)
{
    struct kvp_reader v;
    uint32_t image = 448, patch = 14, tiles = 4;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(kvp_read_count(&v, "image_size", &image));
    KVP_TRY(kvp_read_count(&v, "max_num_tiles", &tiles));
    KVP_TRY(kvp_read_count(&v, "patch_size", &patch));
    if (!patch || image > 1 << 16 || tiles > 1 << 10)
        return kvp_key_fail(r, KVP_EINPUT, "vision_config", "image_size, patch_size or max_num_tiles is absurd");
    r->m->encoder_positions = ((uint64_t)(image / patch) * (image / patch) + 1) * tiles;
    return KVP_OK;
}

static kvp_err mllama_layers(struct kvp_reader *r)
{
    const json_t *list = kvp_json_get(&r->j, "cross_attention_layers"), *v;
    size_t at;

    if (!json_is_array(list))
        return kvp_key_fail(r, KVP_EINPUT, "cross_attention_layers", "expected a list of layers");
    json_array_foreach((json_t *)(uintptr_t)list, at, v) {
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= r->m->layers ||
            r->layer[json_integer_value(v)].cross_heads)
            return kvp_key_fail(r, KVP_EINPUT, "cross_attention_layers", "expected layers that the model has, each once");
        KVP_TRY(make_cross(r, &r->layer[json_integer_value(v)]));
    }
    r->m->head_rows = r->m->vocab;
    r->m->vocab += MORE_ROWS;
    return read_tokens(r);
}

const struct kvp_dialect family_mllama[] = {
    {
        .model_type = {"mllama_text_model"},
        .rules = {mllama_rules, kvp_rules_llama},
        .architectures = {"MllamaForCausalLM"},
        LLAMA_LIKE, .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_POSITIONS] = 131072}, .bias = KVP_BIAS_NONE,
        .layers = mllama_layers,
    },
    {
        .model_type = {"mllama"},
        .architectures = {"MllamaForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "mllama_text_model",
    },
    {.model_type = {0}},
};
