/* vision.h - the vision transformers that most multimodal models carry: CLIP and SigLIP. */
#ifndef KVPROOF_CALC_FAMILIES_VISION_H
#define KVPROOF_CALC_FAMILIES_VISION_H

#include "calc/families/tower.h"

struct vision {
    uint32_t width, ffn, layers, patch, image, channels;
    bool clip; /* a class token, a norm before the layers, no bias on the patches (CLIP); else SigLIP */
};

/* hidden_size, intermediate_size, ... of the object under `key` over what `v` holds. *found false: no object. */
kvp_err vision_read(struct kvp_reader *r, const char *key, struct vision *v, bool *found);
/* Patches, positions and layers; the norm after them is the caller's. */
kvp_err vision_vit(struct kvp_reader *r, const struct vision *v);
/* `n` layers of biased q, k, v, o, a plain biased feed-forward and two LayerNorms. */
kvp_err vision_layers(struct kvp_reader *r, uint32_t width, uint32_t ffn, uint32_t n);
kvp_err vision_norm(struct kvp_reader *r, const char *name, uint32_t width, uint32_t n); /* LayerNorm */
/* Qwen3-VL's, under vision_config: patches in space and time, a merger after the layers and after some of them. */
kvp_err vision_qwen3_vl(struct kvp_reader *r);
/* n linears with biases */
kvp_err vision_linear(struct kvp_reader *r, const char *name, uint32_t rows, uint32_t cols, uint32_t n);

#endif
