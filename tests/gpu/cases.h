/* cases.h - one random case of each kernel, drawn, run and compared in a lab */
#ifndef KVPROOF_TESTS_GPU_CASES_H
#define KVPROOF_TESTS_GPU_CASES_H

#include "tests/gpu/lab.h"

#define KB_X(sym, name) void case_##name(struct lab *l);
KB_DEVICE_KERNEL_MAP(KB_X)
#undef KB_X

#define SAY(l, ...) snprintf((l)->shape, sizeof((l)->shape), __VA_ARGS__)

/* A strip or pages with `slots` slots for each sequence, filled with random rows. */
struct kb_kv case_kv(struct lab *l, enum kvp_format f, uint64_t batch, uint32_t heads, uint32_t dim, uint64_t slots);
uint64_t case_kv_elements(const struct kb_kv *kv, uint64_t batch);
uint32_t case_dim(struct lab *l);                               /* a head_dim, odd ones too */
void case_heads(struct lab *l, uint32_t *heads, uint32_t *kv_heads);

#endif
