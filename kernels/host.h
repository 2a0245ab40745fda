/* host.h - what the backends that run on the host share: buffers, memory, the clock, who may run
 * what, and where a row lies. No arithmetic of a kernel is shared: ref and cpu each have their own. */
#ifndef KVPROOF_KERNELS_HOST_H
#define KVPROOF_KERNELS_HOST_H

#include "kernels/backend.h"
#include "kernels/code.h"
#include "kernels/ops/kivi.h"
#include "kernels/ops/kv.h"
#include "kernels/ops/ragged.h"

struct kb_buf {
    unsigned char *data;
    uint64_t bytes;
};

/* The members of struct kb_backend, as it says; dev is not looked at. Buffers of 2 MiB and more are
 * aligned to 2 MiB and offered to the kernel as huge pages. More than the machine (or its cgroup)
 * has left is KVP_ENOMEM before it is touched; a place outside a buffer is KVP_EINPUT. */
kvp_err kb_host_alloc(struct kb_dev *dev, uint64_t bytes, struct kb_buf **out, struct kvp_error *e);
void kb_host_release(struct kb_dev *dev, struct kb_buf *buf);
kvp_err kb_host_write(struct kb_dev *dev, struct kb_span dst, const void *src, uint64_t bytes, struct kvp_error *e);
kvp_err kb_host_read(struct kb_dev *dev, struct kb_span src, void *dst, uint64_t bytes, struct kvp_error *e);
kvp_err kb_host_copy(struct kb_dev *dev, struct kb_span dst, struct kb_span src, uint64_t bytes, struct kvp_error *e);
kvp_err kb_host_fill(struct kb_dev *dev, struct kb_span dst, int byte, uint64_t bytes, struct kvp_error *e);
kvp_err kb_host_sync(struct kb_dev *dev, struct kvp_error *e);
kvp_err kb_host_now(struct kb_dev *dev, uint64_t *ns, struct kvp_error *e);

/* Formats, head counts and KIVI's divisibility as kernels/ops/ ask for them. Places and strides are
 * the caller's word. */
bool kb_host_supports(struct kb_dev *dev, enum kb_kernel k, const void *args);

/* Name and memory of this machine; isa, libraries and threads are left to the backend. */
void kb_host_info(struct kb_info *out);

/* "gemm", for messages. */
const char *kb_kernel_name(enum kb_kernel k);

/* NULL for a span that was not given. */
static inline void *kb_at(struct kb_span s)
{
    return s.buf ? s.buf->data + s.offset : NULL;
}

/* The number of the row (b, h, slot) in its tensor. */
static inline uint64_t kb_kv_index(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot)
{
    uint64_t first = b, rows = kv->slots;

    if (slot < kv->shared)
        return h * kv->shared + slot;
    if (kv->shared)
        return kv->heads * kv->shared + ((kv->first + b) * kv->heads + h) * rows + slot - kv->shared;
    if (kv->block) {
        first = (uint64_t)((const int32_t *)kb_at(kv->table))[b * kv->table_stride + slot / kv->block];
        rows = kv->block;
        slot %= kv->block;
    }
    return (first * kv->heads + h) * rows + slot;
}

static inline void *kb_kv_row(const struct kb_kv *kv, uint64_t b, uint32_t h, uint64_t slot)
{
    return (unsigned char *)kb_at(kv->data) + kb_kv_index(kv, b, h, slot) * kb_row_bytes(kv->format, kv->dim);
}

/* Rows of (b, head), and the first of them. */
static inline uint64_t kb_ragged_length(const struct kb_ragged *r, uint64_t b, uint32_t head)
{
    return (uint64_t)((const int32_t *)kb_at(r->lengths))[b * r->list_stride + head];
}

static inline unsigned char *kb_ragged_rows(const struct kb_ragged *r, uint64_t b, uint32_t head)
{
    uint64_t start = (uint64_t)((const int32_t *)kb_at(r->starts))[b * r->list_stride + head];

    return (unsigned char *)kb_at(r->data) + (b * r->rows + start) * r->dim * kb_element(r->format);
}

/* Where token t lies: tensor index `first` of `tokens` tokens, at place `at`. */
struct kb_kivi_place {
    uint64_t first, tokens, at;
};

static inline struct kb_kivi_place kb_kivi_where(const struct kb_kivi *x, uint64_t b, uint64_t t)
{
    uint64_t p = x->ring ? t % x->ring : t;

    if (!x->block)
        return (struct kb_kivi_place){b, x->capacity, p};
    return (struct kb_kivi_place){
        (uint64_t)((const int32_t *)kb_at(x->table))[b * x->table_stride + p / x->block], x->block, p % x->block};
}

#endif
