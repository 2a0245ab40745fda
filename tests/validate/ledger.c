/* ledger.c - the ledger counts what was asked of the device: no more, no less, and at its highest. */
#include "tests/validate/tiny.h"
#include "validate/ledger.h"

#include <inttypes.h>

static struct kb_dev *dev;
static struct ledger led;

static void setup(void)
{
    struct kvp_error err = {0};

    must(kb_ref.open(&dev, &(struct kb_options){.threads = 1}, &err));
    led = (struct ledger){.be = &kb_ref, .dev = dev};
}

static void teardown(void)
{
    kb_ref.close(dev);
}

/* A sequence of requests and returns, with what must stand after each. */
START_TEST(counts_by_hand)
{
    static const struct {
        int mem;            /* which allocation; */
        uint64_t bytes;     /* 0: it goes back */
        enum led_tag tag;
        uint64_t now, peak, cache_peak, total_peak; /* now and peak of the tag */
    } steps[] = {
        {0, 100, LED_WEIGHTS, 100, 100, 0, 100},
        {1, 30, LED_CACHE, 30, 30, 30, 130},
        {2, 7, LED_METADATA, 7, 7, 37, 137},
        {3, 50, LED_CACHE, 80, 80, 87, 187},      /* old and new of a growing cache live together */
        {1, 0, LED_CACHE, 50, 80, 87, 187},
        {4, 1000, LED_TRACE, 1000, 1000, 87, 187}, /* instrumentation is not the model's */
        {5, 20, LED_ACTIVATION, 20, 20, 87, 187},  /* 177 now: below the high water */
        {6, 9, LED_STATE, 9, 9, 87, 187},
        {7, 5, LED_WORKSPACE, 5, 5, 87, 191},
        {3, 0, LED_CACHE, 0, 80, 87, 191},
        {1, 81, LED_CACHE, 81, 81, 88, 222},       /* a buffer used before, under its old name */
    };
    struct led_mem mem[8] = {0};

    for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
        struct kvp_error err = {0};

        if (steps[i].bytes)
            must(led_alloc(&led, steps[i].tag, steps[i].bytes, &mem[steps[i].mem], &err));
        else
            led_free(&led, &mem[steps[i].mem]);
        ck_assert_uint_eq(led.now[steps[i].tag], steps[i].now);
        ck_assert_uint_eq(led.peak[steps[i].tag], steps[i].peak);
        ck_assert_uint_eq(led.cache_peak, steps[i].cache_peak);
        ck_assert_uint_eq(led.total_peak, steps[i].total_peak);
    }
    ck_assert_uint_eq(led.allocations, 9);
    for (int i = 0; i < 8; i++)
        led_free(&led, &mem[i]);
    for (int t = 0; t < LED_TAGS; t++)
        ck_assert_uint_eq(led.now[t], 0);
    ck_assert_uint_eq(led.total_peak, 222);
}
END_TEST

START_TEST(nothing_asked_nothing_held)
{
    struct kvp_error err = {0};
    struct led_mem m;

    must(led_alloc(&led, LED_CACHE, 0, &m, &err));
    ck_assert_ptr_null(m.buf);
    ck_assert_uint_eq(led.allocations, 0);
    led_free(&led, &m);
    led_free(&led, &m);
    ck_assert_uint_eq(led.now[LED_CACHE], 0);
}
END_TEST

static kvp_err never(struct kb_dev *d, uint64_t bytes, struct kb_buf **out, struct kvp_error *e)
{
    (void)d;
    *out = NULL;
    return kvp_fail(e, KVP_ENOMEM, "%" PRIu64 " are too many", bytes);
}

START_TEST(a_refusal_counts_nothing)
{
    struct kb_backend full = kb_ref;
    struct kvp_error err = {0};
    struct led_mem m;

    full.alloc = never;
    led.be = &full;
    ck_assert_int_eq(led_alloc(&led, LED_METADATA, 77, &m, &err), KVP_ENOMEM);
    ck_assert_ptr_null(m.buf);
    ck_assert_uint_eq(led.now[LED_METADATA], 0);
    ck_assert_uint_eq(led.total_peak, 0);
    ck_assert_str_eq(err.text, "77 bytes for cache metadata: 77 are too many");
    led_free(&led, &m);
    ck_assert_uint_eq(led.now[LED_METADATA], 0);
}
END_TEST

/* An engine that cannot be built gives everything back, whichever allocation fails. */
static int left;
static int64_t held;

static kvp_err counted(struct kb_dev *d, uint64_t bytes, struct kb_buf **out, struct kvp_error *e)
{
    if (left-- == 0)
        return kvp_fail(e, KVP_ENOMEM, "full");
    held++;
    return kb_ref.alloc(d, bytes, out, e);
}

static void given_back(struct kb_dev *d, struct kb_buf *b)
{
    held -= b != NULL;
    kb_ref.release(d, b);
}

START_TEST(a_failed_engine_gives_everything_back)
{
    static const struct kvp_stack dense;
    struct kb_backend small = kb_ref;
    struct kvp_model m;
    kvp_err rc = KVP_ENOMEM;
    int tries = 0;

    small.alloc = counted;
    small.release = given_back;
    tiny_load(&m, 1);
    for (; rc != KVP_OK; tries++) {
        const struct eng_options o = {.backend = &small, .batch = 1, .prompt = 4, .generate = 2, .weights = KVP_F16};
        struct kvp_error err = {0};
        struct eng *g;

        left = tries;
        rc = eng_open(&g, &m, &dense, &o, &err);
        ck_assert_msg(rc == KVP_OK || rc == KVP_ENOMEM, "allocation %d: %s", tries, err.text);
        ck_assert((rc == KVP_OK) == (g != NULL));
        eng_close(g);
        ck_assert_int_eq(held, 0);
    }
    ck_assert_int_gt(tries, 20); /* weights of 3 layers, cache, activations */
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("ledger");
    TCase *t = tcase_create("ledger");
    SRunner *r;
    int failed;

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 60);
    tcase_add_test(t, counts_by_hand);
    tcase_add_test(t, nothing_asked_nothing_held);
    tcase_add_test(t, a_refusal_counts_nothing);
    tcase_add_test(t, a_failed_engine_gives_everything_back);
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
