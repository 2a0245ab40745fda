/* bench.c - what the CPU kernels reach of this machine: GB/s beside the read bandwidth, GFLOP/s beside sgemm.
 *
 * Each round times the yardstick and then the kernel, so that a slow moment of the machine meets both; printed are
 * the medians and the median of the rounds' ratios. Bytes are what a kernel must move once: weights, stored keys
 * and values, codes and scales, or rows in and out. A multiply-add is two FLOPs; causal attention counts the
 * visible pairs only. Usage: bench [THREADS [ROUNDS]] */
#include "kernels/backend.h"
#include "kernels/half.h"
#include "kernels/ops.h"

#include <math.h>
#include <stdlib.h>
#ifndef KVP_NO_OPENBLAS
#include <cblas.h>
#endif

#define PROBE_BYTES ((uint64_t)512 << 20)
#define MOST_ROUNDS 101

static struct kb_dev *dev;
static unsigned rounds = 9;
static uint32_t threads;
static struct kb_read_probe probe;

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
    return NAN;
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

/* amount: bytes or FLOPs of one run, in units of 1e9 a second. */
static void measure(const char *what, enum kb_kernel k, const void *args, double amount, const char *unit,
                    double (*yardstick)(void))
{
    double rate[MOST_ROUNDS], yard[MOST_ROUNDS], ratio[MOST_ROUNDS];

    run(k, args);
    for (unsigned i = 0; i < rounds; i++) {
        yard[i] = yardstick();
        rate[i] = amount / run(k, args) * 1e-9;
        ratio[i] = rate[i] / yard[i];
    }
    printf("%-44s %8.2f %-7s %8.2f %6.0f %%\n", what, median(rate, rounds), unit, median(yard, rounds),
           100 * median(ratio, rounds));
    fflush(stdout);
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
    if (m <= 8)
        measure(what, KB_GEMM, &a, (double)n * k * (double)kb_element(f), "GB/s", read_rate);
    else
        measure(what, KB_GEMM, &a, 2.0 * (double)m * n * k, "GFLOP/s", sgemm_rate);
    release((struct kb_span[]){a.x, a.w, a.out, a.work}, 4);
}

static void decode(enum kvp_format f, uint32_t group, uint32_t kv_heads, uint32_t dim, uint64_t used, uint32_t block)
{
    struct kb_attn_decode a = {.batch = 1, .heads = group * kv_heads, .kv_heads = kv_heads, .head_dim = dim, .scale = 0.1f,
                               .used = used, .q_stride = group * kv_heads * dim, .out_stride = group * kv_heads * dim};
    struct kb_kv kv = {.format = f, .heads = kv_heads, .dim = dim, .slots = used, .block = block};
    struct kvp_error e = {0};
    char what[80];

    a.q = filled(KVP_F32, a.q_stride);
    a.out = filled(KVP_F32, a.q_stride);
    if (block) { /* pages in a scattered order: 5 is prime to any number of pages that is a power of two */
        uint64_t pages = used / block;
        int32_t *t = malloc(pages * 4);

        if (!t)
            exit(3);
        for (uint64_t i = 0; i < pages; i++)
            t[i] = (int32_t)(i * 5 % pages);
        kv.table_stride = pages;
        kv.table = filled(KVP_I32, pages);
        ok(kb_cpu.write(dev, kv.table, t, pages * 4, &e), &e);
        free(t);
    }
    a.k = a.v = kv;
    a.k.data = filled(f, kv_heads * used * dim);
    a.v.data = filled(f, kv_heads * used * dim);
    snprintf(what, sizeof(what), "attn_decode %s G %u Hkv %u d %u T %llu%s", kvp_format_name(f), group, kv_heads, dim,
             (unsigned long long)used, block ? " paged" : "");
    measure(what, KB_ATTN_DECODE, &a, 2.0 * kv_heads * (double)used * dim * (double)kb_element(f), "GB/s", read_rate);
    release((struct kb_span[]){a.q, a.out, a.k.data, a.v.data, kv.table}, 5);
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
    measure(what, KB_ATTN_KIVI, &a, bytes, "GB/s", read_rate);
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
    measure(what, KB_ATTN_PREFILL, &a, 4 * pairs * heads * dim, "GFLOP/s", sgemm_rate);
    memcpy(what, "h2o_scores  ", 12);
    measure(what, KB_H2O_SCORES, &s, 2 * pairs * heads * dim, "GFLOP/s", sgemm_rate);
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
    measure("norm, rows in and out", KB_NORM, &norm, 8 * cells, "GB/s", read_rate);
    measure("act silu gated, rows in and out", KB_ACT, &act, 6 * cells, "GB/s", read_rate);
    measure("rope, rows in and out", KB_ROPE, &rope, 8 * cells, "GB/s", read_rate);
    measure("kivi_pack_k int2, rows in", KB_KIVI_PACK_K, &k, 4 * cells, "GB/s", read_rate);
    measure("kivi_pack_v int2, rows in", KB_KIVI_PACK_V, &v, 4 * cells, "GB/s", read_rate);
    release((struct kb_span[]){norm.in, norm.out, norm.weight, rope.positions, rope.inv_freq, k.dst.codes, k.dst.scale,
                               k.dst.min}, 8);
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
    printf("%-44s %8s %-7s %8s %8s\n", "kernel", "rate", "unit", "machine", "ratio");
    probe = (struct kb_read_probe){.bytes = PROBE_BYTES, .src = filled(KVP_I32, PROBE_BYTES / 4), .out = filled(KVP_F32, 1)};
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
    decode(KVP_BF16, 4, 8, 128, 32768, 0);
    decode(KVP_F32, 4, 8, 128, 16384, 0);
    decode(KVP_F16, 4, 8, 128, 32768, 16);
    decode(KVP_F16, 4, 1, 128, 262144, 0);
    decode(KVP_F16, 7, 2, 64, 131072, 0);
    for (uint32_t bits = 2; bits <= 4; bits += 2) {
        kivi(bits, 1, 32, 128, 32768);
        kivi(bits, 4, 8, 128, 65536);
    }
    prompt(2048, 0, 8, 2, 128);
    prompt(4096, 512, 8, 2, 64);
    rows(2048, 4096);
    release((struct kb_span[]){probe.src, probe.out}, 2);
    kb_cpu.close(dev);
    return 0;
}
