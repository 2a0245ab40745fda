/* sweep.h - the product of lists of workloads, over models. */
#ifndef KVPROOF_CALC_SWEEP_H
#define KVPROOF_CALC_SWEEP_H

#include <kvproof/kvproof.h>

#include <stdio.h>

/* As llama-bench takes them: `1k,4k`, `512-4096` (one by one), `1-64+1`, `1k-128k*2`, and lists of those. */
struct sweep_list {
    uint64_t *v; /* owned; free() */
    size_t n;
};
kvp_err sweep_list_parse(struct sweep_list *out, const char *flag, const char *text, uint64_t least, struct kvp_error *e);

struct sweep {
    const struct kvp_stack *stack;
    const struct kvp_options *options;
    const struct kvp_device *device; /* or NULL */
    struct sweep_list context, prompt, generate, batch; /* empty: not given */
    const char *format;
};

/* Rows of all models, one after the other: the batch changes slowest, the context fastest. A point that is
 * refused is a row that says why; KVP_E... of the first when all are, and nothing is written then. Rows are
 * written while they come. */
kvp_err sweep_print(FILE *f, const struct sweep *s, const struct kvp_model *models, size_t n, struct kvp_error *e);

#endif
