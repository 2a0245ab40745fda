/* written.h - how many bytes a kernel call writes, by its arguments alone: what a result says that ran wrote.
 *
 * Every byte that a call leaves behind counts once for each row that it writes, in place or not; scratch does not. Where the
 * data decide (an eviction that may move a row), it is the most that the call can write. Held against the bytes that really
 * change by tests/validate/written.c. */
#ifndef KVPROOF_KERNELS_WRITTEN_H
#define KVPROOF_KERNELS_WRITTEN_H

#include "kernels/backend.h"

/* args is the struct of kernels/ops/ for k. 0 where only the device knows: attn_extend with lists of its rows. */
uint64_t kb_written(enum kb_kernel k, const void *args);

#endif
