/* kv.c - rows of the cache stored in a quantized format, k and v apart if asked.
 *
 *   scale=tensor      2 f32 a layer (vLLM's static fp8)      token-head  f32 for each row
 *   scale=group       scale and shift in the model's dtype for `group` channels (transformers' quantized layer)
 *   layout=ds_mla     latents only, the rotated part whole: codes and an f32 for each 128 (vLLM's fp8_ds_mla and
 *                     nvfp4_ds_mla: 656 and 432 bytes a token of 512 + 64)
 *   block formats hold their scales (ggml-common.h; OCP MX; NVFP4: fp8 for 16) */
#include "calc/technique.h"

#include <inttypes.h>

#define FORMATS                                                                                                             \
    (1u << KVP_FP8 | 1u << KVP_INT8 | 1u << KVP_INT4 | 1u << KVP_NVFP4 | 1u << KVP_Q8_0 | 1u << KVP_Q4_0 | 1u << KVP_Q4_1 | \
     1u << KVP_Q5_0 | 1u << KVP_Q5_1 | 1u << KVP_IQ4_NL | 1u << KVP_MXFP4 | 1u << KVP_MXFP8 | 1u << KVP_F32 | 1u << KVP_F16 |      \
     1u << KVP_BF16)

enum scale { AUTO, TENSOR_SCALE, TOKEN_HEAD, GROUP };
static const char *const scales[] = {"auto", "tensor", "token-head", "group", NULL};
static const char *const layouts[] = {"plain", "ds_mla", NULL};
enum { DS_TILE = 128 };

static bool ds_mla(const struct kvp_spec *s)
{
    return kvp_spec_param(s, "layout")->i != 0;
}

static bool plain_codes(enum kvp_format f)
{
    return f == KVP_FP8 || f == KVP_INT8 || f == KVP_INT4;
}

static enum kvp_format format_of(const struct kvp_spec *s, bool value)
{
    const struct kvp_param *own = kvp_spec_param(s, value ? "v" : "k");

    return own->given ? own->f : kvp_spec_param(s, "format")->f;
}

static enum scale scale_of(const struct kvp_spec *s, enum kvp_format f)
{
    const enum scale asked = (enum scale)kvp_spec_param(s, "scale")->i;

    return asked != AUTO ? asked : f == KVP_FP8 ? TENSOR_SCALE : f == KVP_INT8 ? TOKEN_HEAD : GROUP;
}

static kvp_err check(const struct part *x, const struct kvp_spec *s, enum kvp_format f, struct kvp_error *e)
{
    const uint64_t group = spec_int(s, "group");

    if (x->width % format_block(f))
        return kvp_fail(e, KVP_EINPUT, "kv: %s has %" PRIu64 " channels, not a multiple of the %u that %s stores together", x->name,
                        x->width, format_block(f), kvp_format_name(f));
    if (ds_mla(s) && strcmp(x->name, "latent") != 0 && strcmp(x->name, "k_rope") != 0)
        return kvp_fail(e, KVP_ENOTSUP, "kv: layout=ds_mla is of latents, and %s is none", x->name);
    if (ds_mla(s) && f != KVP_FP8 && f != KVP_NVFP4)
        return kvp_fail(e, KVP_EINPUT, "kv: layout=ds_mla of %s: expected fp8 or nvfp4", kvp_format_name(f));
    if (!plain_codes(f) && kvp_spec_param(s, "scale")->i != AUTO)
        return kvp_fail(e, KVP_EINPUT, "kv: scale is not a parameter of %s, whose blocks hold their own", kvp_format_name(f));
    if (plain_codes(f) && scale_of(s, f) == GROUP && x->width % group)
        return kvp_fail(e, KVP_EINPUT, "kv: %s has %" PRIu64 " channels, not a multiple of group=%" PRIu64, x->name, x->width, group);
    return KVP_OK;
}

/* A copy of rows `x`, of `width` numbers a row. */
static void add_meta(struct plan_class *c, const struct part *x, const char *name, enum kvp_format f, uint64_t width)
{
    struct part *y = plan_add_part(c, name);

    *y = *x;
    y->name = name;
    y->tag = KVP_TAG_METADATA;
    y->format = f;
    y->width = width;
    y->append_prefill = y->append_decode = false; /* extra_ops writes them */
}

static void encode(struct plan *p, struct plan_class *c, uint32_t i, const struct kvp_spec *s, enum kvp_format f)
{
    static const char *const names[][3] = {{"k", "k_scale", "k_shift"}, {"v", "v_scale", "v_shift"},
                                           {"latent", "latent_scale", "latent_shift"}, {"k_rope", "k_rope_scale", "k_rope_shift"}};
    const struct part x = c->parts[i];
    const char *const *name = names[0];

    for (size_t n = 0; n < sizeof(names) / sizeof(names[0]); n++)
        if (strcmp(names[n][0], x.name) == 0)
            name = names[n];
    if (ds_mla(s) && strcmp(x.name, "k_rope") == 0)
        return;
    c->parts[i].format = f;
    if (ds_mla(s))
        add_meta(c, &x, name[1], KVP_F32, num_cdiv(x.width, DS_TILE));
    if (!plain_codes(f) || ds_mla(s))
        return;
    switch (scale_of(s, f)) {
    case AUTO:
    case TENSOR_SCALE: /* one for the whole batch */
        plan_add_fixed(p, c, name[1], KVP_TAG_METADATA, KVP_F32, 1, 1, 1)->shared = 1;
        return;
    case TOKEN_HEAD:
        add_meta(c, &x, name[1], KVP_F32, 1);
        return;
    case GROUP:
        add_meta(c, &x, name[1], p->kv, x.width / spec_int(s, "group"));
        add_meta(c, &x, name[2], p->kv, x.width / spec_int(s, "group"));
    }
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    bool any = false;

    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0, n = p->cls[c].n_parts; i < n; i++) {
            const struct part *x = &p->cls[c].parts[i];
            const enum kvp_format f = format_of(s, x->name[0] == 'v');

            if (!x->rows || !x->attended || x->tag != KVP_TAG_CACHE)
                continue;
            KVP_TRY(check(x, s, f, e));
            if (p->cls[c].n_parts + 2 > PLAN_MAX_PARTS)
                return kvp_fail(e, KVP_ENOTSUP, "kv: a layer of %s keeps too many tensors", p->model->name);
            encode(p, &p->cls[c], i, s, f);
            any = true;
        }
    return any ? KVP_OK : kvp_fail(e, KVP_ENOTSUP, "kv: %s keeps no rows of keys and values", p->model->name);
}

static uint64_t elements(struct ops *o, const struct plan *p, const struct part *x, uint64_t tokens)
{
    return NUM_PROD(&o->over, p->w.batch, x->heads, x->width, tokens);
}

/* Decode: code * scale + shift, 2 for each stored element that attention reads. Both: the scales of new rows. */
static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    const struct plan_class *c = &p->cls[cls];
    struct cost read = {0}, append = {0};

    (void)s;
    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];
        const uint64_t rows = phase == KVP_PREFILL ? x->law.held(&x->law, p->w.prompt) : 1;

        if (!x->rows || !x->attended)
            continue;
        if (x->tag == KVP_TAG_METADATA)
            append.written = num_add(&o->over, append.written, num_mul(&o->over, p->w.batch, part_bytes(&o->over, x, rows)));
        else if (phase == KVP_DECODE)
            read.flops = num_add(&o->over, read.flops, num_mul(&o->over, 2, elements(o, p, x, part_read(x, p->w.context))));
    }
    read.flops_full = read.flops;
    ops_more(o, KVP_OP_ATTN, phase, cls, read);
    ops_more(o, KVP_OP_APPEND, phase, cls, append);
}

/* fp8 with one scale a tensor suits rows of any width. */
static const char *const others[] = {"int8", "int4", NULL};

const struct technique technique_kv = {
    .info = {.name = "kv", .axis = KVP_AXIS_ENCODE, .summary = "keys and values in fp8, int8, int4 or a block format, scales beside or inside",
             .source = "vLLM kv_cache_dtype; transformers cache_utils.py QuantizedLayer; ggml-common.h; OCP MX 1.0",
             .params = "format=fp8,k,v,scale=auto,group=64,layout=plain"},
    .variants = others,
    .n_params = 6,
    .params = {{.key = "format", .kind = KVP_PARAM_FORMAT, .positional = true, .f = KVP_FP8, .formats = FORMATS},
               {.key = "k", .kind = KVP_PARAM_FORMAT, .no_default = true, .f = KVP_FP8, .formats = FORMATS},
               {.key = "v", .kind = KVP_PARAM_FORMAT, .no_default = true, .f = KVP_FP8, .formats = FORMATS},
               {.key = "scale", .kind = KVP_PARAM_WORD, .words = scales},
               {.key = "group", .kind = KVP_PARAM_INT, .i = 64, .min = 1, .max = 1 << 20},
               {.key = "layout", .kind = KVP_PARAM_WORD, .words = layouts}},
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
