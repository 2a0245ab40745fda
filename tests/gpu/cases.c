#include "tests/gpu/cases.h"

static const char *yes(bool x, const char *word)
{
    return x ? word : "";
}

static unsigned long long llu(uint64_t x)
{
    return x;
}

uint32_t case_dim(struct lab *l)
{
    static const uint32_t dims[] = {8, 64, 128, 20, 80, 33, 256, 96, 160};

    return dims[lab_below(l, l->tiny ? 4 : sizeof(dims) / sizeof(dims[0]))];
}

void case_heads(struct lab *l, uint32_t *heads, uint32_t *kv_heads)
{
    static const uint32_t groups[] = {1, 2, 4, 7, 8, 12};

    *kv_heads = (uint32_t)lab_between(l, 1, 3);
    *heads = *kv_heads * groups[lab_below(l, 6)];
}

struct kb_kv case_kv(struct lab *l, enum kvp_format f, uint64_t batch, uint32_t heads, uint32_t dim, uint64_t slots)
{
    struct kb_kv kv = {.format = f, .heads = heads, .dim = dim, .slots = slots + lab_below(l, 3)};
    uint64_t rows = batch * kv.slots;

    if (lab_below(l, 2)) {
        kv.block = (uint32_t)lab_between(l, 1, 17);
        kv.table_stride = (slots + kv.block - 1) / kv.block + lab_below(l, 2);
        kv.table = lab_permutation(l, batch * kv.table_stride);
        rows = batch * kv.table_stride * kv.block;
    }
    kv.data = lab_floats(l, f, rows * heads * dim, 1);
    return kv;
}

uint64_t case_kv_elements(const struct kb_kv *kv, uint64_t batch)
{
    return batch * kv->heads * kv->dim * (kv->block ? kv->table_stride * kv->block : kv->slots);
}

void case_embed(struct lab *l)
{
    const uint64_t rows = lab_between(l, 1, 70);
    const uint32_t width = (uint32_t)lab_between(l, 1, 300), vocab = (uint32_t)lab_between(l, 1, 500);
    const enum kvp_format f = lab_format(l);
    struct kb_embed a = {.rows = rows, .width = width, .vocab = vocab, .format = f};

    a.tokens = lab_ints(l, rows, vocab);
    a.table = lab_floats(l, f, (uint64_t)vocab * width, 1);
    if (lab_below(l, 2)) {
        a.position_ids = lab_ints(l, rows, 100);
        a.position_table = lab_floats(l, f, 100ull * width, 1);
    }
    a.out = lab_out(l, KVP_F32, rows * width, 0);
    SAY(l, "rows %llu width %u %s%s", llu(rows), width, kvp_format_name(f), yes(a.position_ids.buf, " positions"));
    lab_run(l, KB_EMBED, &a, sizeof(a));
}

void case_norm(struct lab *l)
{
    struct kb_norm a = {.rows = lab_between(l, 1, 40), .groups = (uint32_t)lab_between(l, 1, 5),
                        .width = (uint32_t)lab_between(l, 1, l->tiny ? 200 : 5000), .layer = lab_below(l, 2),
                        .eps = 1e-5, .format = lab_format(l)};

    a.in_stride = a.out_stride = (uint64_t)a.groups * a.width + lab_below(l, 5);
    a.weight = lab_floats(l, a.format, a.width, 2);
    if (lab_below(l, 2))
        a.bias = lab_floats(l, a.format, a.width, 1);
    a.in = lab_floats(l, KVP_F32, a.rows * a.in_stride, 3);
    a.out = a.in;
    if (lab_below(l, 2))
        a.out = lab_out(l, KVP_F32, a.rows * a.out_stride, 1e-5);
    else
        lab_changes(l, a.in, KVP_F32, a.rows * a.in_stride, 1e-5);
    SAY(l, "%s rows %llu groups %u width %u %s%s%s", a.layer ? "layer" : "rms", llu(a.rows), a.groups, a.width,
        kvp_format_name(a.format), yes(a.bias.buf, " bias"), yes(a.in.offset == a.out.offset, " in place"));
    lab_run(l, KB_NORM, &a, sizeof(a));
}

void case_gemm(struct lab *l)
{
    static const uint64_t rows[] = {1, 2, 7, 8, 9, 33, 130};
    const uint64_t most = l->tiny ? 60 : 1100, fourth = lab_below(l, 2) ? 4 : 1;
    struct kb_gemm a = {.m = rows[lab_below(l, 7)], .n = (uint32_t)lab_between(l, 1, most), .accumulate = lab_below(l, 2),
                        .k = (uint32_t)(lab_between(l, 1, most / fourth) * fourth), .format = lab_format(l)};

    a.x_stride = a.k + lab_below(l, 2) * fourth;
    a.out_stride = a.n + lab_below(l, 3);
    a.x = lab_floats(l, KVP_F32, a.m * a.x_stride, 1);
    a.w = lab_floats(l, a.format, (uint64_t)a.n * a.k, 1);
    if (lab_below(l, 2))
        a.bias = lab_floats(l, a.format, a.n, 3);
    a.out = lab_floats(l, KVP_F32, a.m * a.out_stride, 1);
    lab_changes(l, a.out, KVP_F32, a.m * a.out_stride, 2e-5);
    a.work_bytes = lab_between(l, 1, a.n) * a.k * 4 + lab_below(l, 4) * 4;
    a.work = lab_floats(l, KVP_F32, a.work_bytes / 4, 1);
    lab_scratch(l, a.work, a.work_bytes);
    SAY(l, "m %llu n %u k %u %s%s%s work %llu", llu(a.m), a.n, a.k, kvp_format_name(a.format), yes(a.bias.buf, " bias"),
        yes(a.accumulate, " accumulate"), llu(a.work_bytes));
    lab_run(l, KB_GEMM, &a, sizeof(a));
}

void case_rope(struct lab *l)
{
    struct kb_rope a = {.rows = lab_between(l, 1, 60), .heads = (uint32_t)lab_between(l, 1, 9), .head_dim = 2 * (case_dim(l) / 2)};

    a.stride = (uint64_t)a.heads * a.head_dim + lab_below(l, 9);
    a.x = lab_floats(l, KVP_F32, a.rows * a.stride, 1);
    lab_changes(l, a.x, KVP_F32, a.rows * a.stride, 1e-5);
    a.positions = lab_ints(l, a.rows, 1 << 17);
    a.inv_freq = lab_positive(l, KVP_F32, a.head_dim / 2, 1);
    SAY(l, "rows %llu heads %u dim %u", llu(a.rows), a.heads, a.head_dim);
    lab_run(l, KB_ROPE, &a, sizeof(a));
}

void case_act(struct lab *l)
{
    struct kb_act a = {.rows = lab_between(l, 1, 40), .width = (uint32_t)lab_between(l, 1, 400), .gated = lab_below(l, 2),
                       .kind = (enum kb_act_kind)lab_below(l, 4)};
    const bool in_place = lab_below(l, 2);

    a.in_stride = (uint64_t)a.width * (a.gated ? 2 : 1) + lab_below(l, 4);
    a.out_stride = lab_below(l, 2) ? a.in_stride : a.width + lab_below(l, a.in_stride - a.width + 1);
    a.in = lab_floats(l, KVP_F32, a.rows * a.in_stride, 4);
    a.out = a.in;
    if (in_place)
        lab_changes(l, a.in, KVP_F32, a.rows * a.in_stride, 1e-5);
    else
        a.out = lab_out(l, KVP_F32, a.rows * a.out_stride, 1e-5);
    SAY(l, "kind %d rows %llu width %u strides %llu %llu%s%s", (int)a.kind, llu(a.rows), a.width, llu(a.in_stride),
        llu(a.out_stride), yes(a.gated, " gated"), yes(in_place, " in place"));
    lab_run(l, KB_ACT, &a, sizeof(a));
}

void case_cache_write(struct lab *l)
{
    const uint32_t heads = (uint32_t)lab_between(l, 1, 4), dim = case_dim(l);
    struct kb_cache_write a = {.batch = lab_between(l, 1, 4), .count = lab_between(l, 1, 40), .slot = lab_below(l, 20)};

    a.dst = case_kv(l, lab_format(l), a.batch, heads, dim, a.slot + a.count);
    lab_changes(l, a.dst.data, a.dst.format, case_kv_elements(&a.dst, a.batch), 0);
    a.src_first = lab_below(l, 5);
    a.src_tokens = a.src_first + a.count + lab_below(l, 5);
    a.src_stride = (uint64_t)heads * dim + lab_below(l, 7);
    a.src = lab_floats(l, KVP_F32, a.batch * a.src_tokens * a.src_stride, 2);
    if (lab_below(l, 2)) {
        a.index_stride = a.count + lab_below(l, 3);
        a.index = lab_ints(l, a.batch * heads * a.index_stride, a.src_tokens);
    }
    SAY(l, "batch %llu count %llu slot %llu heads %u dim %u block %u %s%s", llu(a.batch), llu(a.count), llu(a.slot), heads, dim,
        a.dst.block, kvp_format_name(a.dst.format), yes(a.index.buf, " index"));
    lab_run(l, KB_CACHE_WRITE, &a, sizeof(a));
}

void case_read_probe(struct lab *l)
{
    struct kb_read_probe a = {.bytes = 64 * lab_between(l, 1, l->tiny ? 100 : 20000)};

    a.src = lab_bits(l, a.bytes);
    a.out = lab_out(l, KVP_F32, 1, 0);
    SAY(l, "bytes %llu", llu(a.bytes));
    lab_run(l, KB_READ_PROBE, &a, sizeof(a));
}
