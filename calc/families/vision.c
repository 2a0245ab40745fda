/* vision.c - see vision.h. Sources: modeling_{clip,siglip}.py of huggingface/transformers. */
#include "calc/families/vision.h"

kvp_err vision_read(struct kvp_reader *r, const char *key, struct vision *v, bool *found)
{
    struct kvp_reader t;

    KVP_TRY(tower_open(r, key, &t, found));
    if (!*found)
        return KVP_OK;
    KVP_TRY(kvp_read_count(&t, "hidden_size", &v->width));
    KVP_TRY(kvp_read_count(&t, "intermediate_size", &v->ffn));
    KVP_TRY(kvp_read_count(&t, "num_hidden_layers", &v->layers));
    KVP_TRY(kvp_read_count(&t, "image_size", &v->image));
    KVP_TRY(kvp_read_count(&t, "num_channels", &v->channels));
    KVP_TRY(kvp_need_count(&t, "patch_size", &v->patch));
    if (v->patch > 1024 || v->channels > 1024 || v->image > 1 << 16)
        return kvp_key_fail(r, KVP_EINPUT, key, "patch_size, num_channels or image_size is absurd");
    return KVP_OK;
}

kvp_err vision_linear(struct kvp_reader *r, const char *name, uint32_t rows, uint32_t cols, uint32_t n)
{
    KVP_TRY(tower_add(r, name, rows, cols, n));
    return tower_add(r, name, rows, 1, n);
}

kvp_err vision_norm(struct kvp_reader *r, const char *name, uint32_t width, uint32_t n)
{
    return tower_add(r, name, width, 1, 2 * n);
}

kvp_err vision_layers(struct kvp_reader *r, uint32_t width, uint32_t ffn, uint32_t n)
{
    KVP_TRY(vision_linear(r, "tower.attn", width, width, 4 * n));
    KVP_TRY(vision_linear(r, "tower.fc1", ffn, width, n));
    KVP_TRY(vision_linear(r, "tower.fc2", width, ffn, n));
    return vision_norm(r, "tower.norms", width, 2 * n);
}

kvp_err vision_vit(struct kvp_reader *r, const struct vision *v)
{
    const uint32_t side = v->image / v->patch;

    KVP_TRY(tower_add(r, "tower.patches", v->width, v->channels * v->patch * v->patch, 1));
    KVP_TRY(tower_add(r, v->clip ? "tower.class" : "tower.patches", v->width, 1, 1));
    KVP_TRY(tower_add(r, "tower.positions", side * side + v->clip, v->width, 1));
    if (v->clip)
        KVP_TRY(vision_norm(r, "tower.pre_layernorm", v->width, 1));
    return vision_layers(r, v->width, v->ffn, v->layers);
}
