/* k_quants.c - blocks of 256 weights in 4 and 6 bits, with scales of their sub-blocks in 6 and 8 bits (llama.cpp's k-quants;
 * the choice of scales is ggml-quants.c's quantize_row_q4_K_ref and quantize_row_q6_K_ref, the layouts kernels/code.h's) */
#include "kernels/code.h"
#include "validate/engine/coding.h"
#include "validate/engine/convert.h"

#include <math.h>

static int nearest(float x, int low, int high)
{
    return x <= (float)low ? low : x >= (float)high ? high : (int)lrintf(x);
}

static float as_half(float x, uint16_t *bits)
{
    cvt_store(KVP_F16, bits, x);
    return cvt_load(KVP_F16, bits);
}

/* ---- 4 bits: x is about scale * code - least, 32 numbers at a time --------------------------------- */

enum { SUB4 = 32, TOP4 = 15, STEPS = 21 };

struct line {
    float scale, min; /* scale * code + min */
};

static float misfit(const struct line *l, const float *x, const float *weight, const int *code)
{
    float sum = 0;

    for (int i = 0; i < SUB4; i++) {
        const float off = l->scale * (float)code[i] + l->min - x[i];

        sum += weight[i] * off * off;
    }
    return sum;
}

static void codes_of(int *code, const float *x, float min, float by)
{
    for (int i = 0; i < SUB4; i++)
        code[i] = nearest(by * (x[i] - min), 0, TOP4);
}

/* The line of least weighted squares through codes that are given; false: there is none. */
static bool fit(struct line *out, const float *x, const float *weight, const int *code)
{
    float w = 0, wx = 0, wl = 0, wll = 0, wxl = 0, d;

    for (int i = 0; i < SUB4; i++) {
        const float l = (float)code[i];

        w += weight[i];
        wx += weight[i] * x[i];
        wl += weight[i] * l;
        wll += weight[i] * l * l;
        wxl += weight[i] * l * x[i];
    }
    d = w * wll - wl * wl;
    if (d <= 0)
        return false;
    *out = (struct line){(w * wxl - wx * wl) / d, (wll * wx - wl * wxl) / d};
    if (out->min > 0)
        *out = (struct line){wxl / wll, 0};
    return true;
}

/* Of 21 ways to cut the range, the one whose best line is nearest. Large numbers weigh more. */
static struct line best_line(const float *x)
{
    float weight[SUB4], squares = 0, low = x[0], high = x[0], least;
    struct line best;
    int code[SUB4];

    for (int i = 0; i < SUB4; i++) {
        squares += x[i] * x[i];
        low = fminf(low, x[i]);
        high = fmaxf(high, x[i]);
    }
    low = fminf(low, 0);
    for (int i = 0; i < SUB4; i++)
        weight[i] = sqrtf(squares / SUB4) + fabsf(x[i]);
    if (high == low)
        return (struct line){0, low};
    best = (struct line){(high - low) / TOP4, low};
    codes_of(code, x, low, TOP4 / (high - low));
    least = misfit(&best, x, weight, code);
    for (int s = 0; s < STEPS; s++) {
        struct line l;

        codes_of(code, x, low, (-1 + 0.1f * (float)s + TOP4) / (high - low));
        if (fit(&l, x, weight, code) && misfit(&l, x, weight, code) < least) {
            least = misfit(&l, x, weight, code);
            best = l;
        }
    }
    return best;
}

/* Scale and minimum of sub-block j, 6 bits each. */
static void put_scale(uint8_t *to, int j, int scale, int min)
{
    if (j < 4) {
        to[j] = (uint8_t)(to[j] | scale);
        to[j + 4] = (uint8_t)(to[j + 4] | min);
        return;
    }
    to[j + 4] = (uint8_t)((scale & 15) | (min & 15) << 4);
    to[j - 4] = (uint8_t)(to[j - 4] | scale >> 4 << 6);
    to[j] = (uint8_t)(to[j] | min >> 4 << 6);
}

void wt_encode_q4_k(void *block, const float *x)
{
    struct kb_q4_k *y = block;
    struct line l[8];
    float most = 0, deepest = 0, d, dmin;

    memset(y, 0, sizeof(*y));
    for (int j = 0; j < 8; j++) {
        l[j] = best_line(x + SUB4 * j);
        most = fmaxf(most, l[j].scale);
        deepest = fmaxf(deepest, -l[j].min);
    }
    d = as_half(most / 63, &y->d);
    dmin = as_half(deepest / 63, &y->dmin);
    for (int j = 0; j < 8; j++) {
        const int scale = most > 0 ? nearest(63 / most * l[j].scale, 0, 63) : 0, min = deepest > 0 ? nearest(63 / deepest * -l[j].min, 0, 63) : 0;
        const float by = d * (float)scale, minus = dmin * (float)min;

        put_scale(y->scales, j, scale, min);
        for (int i = 0; i < SUB4 && by != 0; i++)
            y->q[j / 2 * SUB4 + i] = (uint8_t)(y->q[j / 2 * SUB4 + i] | nearest((x[SUB4 * j + i] + minus) / by, 0, TOP4) << (j % 2 ? 4 : 0));
    }
}

/* ---- 6 bits: x is about scale * (code - 32), 16 numbers at a time ----------------------------------- */

enum { SUB6 = 16, HALF6 = 32 };

/* Of 19 scales around the one that reaches the largest number, the one that squares like best; large numbers weigh more. */
static float best_scale(const float *x)
{
    float most = 0, scale = 0, best = 0;

    for (int i = 0; i < SUB6; i++)
        most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    if (fabsf(most) < 1e-15f)
        return 0;
    for (int n = 0; n < 19; n++) {
        const int step = n == 0 ? 0 : n <= 9 ? n - 10 : n - 9; /* none, then -9 to 9 */
        const float by = -((float)HALF6 + 0.1f * (float)step) / most;
        float lx = 0, ll = 0;

        for (int i = 0; i < SUB6; i++) {
            const float l = (float)nearest(by * x[i], -HALF6, HALF6 - 1), w = x[i] * x[i];

            lx += w * x[i] * l;
            ll += w * l * l;
        }
        if (ll > 0 && (n == 0 || lx * lx > best * ll)) {
            scale = lx / ll;
            best = scale * lx;
        }
    }
    return scale;
}

void wt_encode_q6_k(void *block, const float *x)
{
    struct kb_q6_k *y = block;
    float scale[16], most = 0, d;

    memset(y, 0, sizeof(*y));
    for (int j = 0; j < 16; j++) {
        scale[j] = best_scale(x + SUB6 * j);
        most = fabsf(scale[j]) > fabsf(most) ? scale[j] : most;
    }
    if (fabsf(most) < 1e-15f)
        return;
    d = as_half(most / -128, &y->d);
    for (int j = 0; j < 16; j++) {
        y->scales[j] = (int8_t)nearest(-128 / most * scale[j], -128, 127);
        for (int i = 0; i < SUB6; i++) {
            const int at = SUB6 * j + i, part = at % 128 / 32, l = at % 32;
            const float by = d * (float)y->scales[j];
            const int code = by != 0 ? nearest(x[at] / by, -HALF6, HALF6 - 1) + HALF6 : HALF6;
            uint8_t *low = &y->ql[at / 128 * 64 + part % 2 * 32 + l], *high = &y->qh[at / 128 * 32 + l];

            *low = (uint8_t)(*low | (code & 15) << (part < 2 ? 0 : 4));
            *high = (uint8_t)(*high | code >> 4 << 2 * part);
        }
    }
}
