/* backend.c - finding backends, memory and its errors, refusals */
#include "tests/kernels/kit.h"

static const char *const names[] = {"cpu", "ref"};

START_TEST(find)
{
    const struct kb_backend *be = NULL;
    struct kvp_error e = {0};

    kit_ok(kb_find(&be, names[_i], &e), &e);
    ck_assert_str_eq(be->name, names[_i]);
    ck_assert_uint_eq(be->abi_version, KB_ABI_VERSION);
    ck_assert_uint_eq(be->size, sizeof(*be));
}
END_TEST

START_TEST(find_refuses)
{
    const struct kb_backend *be = NULL;
    struct kvp_error e = {0}, f = {0}, g = {0};

    ck_assert_int_eq(kb_find(&be, "tpu", &e), KVP_EINPUT);
    ck_assert_str_eq(e.text, "device tpu is not known: expected cpu, ref or cuda");
    setenv("KVPROOF_CUDA", "/nowhere/kvproof-cuda.so", 1);
    ck_assert_int_eq(kb_find(&be, "cuda", &f), KVP_ENOTSUP);
    ck_assert_str_eq(f.text, "device cuda: KVPROOF_CUDA names /nowhere/kvproof-cuda.so, which cannot be read");
    setenv("KVPROOF_CUDA", "/proc/self/cmdline", 1); /* readable, and no shared object */
    ck_assert_int_eq(kb_find(&be, "cuda", &g), KVP_ENOTSUP);
    ck_assert_msg(strstr(g.text, "does not open") != NULL, "%s", g.text);
    ck_assert_ptr_null(be);
}
END_TEST

START_TEST(memory)
{
    const struct kb_backend *be = _i ? &kb_ref : &kb_cpu;
    struct kb_dev *dev = NULL;
    struct kb_buf *buf = NULL, *big = NULL;
    struct kvp_error e = {0}, none = {0}, far = {0}, out = {0};
    char in[100], back[100];
    uint64_t t0, t1;

    kit_ok(be->open(&dev, NULL, &e), &e);
    for (uint64_t bytes = 1; bytes <= 8u << 20; bytes *= 8) {
        kit_ok(be->alloc(dev, bytes, &buf, &e), &e);
        ck_assert_uint_eq((uintptr_t)buf->data % 64, 0);
        buf->data[bytes - 1] = 1;
        be->release(dev, buf);
    }
    ck_assert_int_eq(be->alloc(dev, 0, &big, &none), KVP_EINPUT);
    ck_assert_int_eq(be->alloc(dev, UINT64_MAX, &big, &far), KVP_ENOMEM);
    ck_assert_int_eq(be->alloc(dev, (uint64_t)1 << 46, &big, NULL), KVP_ENOMEM);
    ck_assert_ptr_null(big);

    kit_ok(be->alloc(dev, 100, &buf, &e), &e);
    memset(in, 7, sizeof(in));
    kit_ok(be->fill(dev, (struct kb_span){buf, 0}, 3, 100, &e), &e);
    kit_ok(be->write(dev, (struct kb_span){buf, 20}, in, 10, &e), &e);
    kit_ok(be->copy(dev, (struct kb_span){buf, 50}, (struct kb_span){buf, 15}, 10, &e), &e);
    kit_ok(be->sync(dev, &e), &e);
    kit_ok(be->read(dev, (struct kb_span){buf, 0}, back, 100, &e), &e);
    for (int i = 0; i < 100; i++)
        ck_assert_int_eq(back[i], (i >= 20 && i < 30) || (i >= 55 && i < 60) ? 7 : 3);
    ck_assert_int_eq(be->read(dev, (struct kb_span){buf, 95}, back, 6, &out), KVP_EINPUT);
    ck_assert_str_eq(out.text, "a read of 6 bytes at 95 leaves a buffer of 100 bytes");
    ck_assert_int_eq(be->write(dev, (struct kb_span){NULL, 0}, in, 1, NULL), KVP_EINPUT);
    ck_assert_int_eq(be->fill(dev, (struct kb_span){buf, UINT64_MAX}, 0, 2, NULL), KVP_EINPUT);
    ck_assert_int_eq(be->copy(dev, (struct kb_span){buf, 0}, (struct kb_span){buf, 1}, 100, NULL), KVP_EINPUT);
    kit_ok(be->now(dev, &t0, &e), &e);
    kit_ok(be->now(dev, &t1, &e), &e);
    ck_assert(t1 >= t0);
    be->release(dev, buf);
    be->release(dev, NULL);
    be->close(dev);
    be->close(NULL);
}
END_TEST

START_TEST(info)
{
    struct kb_info plain, best;
    struct kvp_error e = {0};

    kit_ok(kb_cpu.info(kit_cpu[1].dev, &plain, &e), &e);
    kit_ok(kb_cpu.info(kit_cpu[4].dev, &best, &e), &e);
    ck_assert_str_eq(plain.isa, "plain c");
    ck_assert_str_eq(plain.libraries, "none");
    ck_assert_uint_eq(plain.threads, 2);
    ck_assert_uint_eq(best.threads, 3);
    ck_assert(strlen(best.name) > 0 && best.memory_total > 0 && best.memory_free <= best.memory_total);
#ifndef KVP_NO_OPENBLAS
    ck_assert_msg(strncmp(best.libraries, "OpenBLAS", 8) == 0, "%s", best.libraries);
#endif
    if (__builtin_cpu_supports("avx2"))
        ck_assert_str_eq(best.isa, "avx2+fma+f16c");
}
END_TEST

/* Asking says no, running says why, nothing is written. */
START_TEST(refusals)
{
    struct kb_gemm gemm = {.m = 1, .n = 1, .k = 1, .format = KVP_INT4};
    struct kb_rope rope = {.rows = 1, .heads = 1, .head_dim = 3};
    struct kb_attn_prefill prefill = {.batch = 1, .tokens = 1, .heads = 3, .kv_heads = 2, .head_dim = 4};
    struct kb_attn_decode decode = {.batch = 1, .heads = 2, .kv_heads = 2, .head_dim = 4,
                                    .k = {.heads = 2, .dim = 4}, .v = {.heads = 2, .dim = 4}};
    struct kb_kivi_pack_k pack = {.batch = 1, .kv_heads = 1, .head_dim = 64, .bits = 3, .group = 32, .tokens = 32,
                                  .dst = {.capacity = 32}};
    struct kb_kivi_pack_v uneven = {.batch = 1, .kv_heads = 1, .head_dim = 80, .bits = 2, .group = 32, .tokens = 1,
                                    .dst = {.capacity = 32}};
    struct kb_h2o_select none = {.batch = 1, .tokens = 4, .kv_heads = 1, .heavy = 0, .recent = 2};
    struct kb_read_probe probe = {.bytes = 65};
    const struct {
        enum kb_kernel k;
        const void *args;
    } cases[] = {{KB_GEMM, &gemm}, {KB_ROPE, &rope}, {KB_ATTN_PREFILL, &prefill}, {KB_ATTN_DECODE, &decode},
                 {KB_KIVI_PACK_K, &pack}, {KB_KIVI_PACK_V, &uneven}, {KB_H2O_SELECT, &none}, {KB_READ_PROBE, &probe},
                 {KB_KERNELS, &probe}};
    struct kvp_error first = {0};

    for (size_t i = 0; i < COUNT(cases); i++) {
        ck_assert(!kb_cpu.supports(kit_cpu[0].dev, cases[i].k, cases[i].args));
        ck_assert_int_eq(kb_cpu.run(kit_cpu[0].dev, cases[i].k, cases[i].args, &first), KVP_ENOTSUP);
        ck_assert_int_eq(kb_ref.run(kit_ref, cases[i].k, cases[i].args, NULL), KVP_ENOTSUP);
    }
    ck_assert_str_eq(first.text, "cpu: gemm does not take these formats or dimensions");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/backend");
    TCase *t = tcase_create("backend");

    tcase_add_checked_fixture(t, kit_open, kit_close);
    tcase_set_timeout(t, 60);
    tcase_add_loop_test(t, find, 0, (int)COUNT(names));
    tcase_add_test(t, find_refuses);
    tcase_add_loop_test(t, memory, 0, 2);
    tcase_add_test(t, info);
    tcase_add_test(t, refusals);
    suite_add_tcase(s, t);
    return kit_main(s);
}
