/* print_json.h - an estimate as JSON, schema "kvproof-estimate/1". */
#ifndef KVPROOF_CALC_PRINT_JSON_H
#define KVPROOF_CALC_PRINT_JSON_H

#include <kvproof/kvproof.h>

#include <stdio.h>

/* The share of a device's memory that may be used, as in vLLM 0.22 and later (gpu_memory_utilization). */
#define PRINT_MEMORY_SHARE 0.92

static inline bool print_fits(const struct kvp_estimate *est, const struct kvp_device *d)
{
    return (double)est->memory.peak_bytes <= PRINT_MEMORY_SHARE * (double)d->memory_bytes;
}

/* One object; on one line when `lines`. Numbers of bytes and FLOPs are integers; time is null without a
 * device. */
kvp_err print_json(FILE *f, bool lines, bool detail, const struct kvp_model *m, const struct kvp_stack *s,
                   const struct kvp_estimate *est, const struct kvp_device *device, struct kvp_error *e);

#endif
