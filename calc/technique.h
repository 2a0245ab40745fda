/* technique.h - a technique is data and a few optional hooks. One file in calc/techniques/, one row in
 * techniques/table.c; no other file names it (but the composition table, pairs.c, which is names). */
#ifndef KVPROOF_CALC_TECHNIQUE_H
#define KVPROOF_CALC_TECHNIQUE_H

#include "calc/ops.h"
#include "calc/plan.h"

#include <kvproof/kvproof.h>

/* One parameter: `key=value`, or the plain value after the colon when positional. */
struct tech_param {
    const char *key;
    enum kvp_param_kind kind;
    bool positional;
    bool no_default;      /* absent unless given: something else decides then */
    const char *excludes; /* giving both is an error; giving this one switches that one off */
    int64_t i, min, max;  /* INT: default and range */
    double r, r_min, r_max; /* RATIO */
    enum kvp_format f;    /* FORMAT: default */
    unsigned formats;     /* FORMAT: allowed, 1 << format */
    const char *const *words; /* WORD: allowed, closed by NULL; `i` is the default's number */
};

struct technique {
    struct kvp_technique_info info;
    bool baseline; /* what an empty stack is; adds nothing to a stack */
    uint32_t n_params;
    struct tech_param params[KVP_MAX_PARAMS];
    /* (optional) Parameters that bite on this model at this workload, as the text after "NAME:"; empty:
     * the defaults do. NULL: they always do. */
    void (*example)(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n);
    /* (optional) What else `validate --all` has a row for, as the texts after "NAME:", closed by NULL. */
    const char *const *variants;
    /* (optional) The model itself: GQA's projections, LoRC's factors. `m` is a copy; to change layers, edit
     * a list of them and kvp_model_group() it. */
    kvp_err (*model_rewrite)(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e);
    /* (optional) How weights are stored, p->weights; and p->chunk. Before any cache_rewrite. */
    kvp_err (*store_rewrite)(struct plan *p, const struct kvp_spec *s, struct kvp_error *e);
    /* (optional) What a layer keeps: rewrite the plan, in the axes' order. Says here, too, what it
     * cannot do with this model, workload or parameters. `s` is NULL for the baseline. */
    kvp_err (*cache_rewrite)(struct plan *p, const struct kvp_spec *s, struct kvp_error *e);
    /* (optional) Work that no tensor shows, of one layer class in one phase; called when the attention
     * ops of the class are listed and the output projection is not. */
    void (*extra_ops)(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase);
};

/* NULL past the end; NULL when there is none of that name. */
const struct technique *technique_at(uint32_t i);
const struct technique *technique_find(const char *name, size_t len);

/* The value of an INT parameter of the technique's own table. */
uint64_t spec_int(const struct kvp_spec *s, const char *key);

/* What the composition table says of two techniques, in either order; read it before the next call. NULL:
 * one of them is not a technique that composes. */
const struct kvp_pair *pair_find(const char *a, const char *b);

#endif
