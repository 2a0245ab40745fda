/* formats.c - which tensors a weight matrix [N out, K in] becomes in a format: one row a format.
 *
 * Sources: LLM.int8 arXiv:2208.07339, QLoRA arXiv:2305.14314 and bitsandbytes functional.py (int8, nf4, fp4);
 * AutoGPTQ qlinear (gptq); AutoAWQ WQLinear_GEMM (awq); DeepSeek-V3 (fp8 blocks); OCP MX 1.0 (mxfp4);
 * modelopt (nvfp4); mlx.core.quantize (mlx); compressed-tensors pack_quantized; llama.cpp
 * llama-quant.cpp (which format replaces one whose block does not divide the row). */
#include "calc/weights.h"

#include "calc/num.h"

#include <inttypes.h>

enum { ROLES_LINEAR = 1 << KVP_ROLE_ATTN | 1 << KVP_ROLE_FFN | 1 << KVP_ROLE_EXPERT | 1 << KVP_ROLE_SHARED | 1 << KVP_ROLE_RECURRENT };

struct store_plan store_of_model(const struct kvp_model *m, enum kvp_format plain)
{
    unsigned roles = ROLES_LINEAR;

    if (m->quant.embed)
        roles |= 1u << KVP_ROLE_EMBED;
    if (m->quant.head)
        roles |= 1u << KVP_ROLE_HEAD;
    return (struct store_plan){.plain = plain, .quant = m->quant, .roles = roles & ~m->quant.kept, .ggml = m->quant.ggml};
}

/* Where the tensors go: into a list, or only their bytes are added up. */
struct sink {
    struct tensors *t;
    const struct weight *x;
    enum kvp_role role;
    bool *over;
    uint64_t bytes;
};

static void put(struct sink *to, const char *suffix, enum kvp_format f, uint64_t rows, uint64_t cols)
{
    char name[48];

    to->bytes = num_add(to->over, to->bytes, cols ? num_mul(to->over, rows, format_bytes(to->over, f, cols)) : format_bytes(to->over, f, rows));
    if (!to->t)
        return;
    snprintf(name, sizeof(name), "%s.%s", to->x->name, suffix);
    if (cols)
        TENSOR(to->t, name, KVP_TAG_WEIGHTS, to->x->cls, to->x->count, f, rows, cols);
    else
        TENSOR(to->t, name, KVP_TAG_WEIGHTS, to->x->cls, to->x->count, f, rows);
}

static uint64_t words(struct sink *to, uint64_t codes, uint32_t bits)
{
    return num_cdiv(num_mul(to->over, codes, bits), 32);
}

static uint64_t groups(const struct kvp_quant *q, uint32_t usual, uint64_t cols)
{
    return num_cdiv(cols, q->group ? q->group : usual);
}

static uint32_t bits(const struct kvp_quant *q)
{
    return q->bits ? q->bits : 4;
}

static void plain(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    const bool f32 = s->vectors_f32 && (!k || to->role == KVP_ROLE_ROUTER);

    put(to, to->x && to->x->bias ? "bias" : "weight", f32 ? KVP_F32 : s->plain, n, k);
}

static void row_scaled(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    (void)s;
    put(to, "weight", KVP_INT8, n, k);
    put(to, "SCB", KVP_F32, n, 0);
}

/* bitsandbytes' code book, and its description as JSON text: one byte a character. */
static void describe(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    const char *dtype = s->plain == KVP_F32 ? "float32" : s->plain == KVP_F16 ? "float16" : "bfloat16";
    const int len = snprintf(NULL, 0, "{\"quant_type\": \"%s\", \"blocksize\": 64, \"dtype\": \"%s\", \"shape\": [%" PRIu64 ", %" PRIu64 "]}",
                             s->quant.format == KVP_WF_NF4 ? "nf4" : "fp4", dtype, n, k);

    put(to, "quant_map", KVP_F32, 16, 0);
    put(to, "quant_state", KVP_U8, (uint64_t)len, 0);
}

static void four_bit(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    const uint64_t all = num_mul(to->over, n, k), blocks = groups(&s->quant, 64, all);

    put(to, "weight", KVP_U8, num_cdiv(all, 2), 0);
    put(to, "absmax", s->quant.double_quant ? KVP_U8 : KVP_F32, blocks, 0);
    if (s->quant.described)
        describe(to, s, n, k);
    if (!s->quant.double_quant)
        return;
    put(to, "nested_absmax", KVP_F32, num_cdiv(blocks, 256), 0);
    put(to, "nested_offset", KVP_F32, 1, 0);
}

static void gptq(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    const uint64_t g = groups(&s->quant, 128, k);

    put(to, "qweight", KVP_I32, words(to, k, bits(&s->quant)), n);
    put(to, "qzeros", KVP_I32, g, words(to, n, bits(&s->quant)));
    put(to, "scales", KVP_F16, g, n);
    put(to, "g_idx", KVP_I32, k, 0);
    if (s->quant.packed_bias && !(to->x && to->x->biased))
        put(to, "bias", KVP_F16, n, 0);
}

static void awq(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    const uint64_t g = groups(&s->quant, 128, k);

    put(to, "qweight", KVP_I32, k, words(to, n, bits(&s->quant)));
    put(to, "qzeros", KVP_I32, g, words(to, n, bits(&s->quant)));
    put(to, "scales", KVP_F16, g, n);
}

/* One scale a block, a row (group UINT32_MAX) or a tensor. */
static void byte_scaled(struct sink *to, const struct store_plan *s, enum kvp_format f, uint64_t n, uint64_t k)
{
    const uint32_t *b = s->quant.block;

    put(to, "weight", f, n, k);
    if (b[0] && b[1])
        put(to, "weight_scale_inv", s->quant.e8m0 ? KVP_U8 : KVP_F32, num_cdiv(n, b[0]), num_cdiv(k, b[1]));
    else
        put(to, "weight_scale", KVP_F32, s->quant.group == UINT32_MAX ? n : 1, 0);
}

static void fp8(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    byte_scaled(to, s, KVP_FP8, n, k);
}

static void w8a8(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    byte_scaled(to, s, KVP_INT8, n, k);
}

static void mxfp4(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    (void)s;
    put(to, "blocks", KVP_U8, n, num_cdiv(k, 2));
    put(to, "scales", KVP_U8, n, num_cdiv(k, 32));
}

static void nvfp4(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    (void)s;
    put(to, "weight", KVP_U8, n, num_cdiv(k, 2));
    put(to, "weight_scale", KVP_FP8, n, num_cdiv(k, 16));
    put(to, "weight_scale_2", KVP_F32, 1, 0);
}

static void mlx(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    const uint64_t g = groups(&s->quant, 64, k);

    put(to, "weight", KVP_I32, n, words(to, k, bits(&s->quant)));
    put(to, "scales", KVP_F16, n, g);
    put(to, "biases", KVP_F16, n, g);
}

static void compressed(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    put(to, "weight_packed", KVP_I32, n, words(to, k, bits(&s->quant)));
    put(to, "weight_scale", s->plain, n, groups(&s->quant, 128, k));
    put(to, "weight_shape", KVP_I64, 2, 0);
}

static enum kvp_format ggml_for(const struct store_plan *s, enum kvp_role role, uint64_t k)
{
    static const enum kvp_format instead[KVP_FORMATS] = {[KVP_Q2_K] = KVP_Q4_0, [KVP_Q3_K] = KVP_Q4_0, [KVP_IQ4_XS] = KVP_IQ4_NL,
                                                         [KVP_Q4_K] = KVP_Q5_0, [KVP_Q5_K] = KVP_Q5_1, [KVP_Q6_K] = KVP_Q8_0};
    const enum kvp_format own = role == KVP_ROLE_EMBED ? s->ggml_embed : role == KVP_ROLE_HEAD ? s->ggml_head :
                                role == KVP_ROLE_EXPERT ? s->ggml_expert : KVP_F32;
    enum kvp_format f = own != KVP_F32 ? own : s->ggml;

    if (k % format_block(f) && instead[f] != KVP_F32)
        f = instead[f];
    return k % format_block(f) ? KVP_F16 : f;
}

static void ggml(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    put(to, "weight", ggml_for(s, to->role, k), n, k);
}

static void (*const rows[KVP_WFORMATS])(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k) = {
    [KVP_WF_PLAIN] = plain, [KVP_WF_INT8] = row_scaled, [KVP_WF_NF4] = four_bit,  [KVP_WF_FP4] = four_bit,
    [KVP_WF_GPTQ] = gptq,   [KVP_WF_AWQ] = awq,         [KVP_WF_FP8] = fp8,       [KVP_WF_MXFP4] = mxfp4,
    [KVP_WF_NVFP4] = nvfp4, [KVP_WF_MLX] = mlx,         [KVP_WF_W8A8] = w8a8,     [KVP_WF_COMPRESSED] = compressed,
    [KVP_WF_GGML] = ggml,
};

static void quantized(struct sink *to, const struct store_plan *s, uint64_t n, uint64_t k)
{
    rows[s->quant.format](to, s, n, k);
    if (s->quant.input_scale)
        put(to, "input_scale", KVP_F32, 1, 0);
}

/* As a kind of its own. */
static void by_kind(struct sink *to, const struct store_plan *s, const struct kvp_quant_kind *kind, uint64_t n, uint64_t k)
{
    struct store_plan own = {.plain = s->plain, .vectors_f32 = s->vectors_f32};

    own.quant = (struct kvp_quant){.format = kind->format, .bits = kind->bits, .group = kind->group, .block = {kind->block[0], kind->block[1]},
                                   .e8m0 = kind->e8m0, .input_scale = kind->input_scale};
    quantized(to, &own, n, k);
}

static void lower(struct sink *to, const struct store_plan *s, enum kvp_role role, uint64_t n, uint64_t k, bool linear)
{
    const bool matrix = k > 0 && (linear || role == KVP_ROLE_EMBED);
    const unsigned kept = to->x && s->quant.by_layer ? to->x->kept : 0;

    to->role = role;
    if (!matrix || !((s->roles & ~kept) >> role & 1))
        plain(to, s, n, k);
    else if (s->quant.of[role])
        by_kind(to, s, &s->quant.other[s->quant.of[role] - 1], n, k);
    else
        quantized(to, s, n, k);
}

void store_lower(struct tensors *t, const struct store_plan *s, const struct weight *x)
{
    struct sink to = {.t = t, .x = x, .over = &t->over};

    lower(&to, s, x->role, x->rows, x->cols, x->linear && !x->bias);
}

uint64_t store_bytes(bool *over, const struct store_plan *s, enum kvp_role role, uint64_t n, uint64_t k, bool linear)
{
    struct sink to = {.over = over};

    lower(&to, s, role, n, k, linear);
    return to.bytes;
}
