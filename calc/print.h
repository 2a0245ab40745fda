/* print.h - estimates and lists as tables for people and as JSON, JSON lines, CSV and Markdown for programs. */
#ifndef KVPROOF_CALC_PRINT_H
#define KVPROOF_CALC_PRINT_H

#include <kvproof/kvproof.h>

#include <stdio.h>

/* The share of a device's memory that may be used, as in vLLM 0.22 and later (gpu_memory_utilization). */
#define PRINT_MEMORY_SHARE 0.92

static inline double print_share(const struct kvp_device *d)
{
    return d->memory_share > 0 ? d->memory_share : PRINT_MEMORY_SHARE;
}

/* Bytes beyond what there is room for. */
static inline double print_excess(uint64_t peak_bytes, const struct kvp_device *d)
{
    return (double)peak_bytes - print_share(d) * (double)d->memory_bytes;
}

static inline bool print_peak_fits(uint64_t peak_bytes, const struct kvp_device *d)
{
    return print_excess(peak_bytes, d) <= 0;
}

static inline bool print_fits(const struct kvp_estimate *est, const struct kvp_device *d)
{
    return print_peak_fits(est->memory.peak_bytes, d);
}

/* `format`: table, json, jsonl, csv, md. `detail`: every tensor and every op. `device` may be NULL.
 * KVP_EINPUT: an unknown format; nothing is written then. KVP_ESYS: writing failed. */
kvp_err kvp_estimate_print(FILE *f, const char *format, bool detail, const struct kvp_model *m, const struct kvp_stack *s,
                           const struct kvp_estimate *est, const struct kvp_device *device, struct kvp_error *e);

/* `what`: techniques, models, devices, formats, pairs; otherwise KVP_EINPUT. */
kvp_err kvp_list_print(FILE *f, const char *what, const char *format, struct kvp_error *e);

#endif
