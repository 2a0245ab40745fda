#include "kernels/ref/ref.h"

struct kb_dev {
    char unused; /* the reference keeps no state */
};

static kvp_err ref_open(struct kb_dev **out, const struct kb_options *opt, struct kvp_error *e)
{
    (void)opt;
    if (!(*out = calloc(1, sizeof(**out))))
        return kvp_fail(e, KVP_ENOMEM, "ref: no memory for a device");
    return KVP_OK;
}

static void ref_close(struct kb_dev *dev)
{
    free(dev);
}

static kvp_err ref_info(struct kb_dev *dev, struct kb_info *out, struct kvp_error *e)
{
    (void)dev;
    (void)e;
    kb_host_info(out);
    snprintf(out->isa, sizeof(out->isa), "plain c, double precision");
    snprintf(out->libraries, sizeof(out->libraries), "none");
    return KVP_OK;
}

static kvp_err ref_run(struct kb_dev *dev, enum kb_kernel k, const void *args, struct kvp_error *e)
{
    static ref_kernel *const table[] = {
#define KB_X(sym, name) [KB_##sym] = ref_##name,
        KB_KERNEL_MAP(KB_X)
#undef KB_X
    };
    if (!kb_host_supports(dev, k, args))
        return kvp_fail(e, KVP_ENOTSUP, "ref: %s does not take these formats or dimensions", kb_kernel_name(k));
    return table[k](args, e);
}

const struct kb_backend kb_ref = {
    .abi_version = KB_ABI_VERSION,
    .size = sizeof(struct kb_backend),
    .name = "ref",
    .open = ref_open,
    .close = ref_close,
    .info = ref_info,
    .alloc = kb_host_alloc,
    .release = kb_host_release,
    .write = kb_host_write,
    .read = kb_host_read,
    .copy = kb_host_copy,
    .fill = kb_host_fill,
    .sync = kb_host_sync,
    .now = kb_host_now,
    .supports = kb_host_supports,
    .run = ref_run,
};
