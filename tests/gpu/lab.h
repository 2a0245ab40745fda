/* lab.h - one kernel call on two devices from the same bytes, and the difference
 *
 * A case draws operands into an image of memory, names its results, and calls lab_run(): the image goes
 * to one buffer of the reference and one of the device under test, both run the kernel, both buffers come
 * back whole. Results must agree within their tolerance; every other byte must be as it was. */
#ifndef KVPROOF_TESTS_GPU_LAB_H
#define KVPROOF_TESTS_GPU_LAB_H

#include "kernels/ops.h"

#include <stdio.h>

enum { LAB_RESULTS = 8, LAB_BYTES = 64 << 20 };

struct lab_device {
    const struct kb_backend *be;
    struct kb_dev *dev;
    struct kb_buf *buf; /* LAB_BYTES */
};

struct lab_result {
    uint64_t offset, bytes;
    enum kvp_format format; /* how to read it; I32: bits; KVP_FORMATS: scratch, not compared */
    double tolerance;       /* of the largest magnitude in it; 0: bit for bit */
};

struct lab {
    struct lab_device ref, dev;
    uint64_t random;  /* state of the generator */
    bool tiny;
    uint8_t *image, *got[2];
    uint64_t used;
    uint32_t n_results;
    struct lab_result result[LAB_RESULTS];
    char shape[200];  /* for the report */
    double worst;     /* error / tolerance of the last run */
    char fault[200];  /* why the last run failed; "" when it did not */
};

kvp_err lab_open(struct lab *l, const char *device, uint64_t seed, struct kvp_error *e);
void lab_close(struct lab *l);
void lab_begin(struct lab *l); /* a new case: forget operands and results */

uint64_t lab_below(struct lab *l, uint64_t n);                       /* uniform in [0, n) */
uint64_t lab_between(struct lab *l, uint64_t least, uint64_t most);
enum kvp_format lab_format(struct lab *l);                           /* F32, F16 or BF16 */

/* Spans of new operands, 64-byte aligned. Values are uniform in (-scale, scale), or (0, scale) if positive. */
struct kb_span lab_floats(struct lab *l, enum kvp_format f, uint64_t n, double scale);
struct kb_span lab_positive(struct lab *l, enum kvp_format f, uint64_t n, double scale);
struct kb_span lab_ints(struct lab *l, uint64_t n, uint64_t below);
struct kb_span lab_bits(struct lab *l, uint64_t bytes);
struct kb_span lab_permutation(struct lab *l, uint64_t n);           /* i32, a random order of [0, n) */
/* n elements of `format` that the kernel writes; they hold NaN before. I32 is compared bit for bit. */
struct kb_span lab_out(struct lab *l, enum kvp_format f, uint64_t n, double tolerance);
/* The operand at `s` is written too. */
void lab_changes(struct lab *l, struct kb_span s, enum kvp_format f, uint64_t n, double tolerance);

/* The kernel may leave anything in these bytes. */
void lab_scratch(struct lab *l, struct kb_span s, uint64_t bytes);

/* Run kernel k on both. `args` has `size` bytes and spans from above. */
void lab_run(struct lab *l, enum kb_kernel k, const void *args, size_t size);

#endif
