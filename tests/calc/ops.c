/* ops.c - FLOPs and traffic against numbers worked by hand, and which ops a stack lists. */
#include "calc/ops.h"
#include "tests/calc/calc_test.h"

#include <math.h>

/* Sums over ops of a phase; `op` KVP_OPS: all of them. */
static uint64_t flops_of(const struct kvp_estimate *est, enum kvp_phase phase, unsigned op, bool full)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est->n_ops; i++)
        if (est->ops[i].phase == phase && (op == KVP_OPS || est->ops[i].op == op))
            sum += full ? est->ops[i].flops_full : est->ops[i].flops;
    return sum;
}

static uint64_t read_of(const struct kvp_estimate *est, enum kvp_phase phase, unsigned op)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est->n_ops; i++)
        if (est->ops[i].phase == phase && est->ops[i].op == op)
            sum += est->ops[i].read_bytes;
    return sum;
}

static uint64_t written_of(const struct kvp_estimate *est, enum kvp_phase phase, unsigned op)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < est->n_ops; i++)
        if (est->ops[i].phase == phase && est->ops[i].op == op)
            sum += est->ops[i].written_bytes;
    return sum;
}

#define PRE KVP_PREFILL
#define DEC KVP_DECODE
#define ALL KVP_OPS

static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    enum kvp_phase phase;
    unsigned op;
    bool full;
    uint64_t flops;
} vectors[] = {
    /* decode attention 4*L*B*H*d*S; linear layers and head 2 * (parameters - embedding - norms) */
    {"llama-2-7b", "", {.context = 4096}, DEC, KVP_OP_ATTN, false, 2147483648},
    {"llama-2-7b", "", {.context = 4096}, DEC, ALL, false, 2147483648 + 13214154752},
    {"llama-2-7b", "", {.context = 4096, .batch = 8}, DEC, ALL, false, 8 * (2147483648 + 13214154752)},
    /* prefill: triangle 2*L*H*d*T*(T+1), square 4*L*H*d*T*T; one row of logits 2*D*V */
    {"llama-2-7b", "", {.context = 4096}, PRE, KVP_OP_ATTN, false, 4399120252928},
    {"llama-2-7b", "", {.context = 4096}, PRE, KVP_OP_ATTN, true, 8796093022208},
    {"llama-2-7b", "", {.context = 4096}, PRE, ALL, false, 57450818437120},
    {"llama-2-7b", "", {.context = 4096}, PRE, ALL, true, 57450818437120 - 4399120252928 + 8796093022208},
    {"llama-2-7b", "", {.context = 4096}, PRE, KVP_OP_HEAD, false, 262144000},
    /* a band of W 4096: m*(m+1)/2 + (T-m)*W pairs, here 8390656 + 4096*4096; 4*32*4096 FLOPs a pair */
    {"mistral-7b-v0.1", "", {.context = 8192}, PRE, KVP_OP_ATTN, false, 13195213275136},
    {"mistral-7b-v0.1", "", {.context = 8192}, DEC, KVP_OP_ATTN, false, 2147483648},
    {"mistral-7b-v0.3", "window:4096", {.context = 8192}, DEC, KVP_OP_ATTN, false, 2147483648},
    /* h2o: min(T, h + r + 1) keys; the second pass is 2*L*H*d per pair of the triangle, 8390656 pairs */
    {"llama-2-7b", "h2o", {.context = 4096}, DEC, KVP_OP_ATTN, false, 429391872}, /* 4*32*4096*819 */
    {"llama-2-7b", "h2o", {.context = 4096}, DEC, KVP_OP_EVICT, false, 838656},   /* 32*32*819 additions */
    {"llama-2-7b", "h2o", {.context = 4096}, PRE, KVP_OP_SCORE, false, 2199560126464},
    {"llama-2-7b", "h2o", {.context = 4096}, PRE, KVP_OP_SCORE, true, 4398046511104},
    /* kivi: 2 for each packed element read; 4094 tokens left 31*128 = 3968 keys and 4094-128 = 3966 values
     * packed: 2*7934*4096*32 */
    {"llama-2-7b", "kivi", {.context = 4095}, DEC, KVP_OP_ATTN, false, 2146959360ULL + 2079850496},
    {"llama-2-7b", "kivi", {.context = 4095}, DEC, KVP_OP_QUANT, false, 262144},      /* one value: 2*4096*32 */
    {"llama-2-7b", "kivi", {.context = 4096}, DEC, KVP_OP_QUANT, false, 129 * 262144}, /* and 128 keys */
    {"llama-2-7b", "kivi", {.context = 4096}, PRE, KVP_OP_QUANT, false, (4096 + 3968) * 262144ULL},
};

START_TEST(flops)
{
    struct kvp_model m = load(vectors[_i].model);
    struct kvp_estimate est = estimate_of(&m, vectors[_i].specs, vectors[_i].w, (struct kvp_options){0});
    const uint64_t got = flops_of(&est, vectors[_i].phase, vectors[_i].op, vectors[_i].full);

    ck_assert_msg(got == vectors[_i].flops, "%s '%s': %" PRIu64 ", expected %" PRIu64, vectors[_i].model, vectors[_i].specs, got, vectors[_i].flops);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Llama-2-7B in f16 at 4096: a step reads every weight but the embedding table, 13,214,687,232 bytes, and
 * the cache, 2,147,483,648. The ops' reads are these and the f32 activations that go in. */
START_TEST(decode_traffic)
{
    static const enum kvp_op weighted[] = {KVP_OP_ATTN_NORM, KVP_OP_QKV, KVP_OP_O_PROJ, KVP_OP_MLP_NORM, KVP_OP_MLP_UP,
                                           KVP_OP_MLP_DOWN, KVP_OP_FINAL_NORM, KVP_OP_HEAD};
    /* per layer: x into two norms, h into qkv and up, o_proj its input and the residual, down 11008 and the
     * residual; then the last norm and the head */
    const uint64_t activations = 4 * (32 * (4 * 4096ULL + 2 * 4096 + 11008 + 4096) + 2 * 4096);
    struct kvp_model m = load("llama-2-7b");
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 4096}, (struct kvp_options){0});
    uint64_t weights = 0;

    for (size_t i = 0; i < COUNT(weighted); i++)
        weights += read_of(&est, DEC, weighted[i]);
    ck_assert_uint_eq(weights - activations, 13214687232);
    ck_assert_uint_eq(read_of(&est, DEC, KVP_OP_ATTN) - 32 * 4 * 4096, 2147483648);
    ck_assert_uint_eq(written_of(&est, DEC, KVP_OP_APPEND), 524288); /* one token's k and v */
    ck_assert_uint_eq(read_of(&est, DEC, KVP_OP_EMBED), 4096 * 2 + 4);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Weights once per step, whatever the batch; cache once per sequence. */
START_TEST(weights_are_shared_by_the_batch)
{
    struct kvp_model m = load("llama-2-7b");
    struct kvp_estimate one = estimate_of(&m, "", (struct kvp_workload){.context = 4096}, (struct kvp_options){0});
    struct kvp_estimate many = estimate_of(&m, "", (struct kvp_workload){.context = 4096, .batch = 4}, (struct kvp_options){0});
    const uint64_t in = 4 * 4096; /* f32 */

    ck_assert_uint_eq(read_of(&many, DEC, KVP_OP_QKV) - 32 * 4 * in, read_of(&one, DEC, KVP_OP_QKV) - 32 * in);
    ck_assert_uint_eq(read_of(&many, DEC, KVP_OP_ATTN), 4 * read_of(&one, DEC, KVP_OP_ATTN));
    kvp_estimate_free(&one);
    kvp_estimate_free(&many);
    kvp_model_free(&m);
}
END_TEST

/* What attention reads beside q (L * 4 * D = 524288 bytes), and what a growing step copies. */
static const struct {
    const char *specs;
    uint64_t T;
    enum kvp_op op;
    uint64_t read;
} reads[] = {
    {"window:1024", 4096, KVP_OP_ATTN, 524288 + 1024 * 524288ULL},
    {"paged:16", 4096, KVP_OP_ATTN, 524288 + 4096 * 524288ULL + 32 * 256 * 4},
    /* kivi at 4096 reads what 4095 tokens left: 3968 keys packed, 127 whole and the new one; 3967 values packed,
     * 128 whole and the new one in f32, 4*4096*32. A head's packed token is 32 bytes of codes and 16 of scales
     * and mins a side, a whole one 256 */
    {"kivi", 4096, KVP_OP_ATTN, 524288 + ((3968 + 3967) * 48ULL + (128 + 128) * 256) * 1024 + 524288},
    {"kivi", 100, KVP_OP_ATTN, 524288 + (100 + 99) * 256ULL * 1024 + 524288},
    /* a window of W shows W - 128 - 1 packed values beside the 128 whole ones and the new one, and where W is
     * the residual 127 whole ones; keys are the ring of W tokens and 128 whole */
    {"window:1024 kivi", 4096, KVP_OP_ATTN, 524288 + ((1024 + 895) * 48ULL + (128 + 128) * 256) * 1024 + 524288},
    {"window:128 kivi", 4096, KVP_OP_ATTN, 524288 + (128 * 48ULL + (128 + 127) * 256) * 1024 + 524288},
    /* h2o: 818 stored slots and the new row in f32 */
    {"h2o", 4096, KVP_OP_ATTN, 524288 + 818 * 524288ULL + 2 * 524288},
    {"growing", 4096, KVP_OP_GROW, 4095 * 524288ULL},
    {"window:1024 growing", 1024, KVP_OP_GROW, 1023 * 524288ULL},
    {"window:1024 growing", 1025, KVP_OP_GROW, 0}, /* a full ring stays where it is */
};

START_TEST(cache_reads)
{
    struct kvp_model m = load("llama-2-7b");
    struct kvp_estimate est = estimate_of(&m, reads[_i].specs, (struct kvp_workload){.context = reads[_i].T}, (struct kvp_options){0});

    ck_assert_msg(read_of(&est, DEC, reads[_i].op) == reads[_i].read, "'%s': %" PRIu64 ", expected %" PRIu64, reads[_i].specs,
                  read_of(&est, DEC, reads[_i].op), reads[_i].read);
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* The ops that a stack lists, of those that not every forward pass has; the engine times the same. */
static const struct {
    const char *model, *specs;
    struct kvp_workload w;
    const char *prefill, *decode;
} sets[] = {
    {"llama-2-7b", "", {.prompt = 200, .generate = 9}, "rope cache_append", "rope cache_append"},
    {"gpt2", "", {.prompt = 200, .generate = 9}, "cache_append", "cache_append"},
    {"qwen3-0.6b", "", {.prompt = 200, .generate = 9}, "qk_norm rope cache_append", "qk_norm rope cache_append"},
    {"llama-2-7b", "window:64", {.prompt = 200, .generate = 9}, "rope cache_append", "rope cache_append"},
    {"llama-2-7b", "paged", {.prompt = 200, .generate = 9}, "rope cache_append", "rope cache_append"},
    {"llama-2-7b", "growing", {.prompt = 200, .generate = 9}, "rope cache_append", "rope cache_append cache_grow"},
    {"llama-2-7b", "h2o", {.prompt = 200, .generate = 9}, "rope cache_append score evict", "rope evict"},
    {"llama-2-7b", "h2o:heavy=100,recent=150 growing", {.prompt = 200, .generate = 9}, "rope cache_append score evict", "rope cache_grow evict"},
    {"llama-2-7b", "h2o growing", {.prompt = 200, .generate = 9}, "rope cache_append score evict", "rope evict"},
    {"llama-2-7b", "kivi", {.prompt = 200, .generate = 9}, "rope cache_append quantize", "rope cache_append quantize"},
    {"llama-2-7b", "kivi", {.prompt = 100, .generate = 9}, "rope cache_append", "rope cache_append"},
};

START_TEST(op_sets)
{
    static const enum kvp_op optional[] = {KVP_OP_QK_NORM, KVP_OP_ROPE, KVP_OP_APPEND, KVP_OP_GROW, KVP_OP_SCORE, KVP_OP_EVICT, KVP_OP_QUANT};
    struct kvp_model m = load(sets[_i].model);
    struct kvp_estimate est = estimate_of(&m, sets[_i].specs, sets[_i].w, (struct kvp_options){0});

    for (int phase = 0; phase < KVP_PHASES; phase++) {
        char listed[256] = "";
        uint32_t always = 0;

        for (size_t k = 0; k < COUNT(optional); k++)
            for (uint32_t i = 0; i < est.n_ops; i++)
                if (est.ops[i].op == optional[k] && (int)est.ops[i].phase == phase)
                    snprintf(listed + strlen(listed), sizeof(listed) - strlen(listed), "%s%s", *listed ? " " : "", kvp_op_name(optional[k]));
        ck_assert_str_eq(listed, phase == KVP_PREFILL ? sets[_i].prefill : sets[_i].decode);
        for (uint32_t i = 0; i < est.n_ops; i++)
            always += (int)est.ops[i].phase == phase;
        for (const char *s = listed; *s; s += strcspn(s, " ") + (s[strcspn(s, " ")] == ' '))
            always--;
        ck_assert_uint_eq(always, 11); /* embed, norm, qkv, attention, o, norm, up, act, down, norm, head */
    }
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

/* Execution order: embed first, head last, prefill before decode, every op of the tiny hybrid per class. */
START_TEST(order)
{
    struct kvp_model m = tiny(true);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 5}, (struct kvp_options){0});
    uint64_t calls = 0;

    ck_assert_int_eq(est.ops[0].op, KVP_OP_EMBED);
    ck_assert_int_eq(est.ops[est.n_ops - 1].op, KVP_OP_HEAD);
    for (uint32_t i = 1; i < est.n_ops; i++)
        ck_assert(est.ops[i].phase >= est.ops[i - 1].phase);
    for (uint32_t i = 0; i < est.n_ops; i++)
        calls += est.ops[i].phase == KVP_DECODE && est.ops[i].op == KVP_OP_ATTN ? est.ops[i].calls : 0;
    ck_assert_uint_eq(calls, 2);
    /* 4 * B * H * d * S: one layer sees 2 keys, one 5; prefill pairs 1+2+2+2+2 and 15 */
    ck_assert_uint_eq(flops_of(&est, DEC, KVP_OP_ATTN, false), 4 * 8 * (2 + 5));
    ck_assert_uint_eq(flops_of(&est, PRE, KVP_OP_ATTN, false), 4 * 8 * (9 + 15));
    ck_assert_uint_eq(flops_of(&est, PRE, KVP_OP_ATTN, true), 4 * 8 * 2 * 25);
    kvp_estimate_free(&est);
}
END_TEST

START_TEST(band)
{
    bool over = false;

    for (uint64_t n = 1; n < 30; n++)
        for (uint64_t w = 1; w < 35; w++) {
            uint64_t pairs = 0;

            for (uint64_t i = 0; i < n; i++)
                for (uint64_t j = 0; j <= i; j++)
                    pairs += i - j < w;
            ck_assert_uint_eq(ops_band(&over, n, w), pairs);
        }
    ck_assert_uint_eq(ops_band(&over, 100, UINT64_MAX), 5050);
    ck_assert(!over);
    ops_band(&over, 1ULL << 40, UINT64_MAX);
    ck_assert(over);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("ops");

    tcase_add_loop_test(t, flops, 0, (int)COUNT(vectors));
    tcase_add_test(t, decode_traffic);
    tcase_add_test(t, weights_are_shared_by_the_batch);
    tcase_add_loop_test(t, cache_reads, 0, (int)COUNT(reads));
    tcase_add_loop_test(t, op_sets, 0, (int)COUNT(sets));
    tcase_add_test(t, order);
    tcase_add_test(t, band);
    return run("calc: ops", &t, 1);
}
