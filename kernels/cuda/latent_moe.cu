/* latent_moe.cu - kernels that this backend lacks: supports() says so, and the engine then says it to its user */
#include "kernels/cuda/cuda.h"

#define LACKING(name)                                                                            \
    bool cuda_##name##_ok(const void *args)                                                      \
    {                                                                                            \
        (void)args;                                                                              \
        return false;                                                                            \
    }                                                                                            \
    kvp_err cuda_##name(struct kb_dev *dev, const void *args, struct kvp_error *e)               \
    {                                                                                            \
        (void)dev;                                                                               \
        (void)args;                                                                              \
        return kvp_fail(e, KVP_ENOTSUP, "cuda: there is no " #name " yet");                      \
    }

LACKING(attn_latent)
LACKING(head_gemm)
LACKING(moe_route)
LACKING(moe_gemm)
