/* half.c - conversions: every 16-bit value, and rounding against a search that knows only the values' order */
#include "tests/kernels/kit.h"

#include "kernels/cpu/ops.h"

/* A finite f16 by the definition of IEEE 754-2019, 3.4. */
static double f16_value(uint32_t h)
{
    double sign = h & 0x8000u ? -1 : 1;
    int exponent = (int)(h >> 10 & 31u), mantissa = (int)(h & 1023u);

    return sign * (exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24));
}

START_TEST(f16_all)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float x = kb_from_f16((uint16_t)h);

        if ((h & 0x7c00u) == 0x7c00u && (h & 1023u))
            ck_assert(isnan(x) && isnan(kb_from_f16(kb_to_f16(x))));
        else if ((h & 0x7c00u) == 0x7c00u)
            ck_assert(isinf(x) && (x < 0) == (h > 0x8000u) && kb_to_f16(x) == h);
        else
            ck_assert_msg((double)x == f16_value(h) && kb_to_f16(x) == h, "0x%04x", h);
    }
}
END_TEST

START_TEST(bf16_all)
{
    for (uint32_t h = 0; h < 65536; h++) {
        float x = kb_from_bf16((uint16_t)h);

        ck_assert(kb_f32_bits(x) == h << 16);
        ck_assert(isnan(x) ? isnan(kb_from_bf16(kb_to_bf16(x))) : kb_to_bf16(x) == h);
    }
}
END_TEST

/* Nearest to x > 0 among f16's values 0 .. 0x7bff and the next after the largest (infinity); ties to even. */
static uint32_t f16_nearest(double x)
{
    uint32_t lo = 0, hi = 0x7c00;

    while (hi - lo > 1) {
        uint32_t mid = (lo + hi) / 2;

        if (f16_value(mid) <= x)
            lo = mid;
        else
            hi = mid;
    }
    double below = x - f16_value(lo), above = (hi == 0x7c00 ? 65536 : f16_value(hi)) - x;
    return below < above || (below == above && lo % 2 == 0) ? lo : hi;
}

START_TEST(f16_rounds)
{
    for (uint32_t i = 0; i < 400000; i++) {
        uint32_t bits = 0x32000000u + (uint32_t)(kit_random() % 0x16000000u); /* 2^-27 .. 2^17 */
        float x;

        if (i % 4 == 0) /* exactly between two halves, or one step beside */
            bits = (bits & ~0x1fffu) + 0x1000u + (uint32_t)(i / 4 % 3) - 1;
        x = kb_bits_f32(bits);
        ck_assert_msg(kb_to_f16(x) == f16_nearest((double)x) && kb_to_f16(-x) == (f16_nearest((double)x) | 0x8000u), "%a",
                      (double)x);
    }
}
END_TEST

static const struct {
    float x;
    uint16_t f16, bf16;
} by_hand[] = {
    {0.0f, 0x0000, 0x0000},      {-0.0f, 0x8000, 0x8000},     {1.0f, 0x3c00, 0x3f80},
    {-2.0f, 0xc000, 0xc000},     {65504.0f, 0x7bff, 0x4780},  {65519.0f, 0x7bff, 0x4780},
    {65520.0f, 0x7c00, 0x4780},  {1e30f, 0x7c00, 0x714a},     {0x1p-24f, 0x0001, 0x3380},
    {0x1p-25f, 0x0000, 0x3300},  {0x1.8p-25f, 0x0001, 0x3340}, {0x1p-14f, 0x0400, 0x3880},
    {0x1.ffcp-15f, 0x0400, 0x3880}, {1.00390625f, 0x3c04, 0x3f80}, {1.01171875f, 0x3c0c, 0x3f82},
    {0x1.fffffep127f, 0x7c00, 0x7f80}, {INFINITY, 0x7c00, 0x7f80},
};

START_TEST(values_by_hand)
{
    for (size_t i = 0; i < COUNT(by_hand); i++) {
        ck_assert_msg(kb_to_f16(by_hand[i].x) == by_hand[i].f16, "f16 of %a", (double)by_hand[i].x);
        ck_assert_msg(kb_to_bf16(by_hand[i].x) == by_hand[i].bf16, "bf16 of %a", (double)by_hand[i].x);
    }
}
END_TEST

/* The vector forms give the scalar forms' bits, in every lane and in the tail. */
START_TEST(vectors)
{
    static float in[65536 + 5], out[65536 + 5];
    static uint16_t half[65536 + 5];

    if (!__builtin_cpu_supports("avx2"))
        return;
    for (int f = KVP_F16; f <= KVP_BF16; f++) {
        for (uint32_t i = 0; i < COUNT(half); i++)
            half[i] = (uint16_t)i;
        cpu_ops_avx2.widen[f](out, half, COUNT(half));
        for (uint32_t i = 0; i < COUNT(half); i++)
            ck_assert(kb_f32_bits(out[i]) == kb_f32_bits(kb_load((enum kvp_format)f, half, i)));
        for (uint32_t i = 0; i < COUNT(in); i++)
            in[i] = kb_bits_f32((uint32_t)kit_random() & (i % 2 ? 0xffffffffu : 0xfffff000u));
        cpu_ops_avx2.narrow[f](half, in, COUNT(in));
        for (uint32_t i = 0; i < COUNT(in); i++) {
            uint16_t want;

            kb_store((enum kvp_format)f, &want, 0, in[i]);
            ck_assert_msg(half[i] == want, "%a: 0x%04x, expected 0x%04x", (double)in[i], half[i], want);
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kernels/half");
    TCase *t = tcase_create("half");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, f16_all);
    tcase_add_test(t, bf16_all);
    tcase_add_test(t, f16_rounds);
    tcase_add_test(t, values_by_hand);
    tcase_add_test(t, vectors);
    suite_add_tcase(s, t);
    return kit_main(s);
}
