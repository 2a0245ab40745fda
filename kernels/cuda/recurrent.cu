/* recurrent.cu - convolution, token shift and recurrences: none of them runs here yet, and asking says so */
#include "kernels/cuda/cuda.h"

#define ABSENT(name)                                                                   \
    bool cuda_##name##_ok(const void *args)                                            \
    {                                                                                  \
        (void)args;                                                                    \
        return false;                                                                  \
    }                                                                                  \
    kvp_err cuda_##name(struct kb_dev *dev, const void *args, struct kvp_error *e)     \
    {                                                                                  \
        (void)dev;                                                                     \
        (void)args;                                                                    \
        return kvp_fail(e, KVP_ENOTSUP, "cuda: " #name " is not there yet");           \
    }
ABSENT(conv)
ABSENT(shift)
ABSENT(gate)
ABSENT(ssm_scan)
ABSENT(ssd_scan)
ABSENT(wkv4)
ABSENT(wkv6)
ABSENT(wkv7)
ABSENT(delta_scan)
ABSENT(head_norm)
