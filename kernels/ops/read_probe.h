/* read_probe.h - sum a buffer: how fast can this device read? */
#ifndef KVPROOF_OPS_READ_PROBE_H
#define KVPROOF_OPS_READ_PROBE_H

#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

struct kb_read_probe {
    uint64_t bytes;       /* a multiple of 64 */
    struct kb_span src;
    struct kb_span out;   /* f32 [1]: keeps the work alive */
};

#ifdef __cplusplus
}
#endif
#endif
