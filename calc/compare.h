/* compare.h - every technique on one model and workload, side by side, and from where each begins to pay. */
#ifndef KVPROOF_CALC_COMPARE_H
#define KVPROOF_CALC_COMPARE_H

#include <kvproof/kvproof.h>

#include <stdio.h>

struct compare {
    const struct kvp_model *model;
    const struct kvp_stack *base;      /* what every row has beside its technique; mostly empty */
    const struct kvp_options *options;
    const struct kvp_device *device;   /* or NULL */
    struct kvp_workload workload;      /* resolved */
};

/* From where on something holds up to the horizon: exact, by search. */
struct compare_from {
    bool asked;         /* false: there is no device to time it on */
    bool never, always;
    uint64_t from;
};

struct compare_row {
    char technique[256];
    char reason[256]; /* not applicable, and why; "" when the numbers are there */
    struct kvp_point point;
    uint64_t max_context, max_batch; /* on the device */
    /* Cache (metadata included) and state are fewer bytes than without the technique; a decode step is
     * quicker. At the given batch by context, at the given context by batch. */
    struct compare_from bytes_context, time_context, bytes_batch, time_batch;
};

struct comparison {
    uint64_t horizon_context, horizon_batch; /* how far the searches look */
    struct kvp_point base;
    uint32_t n;
    struct compare_row *row; /* owned; the first is the baseline */
};

kvp_err compare_all(struct comparison *out, const struct compare *q, struct kvp_error *e);
void compare_free(struct comparison *c);
kvp_err compare_print(FILE *f, const char *format, const struct compare *q, const struct comparison *c, struct kvp_error *e);

#endif
