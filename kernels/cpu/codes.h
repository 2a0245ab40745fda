/* codes.h - rows of codes and blocks on the CPU: unpacked a run at a time into the first cache, packed row by row. */
#ifndef KVPROOF_CPU_CODES_H
#define KVPROOF_CPU_CODES_H

#include "kernels/cpu/cpu.h"

/* Write the row of kv->dim numbers as kernels/ops/kv.h says; a tensor's scale is there already. */
void cpu_kv_store(const struct kb_dev *dev, const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot, const float *x);

/* The largest code of FP8, INT8 or INT4. */
float cpu_top(enum kvp_format f);

/* Slots [t, t + n), which lie one after another: their codes into tile [n, dim], scales left out where a row or the
 * tensor has one (cpu_kv_weigh() applies them), everything applied otherwise. */
void cpu_kv_unpack(const struct kb_dev *dev, const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t t, uint64_t n, float *tile);

/* Slots [t, t1), wherever they lie, as f32 with all scales applied: [t1 - t, dim]. */
void cpu_kv_read(const struct kb_dev *dev, const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t t, uint64_t t1, float *tile);

/* Slot `to` becomes slot `from`, with what lies beside it. */
void cpu_kv_move(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t to, uint64_t from);

/* to[t] = from[t] * the scale of slot t + ...; a copy where cpu_kv_unpack() applied the scales. */
void cpu_kv_weigh(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t t, uint64_t n, const float *from, float *to);

#endif
