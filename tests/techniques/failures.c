/* failures.c - every allocation refused once: the error is said, nothing is held, no byte is left behind */
#include "tests/techniques/rig.h"

static const struct kb_backend *real;
static uint64_t countdown; /* allocations until one is refused */

static kvp_err alloc(struct kb_dev *dev, uint64_t bytes, struct kb_buf **out, struct kvp_error *e)
{
    if (countdown-- == 0)
        return kvp_fail(e, KVP_ENOMEM, "refused on purpose");
    return real->alloc(dev, bytes, out, e);
}

static const struct rig_case cases[] = {
    {"", KVP_F32, 2, 3, 12, 4, 2, 8, 3, {4, 0, 6}, 0},
    {"growing", KVP_F32, 2, 3, 6, 4, 2, 8, 2, {0}, 0},
    {"window:5 paged:2", KVP_F32, 2, 3, 12, 4, 2, 8, 3, {4, 0, 6}, 0},
    {"h2o:heavy=3,recent=4", KVP_F32, 2, 3, 12, 4, 2, 8, 2, {0}, 0},
    {"h2o:heavy=3,recent=4 growing", KVP_F32, 2, 3, 12, 4, 2, 8, 2, {0}, 0},
    {"h2o:heavy=3,recent=4 paged:4", KVP_F32, 2, 3, 12, 4, 2, 8, 2, {0}, 0},
    {"kivi:bits=4,group=8,residual=8", KVP_F32, 2, 3, 20, 4, 2, 8, 2, {0}, 0},
    {"kivi:bits=4,group=8,residual=8 contiguous:64", KVP_F32, 2, 3, 20, 4, 2, 8, 2, {0}, 0},
    {"kivi:bits=4,group=8,residual=8 window:9 paged:8", KVP_F32, 2, 3, 20, 4, 2, 8, 2, {0, 12}, 0},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

/* Open and a whole run; the first error. */
static kvp_err attempt(struct rig *r, struct kvp_error *e)
{
    KVP_TRY(r->ops->open(&r->cache, &r->env, e));
    for (uint64_t tokens = r->c->prompt; r->seen < r->c->context; r->seen += tokens, tokens = 1)
        for (uint32_t l = 0; l < r->c->layers; l++)
            KVP_TRY(rig_try_layer(r, l, tokens, e));
    return KVP_OK;
}

START_TEST(each_allocation)
{
    kvp_err rc = KVP_ENOMEM;
    uint64_t n = 0;

    for (; rc != KVP_OK; n++) {
        struct kb_backend refusing;
        struct kvp_error e = {0};
        struct rig r;

        rig_prepare(&r, &cases[_i], "ref", true);
        real = r.be;
        refusing = *real;
        refusing.alloc = alloc;
        r.led.be = &refusing;
        countdown = n;
        rc = attempt(&r, &e);
        ck_assert_msg(rc == KVP_OK || (rc == KVP_ENOMEM && strstr(e.text, "refused on purpose")), "%s, allocation %llu: %s",
                      r.c->stack, (unsigned long long)n, e.text);
        rig_close(&r);
    }
    ck_assert_uint_gt(n, 4); /* K and V of two layers at the least */
}
END_TEST

/* A store of a name that nobody knows. */
START_TEST(unknown_store)
{
    struct kvp_error e = {0};
    struct rig r;

    rig_prepare(&r, &cases[0], "ref", false);
    r.stack.spec[r.stack.n] = (struct kvp_spec){.name = "nonesuch", .axis = KVP_AXIS_STORE};
    r.stack.n++;
    ck_assert_int_eq(r.ops->open(&r.cache, &r.env, &e), KVP_ENOTSUP);
    ck_assert_ptr_nonnull(strstr(e.text, "nonesuch"));
    rig_close(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("failures");
    TCase *tc = tcase_create("failures");
    SRunner *sr = srunner_create(s);
    int failed;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, each_allocation, 0, N_CASES);
    tcase_add_test(tc, unknown_store);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed != 0;
}
