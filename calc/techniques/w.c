/* w.c - weights stored in a format of a public checkpoint or engine; the cache stays as it is.
 *
 * Which tensors a matrix becomes: weights/formats.c. Defaults: GPTQ and AWQ groups of 128, MLX of 64; int8,
 * nf4, gptq, awq, fp8 and nvfp4 leave the embedding and the head plain, MLX and ggml quantize both, and ggml
 * keeps vectors and routers in f32. */
#include "calc/techniques/smoothquant.h"

#include <inttypes.h>

extern const struct technique technique_w;

static const char *const words[] = {"int8", "nf4",  "fp4",  "gptq", "awq",  "fp8",  "mxfp4", "nvfp4", "mlx",  "w8a8",   "q8_0",
                                    "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "q5_1", "q5_0",  "q4_1",  "q4_0", "iq4_nl", "iq4_xs",
                                    "none", "f32",  "f16",  "bf16", NULL};
static const char *const on_off[] = {"off", "on", NULL}, *const vectors[] = {"auto", "plain", "f32", NULL};
static const char *const where[] = {"auto", "plain", "quantized", "q8_0", "q6_k", "q5_k", "q4_k", "q5_1", "q5_0", "q4_1", "q4_0", "mxfp4", "f16", "bf16", NULL};
static const char *const scales[] = {"channel", "tensor", "block", NULL};

static enum kvp_wformat wformat(const char *word)
{
    static const char *const names[] = {
#define KVP_X(sym, name) name,
        KVP_WFORMAT_MAP(KVP_X)
#undef KVP_X
    };

    for (unsigned i = 0; i < KVP_WFORMATS; i++)
        if (strcmp(names[i], word) == 0)
            return (enum kvp_wformat)i;
    return KVP_WF_GGML;
}

static enum kvp_format block_format(const char *word)
{
    unsigned f = 0;

    while (f + 1 < KVP_FORMATS && strcmp(kvp_format_name((enum kvp_format)f), word) != 0)
        f++;
    return (enum kvp_format)f;
}

/* "none" keeps what the model has, f32, f16 and bf16 are those, unquantized. */
static bool unquantized(const char *word, enum kvp_format *plain)
{
    static const struct {
        const char *word;
        enum kvp_format f;
    } dtypes[] = {{"f32", KVP_F32}, {"f16", KVP_F16}, {"bf16", KVP_BF16}};

    for (size_t i = 0; i < sizeof(dtypes) / sizeof(dtypes[0]); i++)
        if (strcmp(dtypes[i].word, word) == 0) {
            *plain = dtypes[i].f;
            return true;
        }
    return strcmp(word, "none") == 0;
}

static bool is_default(const struct kvp_param *p)
{
    for (uint32_t i = 0; i < technique_w.n_params; i++)
        if (strcmp(technique_w.params[i].key, p->key) == 0)
            return technique_w.params[i].i == p->i;
    return false;
}

static kvp_err only_for(const struct kvp_spec *s, const char *key, bool fits, const char *word, const char *formats, struct kvp_error *e)
{
    if (fits || is_default(kvp_spec_param(s, key)))
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "w: %s is not a parameter of %s, only of %s", key, word, formats);
}

static kvp_err check(const struct kvp_spec *s, enum kvp_wformat f, const char *word, struct kvp_error *e)
{
    const uint64_t bits = spec_int(s, "bits"), gptq = 1u << 2 | 1u << 3 | 1u << 4 | 1u << 8;

    KVP_TRY(only_for(s, "group", f == KVP_WF_GPTQ || f == KVP_WF_AWQ || f == KVP_WF_MLX, word, "gptq, awq and mlx", e));
    KVP_TRY(only_for(s, "bits", f == KVP_WF_GPTQ || f == KVP_WF_MLX, word, "gptq and mlx", e));
    KVP_TRY(only_for(s, "double_quant", f == KVP_WF_NF4 || f == KVP_WF_FP4, word, "nf4 and fp4", e));
    KVP_TRY(only_for(s, "scale", f == KVP_WF_FP8 || f == KVP_WF_W8A8, word, "fp8 and w8a8", e));
    if (f == KVP_WF_GPTQ && !(gptq >> bits & 1))
        return kvp_fail(e, KVP_EINPUT, "w: bits=%" PRIu64 ", gptq has 2, 3, 4 or 8", bits);
    if (f == KVP_WF_MLX && bits == 7)
        return kvp_fail(e, KVP_EINPUT, "w: bits=7, mlx has 2, 3, 4, 5, 6 or 8");
    return KVP_OK;
}

/* A word that is a block format asks for that one. */
static void set_role(unsigned *roles, enum kvp_role role, const char *word, bool usual, enum kvp_format *own)
{
    const bool on = strcmp(word, "auto") == 0 ? usual : strcmp(word, "plain") != 0;

    if (on && strcmp(word, "auto") != 0 && strcmp(word, "quantized") != 0)
        *own = block_format(word);

    *roles = on ? *roles | 1u << role : *roles & ~(1u << role);
}

static kvp_err store_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const char *word = kvp_spec_param(s, "format")->word, *scale = kvp_spec_param(s, "scale")->word;
    const char *norms = kvp_spec_param(s, "norms")->word;
    const enum kvp_wformat f = wformat(word);
    const bool all = f == KVP_WF_MLX || f == KVP_WF_GGML, byte = f == KVP_WF_FP8 || f == KVP_WF_W8A8;
    struct kvp_quant q = {.format = f, .bits = (uint32_t)spec_int(s, "bits"), .group = (uint32_t)spec_int(s, "group")};

    KVP_TRY(check(s, f, word, e));
    if (byte && strcmp(scale, "channel") == 0)
        q.group = UINT32_MAX;
    if (byte && strcmp(scale, "block") == 0)
        q.block[0] = q.block[1] = 128;
    q.double_quant = kvp_spec_param(s, "double_quant")->i != 0;
    if (unquantized(word, &p->weights.plain))
        q.format = KVP_WF_PLAIN;
    p->weights = store_of_model(&(struct kvp_model){.quant = q}, p->weights.plain);
    set_role(&p->weights.roles, KVP_ROLE_HEAD, kvp_spec_param(s, "head")->word, all, &p->weights.ggml_head);
    set_role(&p->weights.roles, KVP_ROLE_EMBED, kvp_spec_param(s, "embed")->word, all, &p->weights.ggml_embed);
    set_role(&p->weights.roles, KVP_ROLE_EXPERT, kvp_spec_param(s, "experts")->word, true, &p->weights.ggml_expert);
    p->weights.vectors_f32 = strcmp(norms, "f32") == 0 || (strcmp(norms, "auto") == 0 && f == KVP_WF_GGML && q.format == f);
    if (f == KVP_WF_GGML)
        p->weights.ggml = block_format(word);
    return KVP_OK;
}

static bool is_w8a8(const struct kvp_spec *s)
{
    return wformat(kvp_spec_param(s, "format")->word) == KVP_WF_W8A8;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)e;
    if (is_w8a8(s))
        int8_inputs(p);
    return KVP_OK;
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    if (is_w8a8(s))
        int8_inputs_ops(o, p, cls, phase);
}

static const char *const others[] = {"nf4", "gptq", "awq", NULL};

const struct technique technique_w = {
    .info = {.name = "w", .axis = KVP_AXIS_WEIGHTS, .summary = "linear weights quantized, in the stored form of a public checkpoint format",
             .source = "arXiv:2208.07339 (int8), 2305.14314 (nf4), 2210.17323 (gptq), 2306.00978 (awq); OCP MX 1.0; ggml-common.h",
             .params = "format=int8,bits=4,group=0,double_quant=off,scale=channel,head=auto,embed=auto,experts=auto,norms=auto"},
    .variants = others,
    .n_params = 9,
    .params = {{.key = "format", .kind = KVP_PARAM_WORD, .positional = true, .words = words},
               {.key = "bits", .kind = KVP_PARAM_INT, .i = 4, .min = 2, .max = 8},
               {.key = "group", .kind = KVP_PARAM_INT, .i = 0, .min = 0, .max = 1 << 20},
               {.key = "double_quant", .kind = KVP_PARAM_WORD, .words = on_off},
               {.key = "scale", .kind = KVP_PARAM_WORD, .words = scales},
               {.key = "head", .kind = KVP_PARAM_WORD, .words = where},
               {.key = "embed", .kind = KVP_PARAM_WORD, .words = where},
               {.key = "experts", .kind = KVP_PARAM_WORD, .words = where},
               {.key = "norms", .kind = KVP_PARAM_WORD, .words = vectors}},
    .store_rewrite = store_rewrite,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
