/* select.h - what the techniques of the select axis share.
 *
 * They act on full attention: a layer whose own window or chunk is shorter than the context keeps its ring,
 * as kvpress skips the sliding layers of Gemma 3 (NVIDIA/kvpress presses/base_press.py). An MLA latent belongs to all
 * heads, so there a technique keeps one set a layer, not one a head. */
#ifndef KVPROOF_CALC_SELECT_H
#define KVPROOF_CALC_SELECT_H

#include "calc/technique.h"

/* Do the class's queries see the whole context; and has it rows of its own to choose from? */
bool select_sees_all(const struct plan *p, const struct plan_class *c);
bool select_acts(const struct plan *p, const struct plan_class *c);

/* KVP_ENOTSUP when it has none in the whole model, with the reason. */
kvp_err select_check(const struct plan *p, const char *technique, struct kvp_error *e);

/* Heads that choose for themselves: the kv heads, or 1 with MLA; `query`: one for every query head. */
uint64_t select_heads(const struct plan_class *c);

/* Elements of a token's rows in one layer, as stored, and their bytes. */
uint64_t select_row(bool *over, const struct plan_class *c);
uint64_t select_row_bytes(bool *over, const struct plan_class *c);

/* At most `slots` tokens from now on; those not read include the newest when `evicts_last`. */
void select_ring(struct plan_class *c, uint64_t slots, bool evicts_last);

/* `kept` tokens of the prompt, chosen once, and all that are generated. */
void select_keep(struct plan *p, struct plan_class *c, uint64_t kept);

/* Layers that it acts on, before they are divided; and select_keep() for each of them: budget(rule, l) tokens of the
 * prompt in the l-th. Layers without rows of their own follow the owner below them. Divides the plan's classes. */
uint64_t select_layers(const struct plan *p);
kvp_err select_budgets(struct plan *p, uint64_t (*budget)(const void *rule, uint64_t l), const void *rule, struct kvp_error *e);

/* Choosing by the attention of the prompt's last `window` queries (SnapKV and its kin). */
struct select_window {
    const char *technique;
    uint64_t window, kernel;
    bool average; /* pooling: the mean; else the maximum */
    bool query;   /* k and v are stored for every query head */
};
enum { SELECT_WINDOW_PARAMS = 4 };
#define SELECT_WINDOW_TABLE(w, k, p)                                                                        \
    {.key = "window", .kind = KVP_PARAM_INT, .i = (w), .min = 1, .max = INT64_MAX},                         \
        {.key = "kernel", .kind = KVP_PARAM_INT, .i = (k), .min = 1, .max = 1 << 20},                       \
        {.key = "pooling", .kind = KVP_PARAM_WORD, .i = (p), .words = select_pooling},                      \
    {.key = "heads", .kind = KVP_PARAM_WORD, .words = select_granularity}
extern const char *const select_pooling[], *const select_granularity[];

/* Reads those parameters, refuses what does not suit the model, and stores query heads when asked to. */
kvp_err select_window_open(struct select_window *out, struct plan *p, const struct kvp_spec *s, struct kvp_error *e);
/* KVP_EINPUT unless the capacity is more than the window. */
kvp_err select_window_cap(const struct select_window *w, uint64_t cap, struct kvp_error *e);
/* Scratch for the classes it acts on, once their laws are set. */
void select_window_scratch(struct plan *p);
/* The work of the choice, in prefill. */
void select_window_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s);
/* Parameters that bite: a quarter of the prompt. */
void select_window_example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n);

#endif
