/* spec.h - a parsed technique stack: what the user asked for, defaults filled in, nothing computed.
 * "h2o:heavy_ratio=0.1" stays 0.1 here; calc and the engine each turn it into tokens themselves. */
#ifndef KVPROOF_SPEC_H
#define KVPROOF_SPEC_H

#include <kvproof/error.h>
#include <kvproof/names.h>

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_MAX_PARAMS 12

enum kvp_param_kind { KVP_PARAM_INT, KVP_PARAM_RATIO, KVP_PARAM_FORMAT, KVP_PARAM_WORD };

struct kvp_param {
    const char *key; /* points into the technique's own table: lives for ever */
    enum kvp_param_kind kind;
    bool given;      /* the user wrote it; false: the table's default */
    int64_t i;       /* INT; WORD: its number in the table */
    double r;        /* RATIO */
    enum kvp_format f; /* FORMAT */
    const char *word;  /* WORD: points into the technique's own table */
};

struct kvp_spec {
    const char *name; /* points into the technique's own table */
    enum kvp_axis axis;
    uint32_t n_params;
    struct kvp_param params[KVP_MAX_PARAMS];
};

/* At most one technique per axis, in the axes' order whatever the order on the command line. */
struct kvp_stack {
    uint32_t n;
    struct kvp_spec spec[KVP_AXES];
};

/* Add "NAME[:value][,key=value...]" (`window:1024`, `kivi:bits=2,group=32`, `paged`). "dense" adds
 * nothing. KVP_EINPUT: unknown technique, key or value, a value out of its range, or an axis that
 * is already taken. Numbers take k, M, G (powers of 1024). Parsing knows the techniques' parameter
 * tables only; whether a stack suits a model is kvp_stack_check() (kvproof.h).
 * Implemented in calc/spec.c. */
kvp_err kvp_stack_add(struct kvp_stack *s, const char *text, struct kvp_error *e);

/* The canonical text of a spec or a stack, every parameter written; "dense" for an empty stack.
 * Always terminated; truncated to `n` bytes. */
void kvp_spec_text(const struct kvp_spec *s, char *buf, size_t n);
void kvp_stack_text(const struct kvp_stack *s, char *buf, size_t n);

/* The spec on `axis`, or NULL. */
static inline const struct kvp_spec *kvp_stack_on(const struct kvp_stack *s, enum kvp_axis axis)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->spec[i].axis == axis)
            return &s->spec[i];
    return NULL;
}

/* The parameter `key`; NULL if the technique has none of that name. */
static inline const struct kvp_param *kvp_spec_param(const struct kvp_spec *s, const char *key)
{
    for (uint32_t i = 0; i < s->n_params; i++)
        if (strcmp(s->params[i].key, key) == 0)
            return &s->params[i];
    return NULL;
}

#ifdef __cplusplus
}
#endif
#endif
