#include "kernels/cpu/cpu.h"

#include <sched.h>
#include <stdlib.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#ifndef KVP_NO_OPENBLAS
#include <cblas.h>
#endif

static uint32_t usable_cores(void)
{
    cpu_set_t set;

    return sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
}

#if defined(__x86_64__)
/* Not every compiler's __builtin_cpu_supports knows this word. */
static bool has_f16c(void)
{
    unsigned a, b, c = 0, d;

    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

static const struct cpu_ops *best_ops(bool plain)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!plain && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c())
        return &cpu_ops_avx2;
#endif
    (void)plain;
    return &cpu_ops_plain;
}

static kvp_err cpu_open(struct kb_dev **out, const struct kb_options *opt, struct kvp_error *e)
{
    struct kb_dev *d = calloc(1, sizeof(*d));

    if (!d)
        return kvp_fail(e, KVP_ENOMEM, "cpu: no memory for a device");
    d->threads = opt && opt->threads ? opt->threads : usable_cores();
    if (d->threads < KVP_LEAST_THREADS)
        d->threads = KVP_LEAST_THREADS;
    d->ops = best_ops(opt && opt->plain);
#ifndef KVP_NO_OPENBLAS
    d->blas = !(opt && opt->plain);
    openblas_set_num_threads(1);
#endif
    *out = d;
    return KVP_OK;
}

static void cpu_close(struct kb_dev *dev)
{
    if (dev)
        free(dev->scratch);
    free(dev);
}

static kvp_err cpu_info(struct kb_dev *dev, struct kb_info *out, struct kvp_error *e)
{
    (void)e;
    kb_host_info(out);
    out->threads = dev->threads;
    snprintf(out->isa, sizeof(out->isa), "%s", dev->ops->isa);
    snprintf(out->libraries, sizeof(out->libraries), "none");
#ifndef KVP_NO_OPENBLAS
    if (dev->blas)
        snprintf(out->libraries, sizeof(out->libraries), "%s", openblas_get_config());
#endif
    return KVP_OK;
}

kvp_err cpu_scratch(struct kb_dev *dev, float **out, uint64_t *stride, uint64_t count, uint64_t floats,
                    struct kvp_error *e)
{
    uint64_t total, bytes;

    *stride = (floats + 15) / 16 * 16;
    if (__builtin_mul_overflow(*stride, count, &total) || __builtin_mul_overflow(total, sizeof(float), &bytes) ||
        bytes > SIZE_MAX / 2)
        return kvp_fail(e, KVP_ENOMEM, "cpu: scratch beyond the address space");
    if (total > dev->scratch_floats) {
        free(dev->scratch);
        dev->scratch_floats = 0;
        if (!(dev->scratch = aligned_alloc(64, bytes)))
            return kvp_fail(e, KVP_ENOMEM, "cpu: no memory for %llu bytes of scratch", (unsigned long long)bytes);
        dev->scratch_floats = total;
    }
    *out = dev->scratch;
    return KVP_OK;
}

static kvp_err cpu_run(struct kb_dev *dev, enum kb_kernel k, const void *args, struct kvp_error *e)
{
    static cpu_kernel *const table[] = {
#define KB_X(sym, name) [KB_##sym] = cpu_##name,
        KB_KERNEL_MAP(KB_X)
#undef KB_X
    };
    if (!kb_host_supports(dev, k, args))
        return kvp_fail(e, KVP_ENOTSUP, "cpu: %s does not take these formats or dimensions", kb_kernel_name(k));
    return table[k](dev, args, e);
}

const struct kb_backend kb_cpu = {
    .abi_version = KB_ABI_VERSION,
    .size = sizeof(struct kb_backend),
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .info = cpu_info,
    .alloc = kb_host_alloc,
    .release = kb_host_release,
    .write = kb_host_write,
    .read = kb_host_read,
    .copy = kb_host_copy,
    .fill = kb_host_fill,
    .sync = kb_host_sync,
    .now = kb_host_now,
    .supports = kb_host_supports,
    .run = cpu_run,
};
