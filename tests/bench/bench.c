/* bench.c - CPU kernels beside the limit that this machine sets them.
 *
 * The limit of a run is the longest of: bytes read over the read bandwidth, bytes updated in place over the bandwidth of
 * an update in place, FLOPs over the rate of fused multiply-adds in registers, all with the same threads. Each round
 * measures those and then the kernel, so that a slow moment of the machine meets all of them; printed are the medians
 * and the median of the rounds' ratios. Bytes are what a kernel must move once: weights, stored keys and values, codes
 * and scales, rows in and out, or a state. A multiply-add is two FLOPs, an exponential or a change of format none;
 * causal attention counts the visible pairs only, and a prompt's attention is held against OpenBLAS's sgemm.
 * Usage: bench [THREADS [ROUNDS]] */
#include "kernels/backend.h"
#include "kernels/code.h"
#include "kernels/half.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdlib.h>
#ifndef KVP_NO_OPENBLAS
#include <cblas.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define PROBE_BYTES ((uint64_t)512 << 20)
#define UPDATE_BYTES ((int64_t)128 << 20)
#define MOST_ROUNDS 101

static struct kb_dev *dev;
static unsigned rounds = 9;
static uint32_t threads;
static struct kb_read_probe probe;
static float *update;

static void ok(kvp_err rc, const struct kvp_error *e)
{
    if (rc != KVP_OK) {
        fprintf(stderr, "bench: %s\n", e->text);
        exit(kvp_exit_status(rc));
    }
}

static double now(void)
{
    struct kvp_error e = {0};
    uint64_t ns;

    ok(kb_cpu.now(dev, &ns, &e), &e);
    return (double)ns * 1e-9;
}

/* Random values of format f; I32: random words. */
static struct kb_span filled(enum kvp_format f, uint64_t n)
{
    struct kvp_error e = {0};
    struct kb_span s = {0};
    uint64_t bytes = n * kb_element(f), x = n | 1;
    unsigned char *p = malloc(bytes);

    if (!p)
        exit(3);
    for (uint64_t i = 0; i < n; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        if (f == KVP_I32)
            ((uint32_t *)(void *)p)[i] = (uint32_t)(x >> 32);
        else
            kb_store(f, p, i, (float)(int32_t)(x >> 40) * 0x1p-24f - 0.5f);
    }
    ok(kb_cpu.alloc(dev, bytes, &s.buf, &e), &e);
    ok(kb_cpu.write(dev, s, p, bytes, &e), &e);
    free(p);
    return s;
}

static double run(enum kb_kernel k, const void *args)
{
    struct kvp_error e = {0};
    double t = now();

    ok(kb_cpu.run(dev, k, args, &e), &e);
    return now() - t;
}

static double read_rate(void)
{
    return (double)probe.bytes / run(KB_READ_PROBE, &probe) * 1e-9;
}

/* Floats of a state, each read, changed and written where it was: bytes read and written count. */
static double update_rate(void)
{
    float *x = update;
    const int64_t n = UPDATE_BYTES / 4;
    double t = now();

#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++)
        x[i] = x[i] * 0.999f + 1e-3f;
    return 2.0 * UPDATE_BYTES / (now() - t) * 1e-9;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static float fma_loop(uint64_t n)
{
    __m256 acc[12], x = _mm256_set1_ps(0.5f), y = _mm256_set1_ps(0.25f);
    float out[8], sum = 0;

    for (int i = 0; i < 12; i++)
        acc[i] = _mm256_set1_ps((float)i);
    for (uint64_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < 12; i++)
            acc[i] = _mm256_fmadd_ps(acc[i], x, y);
    }
    for (int i = 0; i < 12; i++) {
        _mm256_storeu_ps(out, acc[i]);
        sum += out[0];
    }
    return sum;
}
enum { FMA_FLOPS = 12 * 8 * 2 };
#else
static float fma_loop(uint64_t n)
{
    float acc[12] = {0}, sum = 0;

    for (uint64_t k = 0; k < n; k++)
        for (int i = 0; i < 12; i++)
            acc[i] = acc[i] * 0.5f + 0.25f;
    for (int i = 0; i < 12; i++)
        sum += acc[i];
    return sum;
}
enum { FMA_FLOPS = 12 * 2 };
#endif

static double fma_rate(void)
{
    static volatile float keep;
    const uint64_t n = 1000000;
    float sum = 0;
    double t = now();

#pragma omp parallel num_threads(threads) reduction(+ : sum)
    sum += fma_loop(n);
    keep = sum;
    (void)keep;
    return (double)threads * (double)n * FMA_FLOPS / (now() - t) * 1e-9;
}

/* OpenBLAS by itself with its own threads, 1024 x 1024 x 1024. */
static double sgemm_rate(void)
{
#ifndef KVP_NO_OPENBLAS
    static float a[1024 * 1024], b[1024 * 1024], c[1024 * 1024];
    double t;

    openblas_set_num_threads((int)threads);
    t = now();
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, 1024, 1024, 1024, 1, a, 1024, b, 1024, 0, c, 1024);
    t = now() - t;
    openblas_set_num_threads(1);
    return 2.0 * 1024 * 1024 * 1024 / t * 1e-9;
#else
    return fma_rate();
#endif
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static double median(double *x, unsigned n)
{
    qsort(x, n, sizeof(*x), by_value);
    return x[n / 2];
}

/* What one run must do at the least, and what part of the limit is asked of it (0: nothing is). */
struct work {
    double read, updated, flops, sgemm_flops; /* the last: against sgemm */
    double target;
};

static double limit_of(const struct work *w)
{
    double t = w->read > 0 ? w->read / read_rate() : 0;

    t = fmax(t, w->updated > 0 ? w->updated / update_rate() : 0);
    t = fmax(t, w->flops > 0 ? w->flops / fma_rate() : 0);
    return fmax(t, w->sgemm_flops > 0 ? w->sgemm_flops / sgemm_rate() : 0) * 1e-9;
}

/* The median ratio of the limit to the time, and in *seconds the median time of a run. */
static double measure(const char *what, enum kb_kernel k, const void *args, const struct work *w, double *seconds)
{
    double took[MOST_ROUNDS], limit[MOST_ROUNDS], ratio[MOST_ROUNDS], r;
    unsigned repeat = 1;

    run(k, args);
    while (repeat < 1024 && run(k, args) * repeat < 2e-3)
        repeat *= 2; /* longer than what a clock and a start of threads take */
    for (unsigned i = 0; i < rounds; i++) {
        double t = 0;

        limit[i] = limit_of(w);
        for (unsigned n = 0; n < repeat; n++)
            t += run(k, args);
        took[i] = t / repeat;
        ratio[i] = limit[i] / took[i];
    }
    r = median(ratio, rounds);
    *seconds = median(took, rounds);
    printf("%-46s %9.3f ms %9.3f ms %5.2f", what, *seconds * 1e3, median(limit, rounds) * 1e3, r);
    if (w->target > 0)
        printf("   %4.2f %s", w->target, r >= w->target ? "met" : "below");
    printf("\n");
    fflush(stdout);
    return r;
}

static void show(const char *what, enum kb_kernel k, const void *args, struct work w)
{
    double seconds;

    measure(what, k, args, &w, &seconds);
}

static void release(const struct kb_span *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        kb_cpu.release(dev, s[i].buf);
}

static void gemm(enum kvp_format f, uint64_t m, uint32_t n, uint32_t k)
{
    struct kb_gemm a = {.m = m, .n = n, .k = k, .x_stride = k, .out_stride = n, .format = f, .work_bytes = 32u << 20};
    char what[80];

    a.x = filled(KVP_F32, m * k);
    a.w = filled(f, (uint64_t)n * k);
    a.out = filled(KVP_F32, m * n);
    a.work = filled(KVP_F32, a.work_bytes / 4);
    snprintf(what, sizeof(what), "gemm %s m %llu n %u k %u", kvp_format_name(f), (unsigned long long)m, n, k);
    show(what, KB_GEMM, &a, (struct work){.read = (double)n * k * (double)kb_element(f), .flops = 2.0 * (double)m * n * k,
                                          .target = m == 1 && f == KVP_BF16 ? 0.85 : 0});
    release((struct kb_span[]){a.x, a.w, a.out, a.work}, 4);
}

/* Pages in a scattered order: 5 is prime to any number of pages that is a power of two. */
static void scatter(struct kb_kv *kv, uint64_t used)
{
    uint64_t pages = used / kv->block;
    int32_t *t = malloc(pages * 4);
    struct kvp_error e = {0};

    if (!t)
        exit(3);
    for (uint64_t i = 0; i < pages; i++)
        t[i] = (int32_t)(i * 5 % pages);
    kv->table_stride = pages;
    kv->table = filled(KVP_I32, pages);
    ok(kb_cpu.write(dev, kv->table, t, pages * 4, &e), &e);
    free(t);
}

/* Codes are random bytes, with a scale a row. */
static struct kb_kv stored(enum kvp_format f, uint32_t kv_heads, uint32_t dim, uint64_t used, uint32_t block)
{
    struct kb_kv kv = {.format = f, .heads = kv_heads, .dim = dim, .slots = used, .block = block};
    const uint64_t n = kv_heads * used;

    if (block)
        scatter(&kv, used);
    if (f == KVP_F32 || f == KVP_F16 || f == KVP_BF16) {
        kv.data = filled(f, n * dim);
        return kv;
    }
    kv.scales = KB_SCALES_ROW;
    kv.data = filled(KVP_I32, n * kb_row_bytes(f, dim) / 4);
    kv.scale = filled(KVP_F32, n);
    return kv;
}

/* The targets: with one query head a kv head, or with eight. */
static double decode_target(enum kvp_format f, uint32_t group, uint32_t block)
{
    if (block || (group != 1 && group != 8))
        return 0;
    return f == KVP_F16 ? group == 1 ? 0.80 : 0.65 : group != 1 ? 0 : f == KVP_INT8 ? 0.55 : f == KVP_INT4 ? 0.40 : 0;
}

static double decode(enum kvp_format f, uint32_t group, uint32_t kv_heads, uint32_t dim, uint64_t used, uint32_t block)
{
    const uint32_t heads = group * kv_heads;
    struct kb_attn_decode a = {.batch = 1, .heads = heads, .kv_heads = kv_heads, .head_dim = dim, .scale = 0.1f,
                               .used = used, .q_stride = heads * dim, .out_stride = heads * dim};
    const double rows = 2.0 * kv_heads * (double)used, beside = f == KVP_INT8 || f == KVP_INT4 ? 4 : 0;
    const struct work w = {.read = rows * ((double)kb_row_bytes(f, dim) + beside), .flops = rows * group * 2.0 * dim,
                           .target = decode_target(f, group, block)};
    double seconds;
    char what[80];

    a.q = filled(KVP_F32, a.q_stride);
    a.out = filled(KVP_F32, a.q_stride);
    a.k = stored(f, kv_heads, dim, used, block);
    a.v = stored(f, kv_heads, dim, used, block);
    a.v.table = a.k.table;
    snprintf(what, sizeof(what), "attn_decode %s G %u Hkv %u d %u T %llu%s", kvp_format_name(f), group, kv_heads, dim,
             (unsigned long long)used, block ? " paged" : "");
    measure(what, KB_ATTN_DECODE, &a, &w, &seconds);
    release((struct kb_span[]){a.q, a.out, a.k.data, a.v.data, a.k.table, a.k.scale, a.v.scale}, 7);
    return seconds;
}

/* ---- recurrences, one token ------------------------------------------------------------------------------- */

/* Sequences whose states together are larger than any cache. */
static uint64_t sequences_of(uint64_t state)
{
    return (UPDATE_BYTES + state - 1) / state;
}

static void mamba_step(uint32_t channels, uint32_t n)
{
    const uint64_t sequences = sequences_of(4ull * channels * n);
    struct kb_ssm_scan a = {.batch = sequences, .tokens = 1, .channels = channels, .n = n, .stride = channels, .out_stride = channels,
                            .format = KVP_F32, .state_format = KVP_F32};
    const double state = 4.0 * (double)sequences * channels * n;

    a.a_log = filled(KVP_F32, channels * n), a.d = filled(KVP_F32, channels), a.state = filled(KVP_F32, sequences * channels * n);
    a.x = filled(KVP_F32, sequences * channels), a.dt = filled(KVP_F32, sequences * channels);
    a.b = a.c = filled(KVP_F32, sequences * channels), a.out = filled(KVP_F32, sequences * channels);
    show("mamba step", KB_SSM_SCAN, &a, (struct work){.updated = 2 * state, .target = 0.75});
    release((struct kb_span[]){a.a_log, a.d, a.state, a.x, a.dt, a.b, a.out}, 7);
}

static void mamba2_step(uint32_t heads, uint32_t dim, uint32_t n)
{
    const uint64_t sequences = sequences_of(4ull * heads * dim * n);
    struct kb_ssd_scan a = {.batch = sequences, .tokens = 1, .heads = heads, .head_dim = dim, .groups = 1, .n = n, .stride = heads * dim,
                            .out_stride = heads * dim, .format = KVP_F32, .state_format = KVP_F32};
    const uint64_t channels = (uint64_t)heads * dim;

    a.a_log = a.d = a.dt_bias = filled(KVP_F32, heads), a.state = filled(KVP_F32, sequences * channels * n);
    a.x = a.dt = a.b = a.c = filled(KVP_F32, sequences * channels), a.out = filled(KVP_F32, sequences * channels);
    show("mamba-2 step", KB_SSD_SCAN, &a, (struct work){.updated = 8.0 * (double)sequences * (double)channels * n, .target = 0.75});
    release((struct kb_span[]){a.a_log, a.state, a.x, a.out}, 4);
}

static void rwkv4_step(uint32_t channels)
{
    const uint64_t sequences = sequences_of(12ull * channels), n = sequences * channels;
    struct kb_wkv4 a = {.batch = sequences, .tokens = 1, .channels = channels, .stride = channels, .out_stride = channels,
                        .format = KVP_F32, .state_format = KVP_F32};

    a.decay = a.first = filled(KVP_F32, channels), a.state = filled(KVP_F32, 3 * n);
    a.r = a.k = a.v = filled(KVP_F32, n), a.out = filled(KVP_F32, n);
    show("rwkv-4 step", KB_WKV4, &a, (struct work){.updated = 24.0 * (double)n, .target = 0.75});
    release((struct kb_span[]){a.decay, a.state, a.r, a.out}, 4);
}

static void rwkv6_step(uint32_t heads, uint32_t dim)
{
    const uint64_t sequences = sequences_of(4ull * heads * dim * dim);
    const uint64_t channels = (uint64_t)heads * dim;
    struct kb_wkv6 a = {.batch = sequences, .tokens = 1, .heads = heads, .dim = dim, .stride = channels, .out_stride = channels,
                        .format = KVP_F32, .state_format = KVP_F32};

    a.decay = a.first = filled(KVP_F32, channels), a.state = filled(KVP_F32, sequences * channels * dim);
    a.r = a.k = a.v = a.w = filled(KVP_F32, sequences * channels), a.out = filled(KVP_F32, sequences * channels);
    show("rwkv-6 step", KB_WKV6, &a, (struct work){.updated = 8.0 * (double)sequences * (double)channels * dim, .target = 0.75});
    release((struct kb_span[]){a.decay, a.state, a.r, a.out}, 4);
}

static void rwkv7_step(uint32_t heads, uint32_t dim)
{
    const uint64_t sequences = sequences_of(4ull * heads * dim * dim);
    const uint64_t channels = (uint64_t)heads * dim, n = sequences * channels;
    struct kb_wkv7 a = {.batch = sequences, .tokens = 1, .heads = heads, .dim = dim, .stride = channels, .out_stride = channels,
                        .format = KVP_F32, .state_format = KVP_F32};

    a.k_k = a.k_a = filled(KVP_F32, channels), a.state = filled(KVP_F32, n * dim);
    a.r = filled(KVP_F32, n), a.w = filled(KVP_F32, n), a.k = filled(KVP_F32, n), a.v = filled(KVP_F32, n), a.a = filled(KVP_F32, n);
    a.out = filled(KVP_F32, n);
    show("rwkv-7 step", KB_WKV7, &a, (struct work){.updated = 8.0 * (double)n * dim, .target = 0.75});
    release((struct kb_span[]){a.k_k, a.state, a.r, a.w, a.k, a.v, a.a, a.out}, 8);
}

static struct kb_kivi packed(uint32_t bits, uint32_t kv_heads, uint32_t dim, uint64_t tokens, uint32_t group)
{
    struct kb_kivi x = {.capacity = tokens};

    x.codes = filled(KVP_I32, kv_heads * tokens * dim * bits / 32);
    x.scale = filled(KVP_F16, kv_heads * tokens * dim / group);
    x.min = filled(KVP_F16, kv_heads * tokens * dim / group);
    return x;
}

static void kivi(uint32_t bits, uint32_t group_heads, uint32_t kv_heads, uint32_t dim, uint64_t tokens)
{
    uint32_t heads = group_heads * kv_heads, residual = 128, group = 32;
    struct kb_attn_kivi a = {
        .batch = 1, .heads = heads, .kv_heads = kv_heads, .head_dim = dim, .bits = bits, .group = group, .scale_qk = 0.1f,
        .format = KVP_F16, .q_stride = heads * dim, .out_stride = heads * dim, .k_packed = tokens, .k_full = residual,
        .v_packed = tokens, .v_full = residual, .k_res_slots = residual, .v_res_slots = residual,
    };
    double bytes = 2.0 * kv_heads * (double)tokens * dim * (bits / 8.0 + 4.0 / group);
    char what[80];

    a.q = filled(KVP_F32, heads * dim);
    a.out = filled(KVP_F32, heads * dim);
    a.k_res = filled(KVP_F16, kv_heads * residual * dim);
    a.v_res = filled(KVP_F16, kv_heads * residual * dim);
    a.k = packed(bits, kv_heads, dim, tokens, group);
    a.v = packed(bits, kv_heads, dim, tokens, group);
    snprintf(what, sizeof(what), "attn_kivi int%u G %u Hkv %u d %u T %llu", bits, group_heads, kv_heads, dim,
             (unsigned long long)tokens);
    show(what, KB_ATTN_KIVI, &a, (struct work){.read = bytes, .flops = 4.0 * heads * (double)tokens * dim});
    release((struct kb_span[]){a.q, a.out, a.k_res, a.v_res, a.k.codes, a.k.scale, a.k.min, a.v.codes, a.v.scale,
                               a.v.min}, 10);
}

static void prompt(uint64_t tokens, uint64_t window, uint32_t heads, uint32_t kv_heads, uint32_t dim)
{
    struct kb_attn_prefill a = {.batch = 1, .tokens = tokens, .heads = heads, .kv_heads = kv_heads, .head_dim = dim,
                                .window = window, .scale = 0.1f, .stride = (heads + 2u * kv_heads) * dim,
                                .out_stride = heads * dim};
    struct kb_h2o_scores s = {.batch = 1, .tokens = tokens, .heads = heads, .kv_heads = kv_heads, .head_dim = dim,
                              .window = window, .scale = 0.1f, .stride = a.stride};
    double T = (double)tokens, w = window ? (double)window : T, pairs = w * (w + 1) / 2 + (T - w) * w;
    char what[80];

    a.q = a.k = a.v = s.q = s.k = filled(KVP_F32, tokens * a.stride);
    a.k.offset = s.k.offset = heads * dim * 4;
    a.v.offset = a.k.offset + kv_heads * dim * 4;
    a.out = filled(KVP_F32, tokens * a.out_stride);
    a.lse = s.lse = filled(KVP_F32, heads * tokens);
    s.scores = filled(KVP_F32, kv_heads * tokens);
    snprintf(what, sizeof(what), "attn_prefill H %u/%u d %u T %llu W %llu", heads, kv_heads, dim,
             (unsigned long long)tokens, (unsigned long long)window);
    show(what, KB_ATTN_PREFILL, &a, (struct work){.sgemm_flops = 4 * pairs * heads * dim, .target = 0.5});
    memcpy(what, "h2o_scores  ", 12);
    show(what, KB_H2O_SCORES, &s, (struct work){.sgemm_flops = 2 * pairs * heads * dim});
    release((struct kb_span[]){a.q, a.out, a.lse, s.scores}, 4);
}

static void rows(uint64_t n, uint32_t width)
{
    struct kb_norm norm = {.rows = n, .groups = 1, .width = width, .in_stride = width, .out_stride = width, .eps = 1e-5,
                           .format = KVP_F16};
    struct kb_act act = {.rows = n, .width = width / 2, .gated = true, .in_stride = width, .out_stride = width / 2};
    struct kb_rope rope = {.rows = n, .heads = width / 128, .head_dim = 128, .stride = width};
    struct kb_kivi_pack_k k = {.batch = 1, .kv_heads = width / 128, .head_dim = 128, .bits = 2, .group = 32, .tokens = n,
                               .format = KVP_F16, .src_is_f32 = true, .src_token = width, .src_head = 128};
    struct kb_kivi_pack_v v;
    double cells = (double)n * width;

    norm.in = act.in = rope.x = k.src = filled(KVP_F32, n * width);
    norm.out = act.out = filled(KVP_F32, n * width);
    norm.weight = filled(KVP_F16, width);
    rope.positions = filled(KVP_I32, n);
    rope.inv_freq = filled(KVP_F32, 64);
    k.dst = packed(2, width / 128, 128, n, 32);
    v = (struct kb_kivi_pack_v){
        .batch = 1, .kv_heads = k.kv_heads, .head_dim = 128, .bits = 2, .group = 32, .tokens = n, .format = KVP_F16,
        .src_is_f32 = true, .src = k.src, .src_token = width, .src_head = 128, .dst = k.dst};
    show("norm, rows in and out", KB_NORM, &norm, (struct work){.read = 8 * cells});
    show("act silu gated, rows in and out", KB_ACT, &act, (struct work){.read = 6 * cells});
    show("rope, rows in and out", KB_ROPE, &rope, (struct work){.read = 8 * cells});
    show("kivi_pack_k int2, rows in", KB_KIVI_PACK_K, &k, (struct work){.read = 4 * cells});
    show("kivi_pack_v int2, rows in", KB_KIVI_PACK_V, &v, (struct work){.read = 4 * cells});
    release((struct kb_span[]){norm.in, norm.out, norm.weight, rope.positions, rope.inv_freq, k.dst.codes, k.dst.scale,
                               k.dst.min}, 8);
}

static void window(uint64_t context, uint64_t last)
{
    const double full = decode(KVP_F16, 4, 8, 128, context, 0), part = decode(KVP_F16, 4, 8, 128, last, 0);

    printf("%-46s %9.1f x, asked 10 %s\n", "full attention over a window of 128, at 8192", full / part, full >= 10 * part ? "met" : "below");
}

int main(int argc, char **argv)
{
    struct kb_options opt = {.threads = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 0};
    struct kvp_error e = {0};
    struct kb_info info;

    if (argc > 2)
        rounds = (unsigned)strtoul(argv[2], NULL, 10);
    if (argc > 3 || rounds < 1 || rounds > MOST_ROUNDS) {
        fprintf(stderr, "usage: bench [THREADS [ROUNDS]], ROUNDS 1 to %d\n", MOST_ROUNDS);
        return 2;
    }
    ok(kb_cpu.open(&dev, &opt, &e), &e);
    ok(kb_cpu.info(dev, &info, &e), &e);
    threads = info.threads;
    printf("%s, %u threads, %s, %s; medians of %u rounds\n", info.name, info.threads, info.isa, info.libraries, rounds);
    printf("%-46s %12s %12s %5s   %s\n", "kernel", "takes", "limit", "ratio", "target");
    probe = (struct kb_read_probe){.bytes = PROBE_BYTES, .src = filled(KVP_I32, PROBE_BYTES / 4), .out = filled(KVP_F32, 1)};
    update = malloc(UPDATE_BYTES);
    if (!update)
        return 3;
    memset(update, 0, UPDATE_BYTES);
    for (int f = KVP_F32; f <= KVP_BF16; f++)
        gemm((enum kvp_format)f, 1, 14336, 4096);
    gemm(KVP_F16, 4, 14336, 4096);
    gemm(KVP_F16, 8, 14336, 4096);
    gemm(KVP_F16, 16, 4096, 4096);
    gemm(KVP_F16, 64, 4096, 4096);
    gemm(KVP_F16, 512, 4096, 4096);
    gemm(KVP_F32, 512, 4096, 4096);
    for (uint32_t group = 1; group <= 8; group *= 2)
        decode(KVP_F16, group, 8, 128, 32768, 0);
    decode(KVP_INT8, 1, 8, 128, 65536, 0);
    decode(KVP_INT4, 1, 8, 128, 65536, 0);
    decode(KVP_BF16, 4, 8, 128, 32768, 0);
    decode(KVP_F32, 4, 8, 128, 16384, 0);
    decode(KVP_F16, 4, 8, 128, 32768, 16);
    decode(KVP_F16, 4, 1, 128, 262144, 0);
    decode(KVP_F16, 7, 2, 64, 131072, 0);
    window(8192, 128);
    mamba_step(4096, 16);
    mamba2_step(64, 64, 128);
    rwkv4_step(4096);
    rwkv6_step(32, 64);
    rwkv7_step(32, 64);
    for (uint32_t bits = 2; bits <= 4; bits += 2) {
        kivi(bits, 1, 32, 128, 32768);
        kivi(bits, 4, 8, 128, 65536);
    }
    prompt(2048, 0, 8, 2, 128);
    prompt(4096, 512, 8, 2, 64);
    rows(2048, 4096);
    free(update);
    release((struct kb_span[]){probe.src, probe.out}, 2);
    kb_cpu.close(dev);
    return 0;
}
