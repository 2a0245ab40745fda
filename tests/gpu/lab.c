#include "tests/gpu/lab.h"

#include "kernels/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Spans carry this in place of a buffer until each device puts in its own. */
static char unbound;
#define UNBOUND ((struct kb_buf *)(void *)&unbound)

static kvp_err open_device(struct lab_device *d, const char *name, struct kvp_error *e)
{
    static const struct kb_options options = {.threads = 1};

    KVP_TRY(kb_find(&d->be, name, e));
    KVP_TRY(d->be->open(&d->dev, &options, e));
    return d->be->alloc(d->dev, LAB_BYTES, &d->buf, e);
}

static void close_device(struct lab_device *d)
{
    if (d->dev) {
        d->be->release(d->dev, d->buf);
        d->be->close(d->dev);
    }
}

kvp_err lab_open(struct lab *l, const char *device, uint64_t seed, struct kvp_error *e)
{
    *l = (struct lab){.random = seed * 0x9e3779b97f4a7c15u + 1};
    for (int i = 0; i < 2; i++)
        l->got[i] = malloc(LAB_BYTES);
    l->image = malloc(LAB_BYTES);
    if (!l->image || !l->got[0] || !l->got[1])
        return kvp_fail(e, KVP_ENOMEM, "no memory for three images of %d bytes", LAB_BYTES);
    KVP_TRY(open_device(&l->ref, "ref", e));
    return open_device(&l->dev, device, e);
}

void lab_close(struct lab *l)
{
    close_device(&l->ref);
    close_device(&l->dev);
    free(l->image);
    free(l->got[0]);
    free(l->got[1]);
}

void lab_begin(struct lab *l)
{
    l->used = 0;
    l->n_results = 0;
    l->fault[0] = l->shape[0] = '\0';
    l->worst = 0;
}

/* xorshift64* (Vigna 2016, "An experimental exploration of Marsaglia's xorshift generators, scrambled"). */
static uint64_t draw(struct lab *l)
{
    l->random ^= l->random >> 12;
    l->random ^= l->random << 25;
    l->random ^= l->random >> 27;
    return l->random * 0x2545f4914f6cdd1du;
}

uint64_t lab_below(struct lab *l, uint64_t n)
{
    return (draw(l) >> 11) % n;
}

uint64_t lab_between(struct lab *l, uint64_t least, uint64_t most)
{
    return least + lab_below(l, most - least + 1);
}

enum kvp_format lab_format(struct lab *l)
{
    static const enum kvp_format formats[] = {KVP_F32, KVP_F16, KVP_BF16};

    return formats[lab_below(l, 3)];
}

static struct kb_span reserve(struct lab *l, uint64_t bytes)
{
    const struct kb_span s = {UNBOUND, (l->used + 63) / 64 * 64};

    if (bytes > LAB_BYTES - 64 - l->used) {
        fprintf(stderr, "lab: a case needs more than %d bytes\n", LAB_BYTES);
        abort();
    }
    memset(l->image + l->used, 0xa5, s.offset - l->used);
    l->used = s.offset + bytes;
    return s;
}

static struct kb_span floats(struct lab *l, enum kvp_format f, uint64_t n, double low, double high)
{
    const struct kb_span s = reserve(l, n * kb_element(f));

    for (uint64_t i = 0; i < n; i++)
        kb_store(f, l->image + s.offset, i, (float)(low + (high - low) * ((double)(draw(l) >> 11) * 0x1p-53)));
    return s;
}

struct kb_span lab_floats(struct lab *l, enum kvp_format f, uint64_t n, double scale)
{
    return floats(l, f, n, -scale, scale);
}

struct kb_span lab_positive(struct lab *l, enum kvp_format f, uint64_t n, double scale)
{
    return floats(l, f, n, scale / 1024, scale);
}

struct kb_span lab_ints(struct lab *l, uint64_t n, uint64_t below)
{
    const struct kb_span s = reserve(l, n * 4);

    for (uint64_t i = 0; i < n; i++)
        ((int32_t *)(void *)(l->image + s.offset))[i] = (int32_t)lab_below(l, below);
    return s;
}

struct kb_span lab_bits(struct lab *l, uint64_t bytes)
{
    const struct kb_span s = reserve(l, bytes);

    for (uint64_t i = 0; i < bytes; i++)
        l->image[s.offset + i] = (uint8_t)(draw(l) >> 56);
    return s;
}

struct kb_span lab_permutation(struct lab *l, uint64_t n)
{
    const struct kb_span s = reserve(l, n * 4);
    int32_t *p = (int32_t *)(void *)(l->image + s.offset);

    for (uint64_t i = 0; i < n; i++) {
        const uint64_t j = lab_below(l, i + 1);

        p[i] = p[j];
        p[j] = (int32_t)i;
    }
    return s;
}

void lab_changes(struct lab *l, struct kb_span s, enum kvp_format f, uint64_t n, double tolerance)
{
    l->result[l->n_results++] = (struct lab_result){s.offset, n * kb_element(f), f, tolerance};
}

void lab_scratch(struct lab *l, struct kb_span s, uint64_t bytes)
{
    l->result[l->n_results++] = (struct lab_result){s.offset, bytes, KVP_FORMATS, 0};
}

struct kb_span lab_out(struct lab *l, enum kvp_format f, uint64_t n, double tolerance)
{
    const struct kb_span s = reserve(l, n * kb_element(f));

    memset(l->image + s.offset, 0xff, n * kb_element(f));
    lab_changes(l, s, f, n, tolerance);
    return s;
}

/* args with this device's buffer in every span. Every argument struct is a whole number of words. */
static kvp_err run_on(const struct lab *l, const struct lab_device *d, enum kb_kernel k, const void *args, size_t size,
                      uint8_t *got, struct kvp_error *e)
{
    const struct kb_span all = {d->buf, 0};
    struct kb_buf *word[64];

    memcpy(word, args, size);
    for (size_t i = 0; i < size / sizeof(word[0]); i++)
        if (word[i] == UNBOUND)
            word[i] = d->buf;
    KVP_TRY(d->be->write(d->dev, all, l->image, l->used, e));
    if (!d->be->supports(d->dev, k, word))
        return kvp_fail(e, KVP_ENOTSUP, "%s does not support this", d->be->name);
    KVP_TRY(d->be->run(d->dev, k, word, e));
    return d->be->read(d->dev, all, got, l->used, e);
}

static void compare_result(struct lab *l, const struct lab_result *r)
{
    const uint8_t *ref = l->got[0] + r->offset, *dev = l->got[1] + r->offset;
    const uint64_t n = r->bytes / kb_element(r->format);
    double largest = 0, worst = 0;

    if (r->format == KVP_FORMATS)
        return;
    if (r->tolerance == 0 || r->format == KVP_I32) {
        for (uint64_t i = 0; i < r->bytes; i++)
            if (ref[i] != dev[i] && !l->fault[0])
                snprintf(l->fault, sizeof(l->fault), "result at %llu differs from byte %llu of %llu on",
                         (unsigned long long)r->offset, (unsigned long long)i, (unsigned long long)r->bytes);
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        if (fabs((double)kb_load(r->format, ref, i)) > largest)
            largest = fabs((double)kb_load(r->format, ref, i));
    for (uint64_t i = 0; i < n; i++) {
        const double x = (double)kb_load(r->format, ref, i), y = (double)kb_load(r->format, dev, i);
        const double error = isnan(x) && isnan(y) ? 0 : isnan(x) != isnan(y) ? INFINITY : fabs(x - y) / (largest * r->tolerance);

        if (error > 1 && !l->fault[0])
            snprintf(l->fault, sizeof(l->fault), "result at %llu, element %llu of %llu: reference %.9g, device %.9g",
                     (unsigned long long)r->offset, (unsigned long long)i, (unsigned long long)n, x, y);
        worst = error > worst ? error : worst;
    }
    l->worst = worst > l->worst ? worst : l->worst;
}

/* Nothing but the results may have changed; results are blanked out in both first. */
static void compare_rest(struct lab *l)
{
    for (uint32_t i = 0; i < l->n_results; i++)
        memcpy(l->got[1] + l->result[i].offset, l->image + l->result[i].offset, l->result[i].bytes);
    for (uint64_t i = 0; i < l->used; i++)
        if (l->got[1][i] != l->image[i]) {
            snprintf(l->fault, sizeof(l->fault), "wrote byte %llu, which is no part of a result", (unsigned long long)i);
            return;
        }
}

void lab_run(struct lab *l, enum kb_kernel k, const void *args, size_t size)
{
    struct kvp_error e = {0};

    if (run_on(l, &l->ref, k, args, size, l->got[0], &e) != KVP_OK || run_on(l, &l->dev, k, args, size, l->got[1], &e) != KVP_OK) {
        snprintf(l->fault, sizeof(l->fault), "%.199s", e.text);
        return;
    }
    for (uint32_t i = 0; i < l->n_results; i++)
        compare_result(l, &l->result[i]);
    if (!l->fault[0])
        compare_rest(l);
}
