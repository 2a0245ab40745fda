/* mllama.c - Llama 3.2 Vision: layers named by cross_attention_layers read the vision tower's output instead of
 * the text; they are among num_hidden_layers. Source: configuration_ and modeling_mllama.py of
 * huggingface/transformers. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/vision.h"

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

struct mllama_tower {
    uint32_t width, ffn, layers, global, image, patch, channels, tiles, ratios, out;
};

static kvp_err read_tower(const struct kvp_reader *v, struct mllama_tower *t)
{
    const json_t *ratios = kvp_json_get(&v->j, "supported_aspect_ratios");

    *t = (struct mllama_tower){1280, 5120, 32, 8, 448, 14, 3, 4, ratios ? (uint32_t)json_array_size(ratios) : 8, 7680};
    KVP_TRY(kvp_read_count(v, "hidden_size", &t->width));
    KVP_TRY(kvp_read_count(v, "intermediate_size", &t->ffn));
    KVP_TRY(kvp_read_count(v, "num_hidden_layers", &t->layers));
    KVP_TRY(kvp_read_count(v, "num_global_layers", &t->global));
    KVP_TRY(kvp_read_count(v, "image_size", &t->image));
    KVP_TRY(kvp_read_count(v, "patch_size", &t->patch));
    KVP_TRY(kvp_read_count(v, "num_channels", &t->channels));
    KVP_TRY(kvp_read_count(v, "max_num_tiles", &t->tiles));
    KVP_TRY(kvp_read_count(v, "vision_output_dim", &t->out));
    if (!t->patch || t->image > 1 << 16 || t->image / t->patch > 4096 || t->tiles > 1 << 10 || t->width > 1 << 16 || t->patch > 1 << 10 ||
        t->channels > 64 || t->layers > 1 << 12 || t->global > 1 << 12)
        return kvp_key_fail(v, KVP_EINPUT, "vision_config", "image_size, patch_size, max_num_tiles or another size is absurd");
    return KVP_OK;
}

/* Layers as CLIP's, without biases in attention; the global ones have a gate on either branch. */
static kvp_err add_layers(struct kvp_reader *r, const struct mllama_tower *t)
{
    const uint32_t n = t->layers + t->global;

    KVP_TRY(tower_add(r, "tower.attn", t->width, t->width, 4 * n));
    KVP_TRY(vision_linear(r, "tower.fc1", t->ffn, t->width, n));
    KVP_TRY(vision_linear(r, "tower.fc2", t->width, t->ffn, n));
    KVP_TRY(vision_norm(r, "tower.norms", t->width, 2 * n));
    return tower_add(r, "tower.gates", 1, 1, 2 * t->global);
}

/* A table for every aspect ratio and for none: of the tiles before and after the layers, and of their patches. */
static kvp_err add_positions(struct kvp_reader *r, const struct mllama_tower *t, uint64_t patches)
{
    const uint64_t tile = patches * t->width * t->tiles;

    if (tile > UINT32_MAX)
        return kvp_key_fail(r, KVP_EINPUT, "vision_config", "a table of positions is absurd");
    KVP_TRY(tower_add(r, "tower.positions", (uint32_t)patches, t->width, 1));
    KVP_TRY(tower_add(r, "tower.tile_positions", t->ratios + 1, (uint32_t)tile, 1));
    KVP_TRY(tower_add(r, "tower.tiles", t->ratios + 1, t->tiles * t->width, 2));
    return tower_add(r, "tower.gates", 1, 1, 3);
}

/* The whole tower; a decoder's layer sees max_num_tiles tiles of (image / patch)^2 patches and a class token. */
static kvp_err add_tower(struct kvp_reader *r)
{
    struct mllama_tower t;
    struct kvp_reader v;
    uint64_t patches;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(read_tower(&v, &t));
    patches = (uint64_t)(t.image / t.patch) * (t.image / t.patch) + 1;
    r->m->encoder_positions = patches * t.tiles;
    KVP_TRY(tower_add(r, "tower.class", t.width, 1, 1));
    KVP_TRY(tower_add(r, "tower.patches", t.width, t.channels * t.patch * t.patch, 1));
    KVP_TRY(add_positions(r, &t, patches));
    KVP_TRY(vision_norm(r, "tower.norms_around", t.width, 2));
    KVP_TRY(add_layers(r, &t));
    return vision_linear(r, "projector", r->m->width, t.out, 1);
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
    return add_tower(r);
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
