/* dump.h - what a cache holds, as JSON lines for other people's programs.
 *
 *   {"layer":0,"name":"k","format":"f16","shape":[1,2,7,16],"data":[...]}   a tensor of a layer
 *   {"layer":0,"head":-1,"batch":-1,"positions":[...]}   text positions that are still seen
 * Values are numbers, codes integers; what JSON has no number for (NaN, infinities) is null. */
#ifndef KVPROOF_CACHES_DUMP_H
#define KVPROOF_CACHES_DUMP_H

#include "validate/caches/cache.h"

/* Host copy of a device tensor, to be freed by the caller; *out = NULL when there is none. */
kvp_err dump_fetch(void **out, const struct cache_env *env, const struct led_mem *mem, struct kvp_error *e);

/* One tensor of four dimensions; a value's commas are the writer's. */
struct dump {
    FILE *f;
    bool first;
};
void dump_begin(struct dump *d, FILE *f, uint32_t layer, const char *name, enum kvp_format format,
                const uint64_t shape[4]);
void dump_values(struct dump *d, enum kvp_format format, const void *bytes,
                 uint64_t n); /* F32, F16, BF16, I32 */
void dump_int(struct dump *d, int64_t v);
/* n values, or codes as integers: INT8 with its sign, INT4 from 0 to 15, FP8 and U8 as the bytes that they are. */
void dump_row(struct dump *d, enum kvp_format format, const void *bytes, uint64_t n);
/* A tensor of one f32. */
kvp_err dump_number(const struct cache_env *env, uint32_t layer, const char *name, struct kb_span at, FILE *f, struct kvp_error *e);
void dump_end(struct dump *d);

/* One line of kept positions; head or batch < 0: all of them keep the same. */
void dump_positions(FILE *f, uint32_t layer, int64_t head, int64_t batch, const uint64_t *pos, uint64_t n);
/* As above for all heads and sequences: the positions [from, to). */
void dump_range(FILE *f, uint32_t layer, uint64_t from, uint64_t to);

/* KVP_ESYS when anything written to f so far failed. */
kvp_err dump_done(FILE *f, struct kvp_error *e);

#endif
