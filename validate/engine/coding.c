#include "validate/engine/coding.h"

#include "kernels/code.h"
#include "validate/engine/convert.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* ---- what is asked for ---------------------------------------------------------------------------- */

/* Words of w:format. group and bits are the format's own unless given. */
static const struct {
    const char *word;
    struct wt_coding c;
    bool grouped, many_bits, scales;
} formats[] = {
    {"int8", {.on = true, .coding = KB_CODING_SCALED, .format = KVP_INT8, .group = 1, .factor = 1 / 127.0f}, false, false, false},
    {"nf4", {.on = true, .coding = KB_CODING_NF4, .format = KVP_INT4}, false, false, false},
    {"fp4", {.on = true, .coding = KB_CODING_FP4, .format = KVP_INT4}, false, false, false},
    {"gptq", {.on = true, .coding = KB_CODING_GPTQ, .format = KVP_INT4, .bits = 4, .group = 128, .method = WT_GPTQ}, true, true, false},
    {"awq", {.on = true, .coding = KB_CODING_AWQ, .format = KVP_INT4, .bits = 4, .group = 128, .method = WT_AWQ}, true, false, false},
    {"fp8", {.on = true, .coding = KB_CODING_SCALED, .format = KVP_FP8, .group = 1, .factor = 1}, false, false, true},
    {"w8a8", {.on = true, .coding = KB_CODING_W8A8, .format = KVP_INT8, .group = 1, .factor = 1}, false, false, true},
    {"mxfp4", {.on = true, .format = KVP_MXFP4}, false, false, false},
    {"mlx", {.on = true, .all = true, .coding = KB_CODING_MLX, .format = KVP_INT4, .bits = 4, .group = 64}, true, true, false},
    {"q8_0", {.on = true, .all = true, .format = KVP_Q8_0}, false, false, false},
    {"q6_k", {.on = true, .all = true, .format = KVP_Q6_K}, false, false, false},
    {"q4_k", {.on = true, .all = true, .format = KVP_Q4_K}, false, false, false},
    {"q5_1", {.on = true, .all = true, .format = KVP_Q5_1}, false, false, false},
    {"q5_0", {.on = true, .all = true, .format = KVP_Q5_0}, false, false, false},
    {"q4_1", {.on = true, .all = true, .format = KVP_Q4_1}, false, false, false},
    {"q4_0", {.on = true, .all = true, .format = KVP_Q4_0}, false, false, false},
};

static bool plain_word(const char *word, enum kvp_format *plain)
{
    static const enum kvp_format words[] = {KVP_F32, KVP_F16, KVP_BF16};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strcmp(kvp_format_name(words[i]), word) == 0) {
            *plain = words[i];
            return true;
        }
    return strcmp(word, "none") == 0;
}

static kvp_err only_for(const struct kvp_param *p, bool has, const char *word, struct kvp_error *e)
{
    return has || !p || !p->given ? KVP_OK : kvp_fail(e, KVP_EINPUT, "w: %s is no parameter of %s", p->key, word);
}

static kvp_err read_numbers(struct wt_coding *c, size_t f, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *bits = kvp_spec_param(spec, "bits"), *group = kvp_spec_param(spec, "group"), *scale = kvp_spec_param(spec, "scale");

    KVP_TRY(only_for(bits, formats[f].many_bits, formats[f].word, e));
    KVP_TRY(only_for(group, formats[f].grouped, formats[f].word, e));
    KVP_TRY(only_for(scale, formats[f].scales, formats[f].word, e));
    if (formats[f].many_bits && bits && bits->i != 2 && bits->i != 4 && bits->i != 8)
        return kvp_fail(e, KVP_ENOTSUP, "w: the engine stores %s in 2, 4 or 8 bits, not %" PRId64, formats[f].word, bits->i);
    c->bits = formats[f].many_bits && bits ? (uint32_t)bits->i : c->bits;
    if (formats[f].grouped && group && group->i > 0)
        c->group = (uint32_t)group->i;
    if (c->coding == KB_CODING_W8A8 && scale && scale->word && strcmp(scale->word, "block") == 0)
        return kvp_fail(e, KVP_EINPUT, "w: scale=block is no scale of %s", formats[f].word);
    if (formats[f].scales && scale && scale->word)
        c->group = strcmp(scale->word, "tensor") == 0 ? 0 : strcmp(scale->word, "block") == 0 ? 128 : 1;
    return KVP_OK;
}

static kvp_err read_w(struct wt_coding *out, const struct kvp_spec *spec, struct kvp_error *e)
{
    const struct kvp_param *word = kvp_spec_param(spec, "format"), *norms = kvp_spec_param(spec, "norms");
    const enum kvp_format plain = out->plain;
    size_t f = 0;

    if (plain_word(word->word, &out->plain)) {
        out->vectors = out->plain;
        if (norms && norms->word && strcmp(norms->word, "f32") == 0 && out->plain != KVP_F32)
            return kvp_fail(e, KVP_ENOTSUP, "w: the engine does not add f32 biases to products with %s weights", kvp_format_name(out->plain));
        return KVP_OK;
    }
    while (f < sizeof(formats) / sizeof(formats[0]) && strcmp(formats[f].word, word->word) != 0)
        f++;
    if (f == sizeof(formats) / sizeof(formats[0]))
        return kvp_fail(e, KVP_ENOTSUP, "w: the engine does not store weights as %s yet", word->word);
    *out = formats[f].c;
    out->plain = out->vectors = plain;
    if ((out->coding == KB_CODING_NONE && out->all) || (norms && norms->word && strcmp(norms->word, "f32") == 0))
        out->vectors = KVP_F32; /* llama.cpp's files keep vectors whole */
    if (norms && norms->word && strcmp(norms->word, "plain") == 0)
        out->vectors = plain;
    return read_numbers(out, f, spec, e);
}

/* int8 weights, a scale a row or one for all, inputs in int8 too. */
static kvp_err read_smoothquant(struct wt_coding *out, const struct kvp_spec *spec)
{
    const struct kvp_param *scale = kvp_spec_param(spec, "scale");

    *out = (struct wt_coding){.on = true, .coding = KB_CODING_W8A8, .format = KVP_INT8, .group = 1, .factor = 1, .method = WT_SMOOTH,
                              .plain = out->plain, .vectors = out->vectors};
    if (scale && scale->word && strcmp(scale->word, "tensor") == 0)
        out->group = 0;
    return KVP_OK;
}

kvp_err wt_coding_read(struct wt_coding *out, const struct kvp_stack *s, enum kvp_format plain, struct kvp_error *e)
{
    const struct kvp_spec *spec = kvp_stack_on(s, KVP_AXIS_WEIGHTS);

    *out = (struct wt_coding){.plain = plain, .vectors = plain};
    if (!spec)
        return KVP_OK;
    return strcmp(spec->name, "smoothquant") == 0 ? read_smoothquant(out, spec) : read_w(out, spec, e);
}

kvp_err wt_coding_params(const char **out, const struct kvp_spec *spec, struct kvp_error *e)
{
    const bool w = strcmp(spec->name, "w") == 0, smooth = strcmp(spec->name, "smoothquant") == 0;

    *out = w ? "format bits group scale norms" : "scale";
    return w || smooth ? KVP_OK
                       : kvp_fail(e, KVP_ENOTSUP, "%s: predicted only, the engine does not run it yet", spec->name);
}

/* ---- bytes ---------------------------------------------------------------------------------------- */

static uint64_t up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

kvp_err wt_coding_bytes(uint64_t out[WT_PARTS], const struct wt_coding *c, uint64_t rows, uint64_t cols, struct kvp_error *e)
{
    const uint64_t n = rows * cols, per = c->bits ? 32 / c->bits : 1, groups = c->group ? up(cols, c->group) : 1;

    memset(out, 0, WT_PARTS * sizeof(*out));
    switch (c->coding) {
    case KB_CODING_NONE:
        if (cols % kb_unit_of(c->format).elements)
            return kvp_fail(e, KVP_ENOTSUP, "w: a row of %" PRIu64 " weights is no whole number of %s blocks", cols, kvp_format_name(c->format));
        out[WT_CODE] = rows * kb_row_bytes(c->format, cols);
        break;
    case KB_CODING_W8A8:
    case KB_CODING_SCALED:
        out[WT_CODE] = n;
        out[WT_SCALE] = sizeof(float) * (c->group == 0 ? 1 : c->group == 1 ? rows : up(rows, c->group) * up(cols, c->group));
        break;
    case KB_CODING_NF4:
    case KB_CODING_FP4:
        out[WT_CODE] = up(n, 2);
        out[WT_SCALE] = sizeof(float) * up(n, 64);
        break;
    case KB_CODING_GPTQ:
        out[WT_CODE] = 4 * up(cols, per) * rows;
        out[WT_ZERO] = 4 * groups * up(rows, per);
        out[WT_SCALE] = 2 * groups * rows;
        out[WT_INDEX] = 4 * cols;
        break;
    case KB_CODING_AWQ:
        out[WT_CODE] = 4 * cols * up(rows, per);
        out[WT_ZERO] = 4 * groups * up(rows, per);
        out[WT_SCALE] = 2 * groups * rows;
        break;
    case KB_CODING_MLX:
        out[WT_CODE] = 4 * rows * up(cols, per);
        out[WT_SCALE] = out[WT_ZERO] = 2 * rows * groups;
    }
    return KVP_OK;
}

/* ---- rounding to nearest -------------------------------------------------------------------------- */

static float absmax(const float *x, uint64_t n)
{
    float most = 0;

    for (uint64_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

static void bounds(const float *x, uint64_t n, uint64_t step, float *low, float *high)
{
    *low = *high = x[0];
    for (uint64_t i = 1; i < n; i++) {
        *low = fminf(*low, x[i * step]);
        *high = fmaxf(*high, x[i * step]);
    }
}

static float as_f16(float x, uint16_t *bits)
{
    cvt_store(KVP_F16, bits, x);
    return cvt_load(KVP_F16, bits);
}

static int clamp(float x, int low, int high)
{
    return x <= (float)low ? low : x >= (float)high ? high : (int)lrintf(x);
}

/* The scale lies beside the code as the kernel multiplies it: int8 rows hold their largest magnitude. */
static void encode_scaled(void *const out[WT_PARTS], const struct wt_coding *c, const float *m, uint64_t rows, uint64_t cols)
{
    const uint64_t tall = c->group == 0 ? rows : c->group, wide = c->group < 2 ? cols : c->group, across = up(cols, wide);
    const float top = c->format == KVP_INT8 ? 127 : 448;

    for (uint64_t block = 0; block < up(rows, tall) * across; block++) {
        const uint64_t r0 = block / across * tall, r1 = r0 + tall < rows ? r0 + tall : rows;
        const uint64_t c0 = block % across * wide, c1 = c0 + wide < cols ? c0 + wide : cols;
        float most = 0;

        for (uint64_t r = r0; r < r1; r++)
            most = fmaxf(most, absmax(m + r * cols + c0, c1 - c0));
        ((float *)out[WT_SCALE])[block] = most / top / c->factor;
        for (uint64_t r = r0; r < r1; r++)
            for (uint64_t i = r * cols + c0; i < r * cols + c1; i++) {
                const float x = most > 0 ? m[i] / (most / top) : 0;

                ((uint8_t *)out[WT_CODE])[i] = c->format == KVP_INT8 ? (uint8_t)clamp(x, -127, 127) : kb_to_e4m3(x);
            }
    }
}

/* The nearest of 16 values in [-1, 1], found among them in order. */
static void encode_four_bit(void *const out[WT_PARTS], const struct wt_coding *c, const float *m, uint64_t rows, uint64_t cols)
{
    uint8_t order[16], *codes = out[WT_CODE];
    float value[16], middle[16];

    for (uint8_t i = 0; i < 16; i++) {
        uint8_t at = i;

        for (; at > 0 && (c->coding == KB_CODING_NF4 ? kb_from_nf4(order[at - 1]) > kb_from_nf4(i) : kb_from_fp4(order[at - 1]) > kb_from_fp4(i)); at--)
            order[at] = order[at - 1];
        order[at] = i;
    }
    for (int i = 0; i < 16; i++)
        value[i] = c->coding == KB_CODING_NF4 ? kb_from_nf4(order[i]) : kb_from_fp4(order[i]);
    for (int i = 0; i < 15; i++)
        middle[i] = (value[i] + value[i + 1]) / 2;
    memset(codes, 0, up(rows * cols, 2));
    for (uint64_t first = 0; first < rows * cols; first += 64) {
        const uint64_t n = rows * cols - first < 64 ? rows * cols - first : 64;
        const float most = absmax(m + first, n);

        ((float *)out[WT_SCALE])[first / 64] = most;
        for (uint64_t i = first; i < first + n; i++) {
            const float x = most > 0 ? m[i] / most : 0;
            int at = 0;

            for (int half = 8; half; half /= 2)
                at += x > middle[at + half - 1] ? half : 0;
            codes[i / 2] |= (uint8_t)(order[at] << (i % 2 ? 0 : 4));
        }
    }
}

void wt_range(const float *x, uint64_t n, uint64_t step, uint32_t bits, float *scale, int *zero)
{
    const int top = (1 << bits) - 1;
    float low, high;
    uint16_t half;

    bounds(x, n, step, &low, &high);
    low = fminf(low, 0);
    high = fmaxf(high, 0);
    *scale = as_f16((high - low) / (float)top, &half);
    *zero = *scale > 0 ? clamp(-low / *scale, 1, top) : 1;
    if (*zero == 1 && high > (float)(top - 1) * *scale) /* AutoGPTQ stores the zero less 1, so 0 cannot be */
        *scale = as_f16(high / (float)(top - 1), &half);
}

int wt_code(float x, float scale, int zero, uint32_t bits)
{
    return scale > 0 ? clamp(x / scale + (float)zero, 0, (1 << bits) - 1) : zero;
}

void wt_pack_gptq(void *const out[WT_PARTS], const struct wt_coding *c, const uint8_t *code, const float *scale, const uint8_t *zero,
                  uint64_t rows, uint64_t cols)
{
    const uint64_t per = 32 / c->bits, groups = up(cols, c->group), zeros = up(rows, per);
    uint32_t *words = out[WT_CODE], *packed = out[WT_ZERO];

    memset(words, 0, 4 * up(cols, per) * rows);
    memset(packed, 0, 4 * groups * zeros);
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < cols; j++)
            words[j / per * rows + i] |= (uint32_t)code[i * cols + j] << c->bits * (j % per);
    for (uint64_t g = 0; g < groups; g++)
        for (uint64_t i = 0; i < rows; i++) {
            packed[g * zeros + i / per] |= (uint32_t)(zero[g * rows + i] - 1) << c->bits * (i % per);
            cvt_store(KVP_F16, (uint16_t *)out[WT_SCALE] + g * rows + i, scale[g * rows + i]);
        }
    for (uint64_t j = 0; j < cols; j++)
        ((int32_t *)out[WT_INDEX])[j] = (int32_t)(j / c->group);
}

void wt_pack_awq(void *const out[WT_PARTS], const struct wt_coding *c, const uint8_t *code, const float *scale, const uint8_t *zero,
                 uint64_t rows, uint64_t cols)
{
    static const unsigned place[8] = {0, 4, 1, 5, 2, 6, 3, 7};
    const uint64_t across = up(rows, 8), groups = up(cols, c->group);
    uint32_t *words = out[WT_CODE], *packed = out[WT_ZERO];

    memset(words, 0, 4 * cols * across);
    memset(packed, 0, 4 * groups * across);
    for (uint64_t i = 0; i < rows; i++)
        for (uint64_t j = 0; j < cols; j++)
            words[j * across + i / 8] |= (uint32_t)code[i * cols + j] << 4 * place[i % 8];
    for (uint64_t g = 0; g < groups; g++)
        for (uint64_t i = 0; i < rows; i++) {
            packed[g * across + i / 8] |= (uint32_t)zero[g * rows + i] << 4 * place[i % 8];
            cvt_store(KVP_F16, (uint16_t *)out[WT_SCALE] + g * rows + i, scale[g * rows + i]);
        }
}

static void encode_mlx(void *const out[WT_PARTS], const struct wt_coding *c, const float *m, uint64_t rows, uint64_t cols)
{
    const uint64_t per = 32 / c->bits, groups = up(cols, c->group), words = up(cols, per);
    const int top = (1 << c->bits) - 1;

    memset(out[WT_CODE], 0, 4 * rows * words);
    for (uint64_t g = 0; g < rows * groups; g++) {
        const uint64_t r = g / groups, c0 = g % groups * c->group, n = cols - c0 < c->group ? cols - c0 : c->group;
        float low, high, scale, bias;

        bounds(m + r * cols + c0, n, 1, &low, &high);
        scale = as_f16((high - low) / (float)top, (uint16_t *)out[WT_SCALE] + g);
        bias = as_f16(low, (uint16_t *)out[WT_ZERO] + g);
        for (uint64_t j = c0; j < c0 + n; j++)
            ((uint32_t *)out[WT_CODE])[r * words + j / per] |=
                (uint32_t)(scale > 0 ? clamp((m[r * cols + j] - bias) / scale, 0, top) : 0) << c->bits * (j % per);
    }
}

/* ---- ggml's blocks: quantize_row_*_ref of ggml-quants.c -------------------------------------------- */

static float signed_extreme(const float *x)
{
    float most = 0;

    for (int i = 0; i < 32; i++)
        most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
    return most;
}

/* Codes x * by + add, cut, of 4 or 5 bits; returns the fifth ones. */
static uint32_t put_codes(uint8_t q[16], const float *x, float minus, float by, float add, unsigned top)
{
    uint32_t fifth = 0;

    for (int j = 0; j < 32; j++) {
        const float r = (x[j] - minus) * by;
        unsigned code = (unsigned)(int)(r + add);

        code = code > top ? top : code;
        if (j < 16)
            q[j] = (uint8_t)(code & 15);
        else
            q[j - 16] = (uint8_t)(q[j - 16] | (code & 15) << 4);
        fifth |= (code >> 4) << j;
    }
    return fifth;
}

/* OCP Microscaling Formats 1.0, section 6.3: the exponent of the largest magnitude less 2, that of e2m1's largest, is the
 * block's scale; elements over it to the nearest. Element i and i + 16 share a byte, as in ggml's block_mxfp4. */
static void encode_mxfp4(unsigned char *to, const float *x)
{
    const float most = absmax(x, 32);
    int e = 0;

    if (most > 0)
        frexpf(most, &e); /* most < 2^e */
    e = e - 1 - 2 + 127;
    to[0] = (unsigned char)(most > 0 && e > 0 ? e : 0);
    for (int i = 0; i < 16; i++) {
        const float scale = kb_from_e8m0(to[0]);

        to[1 + i] = (unsigned char)(kb_to_e2m1(x[i] / scale) | kb_to_e2m1(x[i + 16] / scale) << 4);
    }
}

static void encode_block(enum kvp_format f, unsigned char *to, const float *x)
{
    const bool five = f == KVP_Q5_0 || f == KVP_Q5_1, ranged = f == KVP_Q4_1 || f == KVP_Q5_1;
    const unsigned top = five ? 31 : 15;
    float low, high, d, by;
    uint32_t fifth;

    if (f == KVP_MXFP4) {
        encode_mxfp4(to, x);
        return;
    }
    bounds(x, 32, 1, &low, &high);
    d = f == KVP_Q8_0 ? absmax(x, 32) / 127 : ranged ? (high - low) / (float)top : signed_extreme(x) / -((float)(top + 1) / 2);
    by = d != 0 ? 1 / d : 0;
    cvt_store(KVP_F16, to, d);
    to += 2;
    if (f == KVP_Q8_0) {
        for (int j = 0; j < 32; j++)
            ((int8_t *)to)[j] = (int8_t)roundf(x[j] * by);
        return;
    }
    if (ranged) {
        cvt_store(KVP_F16, to, low);
        to += 2;
    }
    fifth = put_codes(to + (five ? 4 : 0), x, ranged ? low : 0, by, ranged ? 0.5f : (float)(top + 1) / 2 + 0.5f, top);
    if (five)
        memcpy(to, &fifth, 4);
}

static void encode_blocks(void *const out[WT_PARTS], const struct wt_coding *c, const float *m, uint64_t rows, uint64_t cols)
{
    const struct kb_unit u = kb_unit_of(c->format);

    for (uint64_t b = 0; b < rows * cols / u.elements; b++) {
        unsigned char *to = (unsigned char *)out[WT_CODE] + b * u.bytes;

        if (u.elements == 256)
            (c->format == KVP_Q4_K ? wt_encode_q4_k : wt_encode_q6_k)(to, m + b * 256);
        else
            encode_block(c->format, to, m + b * 32);
    }
}

void wt_encode(void *const out[WT_PARTS], const struct wt_coding *c, const float *m, uint64_t rows, uint64_t cols)
{
    static void (*const table[])(void *const[WT_PARTS], const struct wt_coding *, const float *, uint64_t, uint64_t) = {
        [KB_CODING_NONE] = encode_blocks,  [KB_CODING_SCALED] = encode_scaled, [KB_CODING_W8A8] = encode_scaled, [KB_CODING_NF4] = encode_four_bit,
        [KB_CODING_FP4] = encode_four_bit, [KB_CODING_MLX] = encode_mlx};

    table[c->coding](out, c, m, rows, cols);
}
