/* hybrid.h - what families with recurrences share: reading Mamba's sizes in each dialect, and turning the
 * prototype layer into one without attention or without a feed-forward. */
#ifndef KVPROOF_CALC_HYBRID_H
#define KVPROOF_CALC_HYBRID_H

#include "calc/family.h"

enum { KVP_MAMBA_SPELLINGS = 3 };

/* Spellings of Mamba-2's sizes, first hit wins, and the class defaults (0: none). */
struct kvp_mamba_size {
    const char *key[KVP_MAMBA_SPELLINGS];
    uint32_t absent;
};
struct kvp_mamba_keys {
    struct kvp_mamba_size state, conv, expand, heads, head_dim, groups, inner;
    const char *conv_bias, *bias; /* flags; absent: a bias of the convolution, none of the projections */
};

/* Fill a class with Mamba-2. inner is its key, else heads * head_dim, else expand * width; a head count or
 * a head size that is absent (or "auto") follows from the other one. KVP_EINPUT when they disagree. */
kvp_err kvp_read_mamba2(const struct kvp_reader *r, const struct kvp_mamba_keys *k, struct kvp_layer_class *c);

/* a * b, at most 2^24 channels; KVP_EINPUT naming the key else. */
kvp_err kvp_channels(const struct kvp_reader *r, const char *key, uint32_t a, uint32_t b, uint32_t *out);

/* Mamba-1's time step rank under `key`: a number, or "auto" and absent: ceil(width / 16). */
kvp_err kvp_read_dt_rank(const struct kvp_reader *r, const char *key, uint32_t *out);

/* What the config says recurrent matrices are stored in, under `key`, into r->m->state. */
kvp_err kvp_read_state_dtype(const struct kvp_reader *r, const char *key);

/* A matrix of the tower, `n` times, and its bias; cols 1: a vector. */
kvp_err kvp_tower_add(const struct kvp_reader *r, const char *name, uint64_t rows, uint64_t cols, uint64_t n, bool bias);

void kvp_drop_attention(struct kvp_layer_class *c);
void kvp_drop_ffn(struct kvp_layer_class *c);

/* The i-th string of a list, "" when it is none. */
const char *kvp_word_at(const json_t *list, uint32_t i);

/* What lists call a Mamba layer ("mamba", "linear_attention" in files of Transformers 5) and one that attends. */
bool kvp_is_mamba(const char *word);
bool kvp_is_attention(const char *word);

/* Is the number i in the list? */
bool kvp_list_has(const json_t *list, uint32_t i);

/* KVP_ENOTSUP: layer i of the list under `key` is of an unknown kind. */
kvp_err kvp_layer_kind_fail(const struct kvp_reader *r, const char *key, uint32_t i, const char *word, const char *known);

#endif
