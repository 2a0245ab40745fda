#include "kernels/host.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HUGE_PAGE ((uint64_t)2 << 20)
#define ASK_FIRST ((uint64_t)64 << 20) /* smaller allocations are not held against what is free */

const char *kb_kernel_name(enum kb_kernel k)
{
    static const char *const names[] = {
#define KB_X(sym, name) #name,
        KB_KERNEL_MAP(KB_X)
#undef KB_X
    };
    return (unsigned)k < KB_KERNELS ? names[k] : "?";
}

/* The number in a file that holds just one ("max" counts as no limit); false when there is none. */
static bool file_number(const char *path, uint64_t *out)
{
    FILE *f = fopen(path, "r");
    unsigned long long v;
    bool ok = f && fscanf(f, "%llu", &v) == 1;

    if (f)
        fclose(f);
    if (ok)
        *out = v;
    return ok;
}

/* The value after `key` in a file of "key : value" lines, from its first digit or letter on. */
static bool file_key(const char *path, const char *key, char *out, size_t size)
{
    FILE *f = fopen(path, "r");
    char line[256];
    bool found = false;

    while (f && !found && fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, strlen(key)) != 0)
            continue;
        char *v = line + strlen(key);
        v += strspn(v, " \t:");
        v[strcspn(v, "\n")] = '\0';
        snprintf(out, size, "%s", v);
        found = true;
    }
    if (f)
        fclose(f);
    return found;
}

static uint64_t meminfo(const char *key)
{
    char text[64];

    return file_key("/proc/meminfo", key, text, sizeof(text)) ? strtoull(text, NULL, 10) * 1024 : 0;
}

/* 0: unknown. */
static void memory(uint64_t *total, uint64_t *available)
{
    uint64_t limit, used;

    *total = meminfo("MemTotal");
    *available = meminfo("MemAvailable");
    if (file_number("/sys/fs/cgroup/memory.max", &limit) && file_number("/sys/fs/cgroup/memory.current", &used)) {
        uint64_t left = limit > used ? limit - used : 0;

        *total = *total && *total < limit ? *total : limit;
        *available = *available && *available < left ? *available : left;
    }
}

void kb_host_info(struct kb_info *out)
{
    *out = (struct kb_info){.threads = 1};
    if (!file_key("/proc/cpuinfo", "model name", out->name, sizeof(out->name)))
        snprintf(out->name, sizeof(out->name), "unknown processor");
    memory(&out->memory_total, &out->memory_free);
}

kvp_err kb_host_alloc(struct kb_dev *dev, uint64_t bytes, struct kb_buf **out, struct kvp_error *e)
{
    uint64_t align = bytes >= HUGE_PAGE ? HUGE_PAGE : 64, rounded = 0, total, available;
    struct kb_buf *b;

    (void)dev;
    if (bytes == 0)
        return kvp_fail(e, KVP_EINPUT, "an allocation of 0 bytes");
    if (__builtin_add_overflow(bytes, align - 1, &rounded) || rounded > SIZE_MAX / 2)
        return kvp_fail(e, KVP_ENOMEM, "an allocation of %llu bytes is beyond the address space",
                        (unsigned long long)bytes);
    rounded -= rounded % align;
    if (bytes >= ASK_FIRST) {
        memory(&total, &available);
        if (total && bytes > available)
            return kvp_fail(e, KVP_ENOMEM, "an allocation of %llu bytes, and the host has %llu left",
                            (unsigned long long)bytes, (unsigned long long)available);
    }
    if (!(b = malloc(sizeof(*b))))
        return kvp_fail(e, KVP_ENOMEM, "no memory for a buffer's handle");
    *b = (struct kb_buf){aligned_alloc((size_t)align, (size_t)rounded), bytes};
    if (!b->data) {
        free(b);
        return kvp_fail(e, KVP_ENOMEM, "the host refused an allocation of %llu bytes", (unsigned long long)bytes);
    }
    if (align == HUGE_PAGE)
        madvise(b->data, (size_t)rounded, MADV_HUGEPAGE); /* a wish: a refusal changes nothing */
    *out = b;
    return KVP_OK;
}

void kb_host_release(struct kb_dev *dev, struct kb_buf *buf)
{
    (void)dev;
    if (buf)
        free(buf->data);
    free(buf);
}

static kvp_err inside(struct kb_span s, uint64_t bytes, const char *what, struct kvp_error *e)
{
    if (s.buf && s.offset <= s.buf->bytes && bytes <= s.buf->bytes - s.offset)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "%s of %llu bytes at %llu leaves a buffer of %llu bytes", what,
                    (unsigned long long)bytes, (unsigned long long)s.offset,
                    (unsigned long long)(s.buf ? s.buf->bytes : 0));
}

kvp_err kb_host_write(struct kb_dev *dev, struct kb_span dst, const void *src, uint64_t bytes, struct kvp_error *e)
{
    (void)dev;
    KVP_TRY(inside(dst, bytes, "a write", e));
    memcpy(kb_at(dst), src, bytes);
    return KVP_OK;
}

kvp_err kb_host_read(struct kb_dev *dev, struct kb_span src, void *dst, uint64_t bytes, struct kvp_error *e)
{
    (void)dev;
    KVP_TRY(inside(src, bytes, "a read", e));
    memcpy(dst, kb_at(src), bytes);
    return KVP_OK;
}

kvp_err kb_host_copy(struct kb_dev *dev, struct kb_span dst, struct kb_span src, uint64_t bytes, struct kvp_error *e)
{
    (void)dev;
    KVP_TRY(inside(src, bytes, "a copy's source", e));
    KVP_TRY(inside(dst, bytes, "a copy's destination", e));
    memmove(kb_at(dst), kb_at(src), bytes);
    return KVP_OK;
}

kvp_err kb_host_fill(struct kb_dev *dev, struct kb_span dst, int byte, uint64_t bytes, struct kvp_error *e)
{
    (void)dev;
    KVP_TRY(inside(dst, bytes, "a fill", e));
    memset(kb_at(dst), byte, bytes);
    return KVP_OK;
}

kvp_err kb_host_sync(struct kb_dev *dev, struct kvp_error *e)
{
    (void)dev;
    (void)e;
    return KVP_OK;
}

kvp_err kb_host_now(struct kb_dev *dev, uint64_t *ns, struct kvp_error *e)
{
    struct timespec t;

    (void)dev;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0)
        return kvp_fail(e, KVP_ESYS, "the monotonic clock cannot be read");
    *ns = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    return KVP_OK;
}
