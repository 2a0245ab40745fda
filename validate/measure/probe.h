/* probe.h - what this device can do right now: three numbers that put a floor under every time.
 *
 * A quick look, not a calibration: median of a few runs in this process. The numbers travel to the
 * prediction as data. */
#ifndef KVPROOF_PROBE_H
#define KVPROOF_PROBE_H

#include "kernels/backend.h"

struct probe {
    double read_bytes_per_s; /* READ_PROBE over 256 MiB, median of 7 */
    double gemm_flops;       /* f32 GEMM, m 512, n = k 1024: FLOP/s, median of 7 */
    double launch_s;         /* a kernel with almost nothing to do, median of 200 */
};

/* Takes about half a second and 260 MiB of device memory, all given back. Where one run takes longer than
 * 0.2 s (ref), it is measured once. */
kvp_err probe_device(const struct kb_backend *be, struct kb_dev *dev, struct probe *out, struct kvp_error *e);

#endif
