/* kit.h - what the kernel tests share: seeded random buffers, and one check that runs a kernel on the reference
 * and on every form of the CPU backend and compares all of the output buffers, gaps included.
 *
 * ref and cpu use the same host buffers (kernels/host.h), so inputs are made once. */
#ifndef KIT_H
#define KIT_H

#include "kernels/host.h"
#include "kernels/ops.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

#define UNUSED __attribute__((unused))
#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static struct kb_dev *kit_ref;
static struct {
    const char *name;
    struct kb_options options;
    struct kb_dev *dev;
} kit_cpu[] = {
    {"plain, 1 thread", {.threads = 1, .plain = true}, NULL}, {"plain, 2 threads", {.threads = 2, .plain = true}, NULL},
    {"best, 1 thread", {.threads = 1}, NULL},                 {"best, 2 threads", {.threads = 2}, NULL},
    {"best, 3 threads", {.threads = 3}, NULL},
};

static void kit_ok(kvp_err rc, const struct kvp_error *e)
{
    ck_assert_msg(rc == KVP_OK, "error %d: %s", (int)rc, e->text);
}

/* Buffers of a test, released by kit_close. */
static struct kb_buf *kit_bufs[4096];
static size_t kit_n_bufs;

static UNUSED void kit_open(void)
{
    struct kvp_error e = {0};

    kit_ok(kb_ref.open(&kit_ref, NULL, &e), &e);
    for (size_t i = 0; i < COUNT(kit_cpu); i++)
        kit_ok(kb_cpu.open(&kit_cpu[i].dev, &kit_cpu[i].options, &e), &e);
}

static UNUSED void kit_close(void)
{
    while (kit_n_bufs)
        kb_ref.release(kit_ref, kit_bufs[--kit_n_bufs]);
    for (size_t i = 0; i < COUNT(kit_cpu); i++)
        kb_cpu.close(kit_cpu[i].dev);
    kb_ref.close(kit_ref);
}

/* splitmix64 (S. Vigna, public domain algorithm) */
static uint64_t kit_state = 1;

static UNUSED uint64_t kit_random(void)
{
    uint64_t z = (kit_state += 0x9e3779b97f4a7c15u);

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [-1, 1). */
static UNUSED float kit_uniform(void)
{
    return (float)(kit_random() >> 40) * 0x1p-23f - 1.0f;
}

static UNUSED struct kb_span kit_bytes(uint64_t bytes, int fill)
{
    struct kvp_error e = {0};
    struct kb_span s = {0};

    ck_assert(kit_n_bufs < COUNT(kit_bufs));
    kit_ok(kb_ref.alloc(kit_ref, bytes ? bytes : 1, &s.buf, &e), &e);
    kit_bufs[kit_n_bufs++] = s.buf;
    memset(s.buf->data, fill, bytes ? bytes : 1);
    return s;
}

/* n elements of NaN in any format (every bit set): what a kernel must overwrite or leave alone. */
static UNUSED struct kb_span kit_poison(enum kvp_format f, uint64_t n)
{
    return kit_bytes(n * kb_element(f), 0xff);
}

/* n uniform elements times `by`. */
static UNUSED struct kb_span kit_floats(enum kvp_format f, uint64_t n, float by)
{
    struct kb_span s = kit_poison(f, n);

    for (uint64_t i = 0; i < n; i++)
        kb_store(f, s.buf->data, i, by * kit_uniform());
    return s;
}

/* `rows` rows of `width` random f32 in a stride: the gaps are NaN. */
static UNUSED struct kb_span kit_rows(uint64_t rows, uint64_t width, uint64_t stride)
{
    struct kb_span s = kit_poison(KVP_F32, rows * stride);

    for (uint64_t r = 0; r < rows; r++)
        for (uint64_t i = 0; i < width; i++)
            ((float *)kb_at(s))[r * stride + i] = kit_uniform();
    return s;
}

static UNUSED struct kb_span kit_ints(uint64_t n, int32_t first, int32_t step)
{
    struct kb_span s = kit_bytes(n * 4, 0);

    for (uint64_t i = 0; i < n; i++)
        ((int32_t *)kb_at(s))[i] = first + (int32_t)i * step;
    return s;
}

/* The integers 0 .. n-1 in a random order. */
static UNUSED struct kb_span kit_shuffled(uint64_t n)
{
    struct kb_span s = kit_ints(n, 0, 1);
    int32_t *p = kb_at(s);

    for (uint64_t i = n; i > 1; i--) {
        uint64_t j = kit_random() % i;
        int32_t t = p[i - 1];

        p[i - 1] = p[j];
        p[j] = t;
    }
    return s;
}

static UNUSED void kit_run(enum kb_kernel k, const void *args)
{
    struct kvp_error e = {0};

    kit_ok(kb_ref.run(kit_ref, k, args, &e), &e);
}

/* An output of a kernel: the place of its span inside the arguments. Bound of the error: `within` times the
 * largest magnitude of the reference's output, or of each element when `each`; 0: the same bits. */
struct kit_out {
    size_t at;
    enum kvp_format format;
    double within;
    bool each;
};

static struct kb_span *kit_span(void *args, size_t at)
{
    return (struct kb_span *)(void *)((unsigned char *)args + at);
}

static double kit_element(enum kvp_format f, const void *p, uint64_t i)
{
    return f == KVP_I32 ? (double)((const int32_t *)p)[i] : (double)kb_load(f, p, i);
}

static void kit_compare(const char *what, const struct kit_out *o, const struct kb_buf *want, const struct kb_buf *got)
{
    uint64_t size = kb_element(o->format), n = want->bytes / size;
    double largest = 0;

    for (uint64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(kit_element(o->format, want->data, i))); /* fmax passes over NaN */
    for (uint64_t i = 0; i < n; i++) {
        double w = kit_element(o->format, want->data, i), g = kit_element(o->format, got->data, i);

        if (memcmp(want->data + i * size, got->data + i * size, size) == 0)
            continue;
        ck_assert_msg(o->within > 0 && fabs(w - g) <= o->within * (o->each ? fabs(w) + 1e-30 : largest),
                      "%s: element %llu of the output at byte %zu of the arguments is %.9g, expected %.9g", what,
                      (unsigned long long)i, o->at, g, w);
    }
}

/* Run kernel k on every backend with fresh copies of its outputs (their contents now are where all start),
 * twice each: the two runs must agree to the bit, and both with the reference. The reference's outputs stay in
 * the spans of args. */
static UNUSED void kit_check(enum kb_kernel k, void *args, size_t size, const struct kit_out *outs, size_t n_outs)
{
    unsigned char mine[1024];
    struct kb_span first[8], again[8];
    struct kvp_error e = {0};
    char what[160];

    ck_assert(size <= sizeof(mine) && n_outs <= 8);
    for (size_t i = 0; i < n_outs; i++) {
        first[i] = kit_bytes(kit_span(args, outs[i].at)->buf->bytes, 0);
        again[i] = kit_bytes(kit_span(args, outs[i].at)->buf->bytes, 0);
    }
    memcpy(mine, args, size);
    for (size_t i = 0; i < n_outs; i++) { /* the starting contents move aside; args will hold the reference's */
        struct kb_span *s = kit_span(args, outs[i].at), start = *s;

        *s = kit_bytes(start.buf->bytes, 0);
        s->offset = start.offset;
        memcpy(s->buf->data, start.buf->data, start.buf->bytes);
    }
    kit_run(k, args);
    for (size_t c = 0; c < COUNT(kit_cpu); c++) {
        unsigned char a[1024];

        for (int run = 0; run < 2; run++) {
            memcpy(a, mine, size);
            for (size_t i = 0; i < n_outs; i++) {
                struct kb_span *s = kit_span(a, outs[i].at), to = run ? again[i] : first[i];

                memcpy(to.buf->data, s->buf->data, s->buf->bytes);
                s->buf = to.buf;
            }
            kit_ok(kb_cpu.run(kit_cpu[c].dev, k, a, &e), &e);
        }
        snprintf(what, sizeof(what), "%s on cpu (%s)", kb_kernel_name(k), kit_cpu[c].name);
        for (size_t i = 0; i < n_outs; i++) {
            kit_compare(what, &outs[i], kit_span(args, outs[i].at)->buf, first[i].buf);
            ck_assert_msg(memcmp(first[i].buf->data, again[i].buf->data, first[i].buf->bytes) == 0,
                          "%s: two runs differ", what);
        }
    }
}

#define KIT_OUT(type, member, format, within, each) {offsetof(struct type, member), format, within, each}
#define KIT_CHECK(k, args, outs) kit_check(k, &(args), sizeof(args), outs, COUNT(outs))

/* The main of a test program: `cases` are loop tests over tables. */
static UNUSED int kit_main(Suite *s)
{
    SRunner *r = srunner_create(s);
    int failed;

    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}

#endif
