/* tensors.h - a growing list of tensors; bytes are counted here and nowhere else. */
#ifndef KVPROOF_CALC_TENSORS_H
#define KVPROOF_CALC_TENSORS_H

#include <kvproof/kvproof.h>

struct tensors {
    struct kvp_tensor *v; /* owned; free() */
    uint32_t n, cap;
    bool over, oom; /* checked once, by tensors_err() */
    bool totals;    /* no list: only the bytes of each tag, for callers that want no tensor by name */
    uint64_t sum[KVP_TAG_WORKSPACE + 1];
};

enum { WHOLE_MODEL = UINT32_MAX };

/* Bytes of a row of `elements`, rounded up to whole blocks (bytes, or blocks with their scales). */
uint64_t format_bytes(bool *over, enum kvp_format f, uint64_t elements);
uint32_t format_block(enum kvp_format f); /* elements that are stored together; 1 for plain ones */
uint32_t format_bits(enum kvp_format f);  /* per element, rounded down where scales make it a fraction */

/* Add `count` tensors of this shape (`dims` numbers follow). An empty one is left out. */
void tensors_add(struct tensors *t, const char *name, enum kvp_tag tag, uint32_t cls, uint64_t count,
                 enum kvp_format f, uint32_t dims, const uint64_t *shape);
#define TENSOR(t, name, tag, cls, count, f, ...)                                                      \
    tensors_add((t), (name), (tag), (cls), (count), (f),                                              \
                (uint32_t)(sizeof((const uint64_t[]){__VA_ARGS__}) / sizeof(uint64_t)), (const uint64_t[]){__VA_ARGS__})

uint64_t tensors_sum(struct tensors *t, enum kvp_tag tag);
uint64_t tensors_elements(struct tensors *t, enum kvp_tag tag);
kvp_err tensors_err(const struct tensors *t, struct kvp_error *e);

/* Upper bounds of what passes through: activations (f32, whole prompt in one pass, the feed-forward in
 * blocks of 1024 rows, logits in blocks of 64) and kernels' scratch. `logit_rows`: rows of the prompt
 * whose logits are wanted. */
void activation_tensors(struct tensors *t, const struct kvp_model *m, uint64_t batch, uint64_t prompt, uint64_t encoder_tokens, uint64_t logit_rows);
void workspace_tensors(struct tensors *t, const struct kvp_model *m, enum kvp_format weights);

#endif
