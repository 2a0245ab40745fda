/* point.h - one estimate, worked out again and again without allocating: the heart of kvp_estimate() and of
 * kvp_program_point(), so that the two cannot differ. */
#ifndef KVPROOF_CALC_POINT_H
#define KVPROOF_CALC_POINT_H

#include "calc/ranks.h"
#include "calc/technique.h"

/* One kind of rank (the whole model when nothing is parallel), with room that every point uses again. */
struct share {
    struct rank_kind kind;
    struct kvp_model model, stage; /* owned; zero when nothing is parallel */
    struct plan plan, whole;       /* whole: of `stage`, for what is not divided; opened with TP only */
    bool divided;
    struct tensors tensors;
    struct ops ops;
    struct kvp_point point;        /* of this rank; parameters aside */
    /* Bytes of the weights as they were last stored: they change only when a technique stores them otherwise. */
    bool weighed;
    struct store_plan stored;
    uint64_t weights_bytes;
    uint64_t file_bytes; /* not 0: the weights are as the checkpoint's headers say */
};

struct kvp_program {
    const struct kvp_options *o;
    const struct kvp_device *device;
    enum kvp_format weights, kv;
    struct plan rewritten; /* opened: its model is the one that the stack makes */
    uint64_t parameters, active_parameters;
    uint32_t n_shares;
    struct share *shares;  /* owned */
    uint32_t worst;        /* of the last point: the share with the highest peak */
};

/* Compile; program_close() when it succeeded. Everything given must outlive it. */
kvp_err program_open(struct kvp_program *p, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o,
                     const struct kvp_device *device, struct kvp_error *e);
void program_close(struct kvp_program *p);

/* The highest rank's peak_bytes alone: a prompt in many chunks has as many passes to list, and one peak. */
kvp_err program_peak(struct kvp_program *p, const struct kvp_workload *w, uint64_t *peak, struct kvp_error *e);

/* The rows of total_bytes, and how each is known. */
void estimate_parts(struct kvp_estimate *out, const struct kvp_device *d);

/* The worst share again, with its lists of tensors and ops. */
kvp_err program_list(struct kvp_program *p, const struct kvp_workload *w, struct kvp_error *e);

#endif
