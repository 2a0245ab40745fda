/* kivi.c - keys quantized per channel over groups of tokens, values per token over groups of channels.
 *
 *   q bits, group G, residual R:   Kq = floor(T/R)*R   Kf = T - Kq   Vq = max(0, T-R)   Vf = min(T, R)
 *   per layer, sequence and kv head:  d*Kq*q/8 codes + 2*d*(Kq/G)*b scale and min
 *                                   + Vq*d*q/8 codes + 2*Vq*(d/G)*b scale and min + d*(Kf+Vf)*b rows
 *
 * At T mod R = 0 no key is left unpacked: one token fewer can be bigger. In a window of W tokens packed
 * keys are a ring of whole groups, ceil(W/G)*G, packed values a ring of W - R, rows of v the newest R.
 *
 * Only rows of k and v are packed: states, an encoder's keys and classes without attention stay as they are.
 * What a technique has dropped of the prompt (pyramidkv, say) is not there to pack: T is what is held.
 *
 * A decode step packs after its attention, which reads what the step before had left, the new key's row
 * and the new value in f32. */
#include "calc/technique.h"

#include <inttypes.h>

/* Tokens that the selection has left of those seen. */
static uint64_t left(const struct law *l, uint64_t seen)
{
    return num_less(seen, l->dropped);
}

static uint64_t keys_packed(const struct law *l, uint64_t seen)
{
    return num_min(left(l, seen) / l->residual * l->residual, l->cap);
}

static uint64_t keys_packed_before(const struct law *l, uint64_t seen)
{
    return keys_packed(l, seen - 1);
}

static uint64_t keys_full(const struct law *l, uint64_t seen)
{
    return left(l, seen) % l->residual;
}

static uint64_t keys_full_during(const struct law *l, uint64_t seen)
{
    return left(l, seen - 1) % l->residual + 1;
}

/* The first residual is never shorter than a later one. */
static uint64_t keys_full_most(const struct law *l, uint64_t prompt, uint64_t seen)
{
    return num_min(l->residual, left(l, seen) - left(l, prompt) / l->residual * l->residual);
}

static uint64_t whole_residual(const struct law *l, uint64_t max_len)
{
    (void)max_len;
    return l->residual;
}

static uint64_t values_packed(const struct law *l, uint64_t seen)
{
    return num_min(num_less(left(l, seen), l->residual), l->cap);
}

/* In a window one token fewer than are stored: the oldest is out of the new query's sight. */
static uint64_t values_packed_before(const struct law *l, uint64_t seen)
{
    return num_min(num_less(left(l, seen - 1), l->residual), num_less(l->cap, 1));
}

static uint64_t values_full(const struct law *l, uint64_t seen)
{
    return num_min(left(l, seen), l->residual);
}

static uint64_t values_full_before(const struct law *l, uint64_t seen)
{
    return num_min(num_min(left(l, seen - 1), l->residual), num_less(l->cap, 1));
}

struct numbers {
    uint64_t bits, group, residual;
};

static struct numbers numbers(const struct kvp_spec *s)
{
    return (struct numbers){spec_int(s, "bits"), spec_int(s, "group"), spec_int(s, "residual")};
}

static kvp_err check_class(const struct plan *p, const struct plan_class *c, const struct numbers *n, struct kvp_error *e)
{
    if (!class_has_rows(c))
        return KVP_OK;
    if (c->model->mixer == KVP_MIX_MLA)
        return kvp_fail(e, KVP_ENOTSUP, "kivi: MLA keeps one latent from which keys and values are made; there are no channels of keys to share scales over");
    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];

        if (part_is_row(x) && x->width % n->group)
            return kvp_fail(e, KVP_EINPUT, "kivi: head_dim %" PRIu64 " of %s is not a multiple of group=%" PRIu64, x->width, p->model->name, n->group);
        if (part_is_row(x) && p->w.context > x->law.cap && x->law.cap < n->residual)
            return kvp_fail(e, KVP_EINPUT, "kivi: a window of %" PRIu64 " tokens is smaller than residual=%" PRIu64, x->law.cap, n->residual);
    }
    return KVP_OK;
}

static kvp_err check(const struct plan *p, const struct numbers *n, struct kvp_error *e)
{
    const uint64_t word = 32 / (n->bits ? n->bits : 1);

    if (n->bits != 2 && n->bits != 4)
        return kvp_fail(e, KVP_EINPUT, "kivi: bits=%" PRIu64 ", expected 2 or 4", n->bits);
    if (n->group % word)
        return kvp_fail(e, KVP_EINPUT, "kivi: group=%" PRIu64 " is not a multiple of the %" PRIu64 " codes in a 32-bit word", n->group, word);
    if (n->residual % n->group)
        return kvp_fail(e, KVP_EINPUT, "kivi: residual=%" PRIu64 " is not a multiple of group=%" PRIu64, n->residual, n->group);
    KVP_TRY(plan_has_rows(p, e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        KVP_TRY(check_class(p, &p->cls[i], n, e));
    return KVP_OK;
}

static void add_packed(struct plan *p, struct plan_class *c, const char *const names[3], const struct part *like, const struct law *law,
                       bool keys, const struct numbers *n)
{
    const uint64_t d = like->width;

    for (int i = 0; i < 3; i++) {
        struct part *x = plan_add_part(c, names[i]);

        x->heads = like->heads;
        x->law = *law;
        x->tag = i ? KVP_TAG_METADATA : KVP_TAG_CACHE;
        x->format = i ? p->kv : n->bits == 2 ? KVP_INT2 : KVP_INT4;
        x->channels_first = keys;
        x->width = i && !keys ? d / n->group : d;
        x->unit = i && keys ? n->group : 1;
        x->attended = x->strips = true;
        x->paged_as = 0;
    }
}

static void add_rows(struct plan *p, struct plan_class *c, const char *name, const struct part *like, const struct law *law)
{
    struct part *x = plan_add_part(c, name);

    x->format = p->kv;
    x->heads = like->heads;
    x->width = like->width;
    x->law = *law;
    x->attended = x->append_prefill = x->append_decode = x->strips = true;
}

static const struct part *row(const struct plan_class *c, uint32_t nth)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (part_is_row(&c->parts[i]) && nth-- == 0)
            return &c->parts[i];
    return NULL;
}

/* The six packed tensors come first: extra_ops and the pages count on it. What is no row of k or v follows. */
static void pack(struct plan *p, struct plan_class *c, const struct numbers *n)
{
    static const char *const k_names[] = {"k_codes", "k_scale", "k_min"}, *const v_names[] = {"v_codes", "v_scale", "v_min"};
    const struct part k_row = *row(c, 0), v_row = *row(c, 1), *k = &k_row, *v = &v_row;
    struct part was[PLAN_MAX_PARTS];
    const uint32_t parts = plan_take_parts(c, was);
    const uint64_t R = n->residual, cap = k->law.cap, dropped = k->law.dropped;
    const bool ring = cap != PLAN_NO_LIMIT;
    const uint64_t groups = ring ? num_mul(&p->over, num_cdiv(cap, n->group), n->group) : PLAN_NO_LIMIT;
    const struct law any = {.residual = R, .dropped = dropped, .endless = !ring};
    struct law keys = any, values = any;

    keys.held = keys_packed, keys.read = keys_packed_before, keys.cap = groups;
    values.held = values_packed, values.read = values_packed_before, values.cap = ring ? num_less(cap, R) : PLAN_NO_LIMIT;
    add_packed(p, c, k_names, k, &keys, true, n);
    add_packed(p, c, v_names, v, &values, false, n);
    add_rows(p, c, "k_residual", k, &(struct law){.held = keys_full, .read = keys_full_during, .most = keys_full_most, .strip = whole_residual, .residual = R, .dropped = dropped});
    add_rows(p, c, "v_residual", v, &(struct law){.held = values_full, .read = values_full_before, .strip = whole_residual, .cap = cap, .residual = R, .dropped = dropped});
    for (uint32_t i = 0; i < parts; i++) {
        struct part *x;

        if (part_is_row(&was[i]))
            continue;
        x = plan_add_part(c, was[i].name);
        *x = was[i];
        if (x->paged_as != UINT32_MAX)
            x->paged_as = c->n_parts - 1;
    }
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct numbers n = numbers(s);

    KVP_TRY(check(p, &n, e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        if (class_has_rows(&p->cls[i]))
            pack(p, &p->cls[i], &n);
    return KVP_OK;
}

static uint64_t channels(bool *over, const struct part *codes, uint64_t tokens)
{
    return NUM_PROD(over, codes->heads, codes->width, tokens);
}

/* Packing `keys` and `values` tokens from rows of `source` bytes an element: a subtraction and a division
 * for each; the codes, scales and mins are written. */
static void quantize(struct ops *o, struct plan *p, uint32_t cls, enum kvp_phase phase, uint64_t keys, uint64_t values, uint64_t source)
{
    const struct plan_class *c = &p->cls[cls];
    const uint64_t elements = num_mul(&o->over, p->w.batch, num_add(&o->over, channels(&o->over, &c->parts[0], keys), channels(&o->over, &c->parts[3], values)));
    struct cost cost = {.flops = num_mul(&o->over, 2, elements), .read = num_mul(&o->over, source, elements)};

    cost.flops_full = cost.flops;
    for (uint32_t i = 0; i < 6; i++) /* three tensors of keys, three of values */
        cost.written = num_add(&o->over, cost.written,
                               num_mul(&o->over, part_bytes(&o->over, &c->parts[i], i < 3 ? keys : values), p->w.batch));
    if (elements)
        ops_add(o, KVP_OP_QUANT, phase, cls, c->count, cost);
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    struct plan_class *c = &p->cls[cls];
    const struct part *kp = plan_find_part(c, "k_codes");
    const struct law *k = &c->parts[0].law, *v = &c->parts[3].law;
    const uint64_t T = p->w.context, R = spec_int(s, "residual"), P = p->w.prompt, held = left(k, T);
    uint64_t row, unpacked;

    if (!kp)
        return;
    if (phase == KVP_PREFILL) {
        quantize(o, p, cls, phase, keys_packed(k, P), values_packed(v, P), 4);
        return;
    }
    /* code * scale + min: 2 for each packed element attention reads; the new value is not stored yet */
    row = num_mul(&o->over, p->w.batch, channels(&o->over, &c->parts[3], 1));
    unpacked = num_add(&o->over, channels(&o->over, kp, keys_packed_before(k, T)), channels(&o->over, &c->parts[3], values_packed_before(v, T)));
    unpacked = NUM_PROD(&o->over, 2, p->w.batch, unpacked);
    ops_more(o, KVP_OP_ATTN, phase, cls,
             (struct cost){.flops = unpacked, .flops_full = unpacked, .read = num_mul(&o->over, 4, row)});
    quantize(o, p, cls, phase, held % R ? 0 : R, held > R && v->cap ? 1 : 0, format_bits(p->kv) / 8);
}

/* The largest group up to 32 that the heads allow, and a residual that is full and flushed by now. */
static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    uint64_t group = 32, residual = 128;

    for (uint32_t i = 0; i < m->classes; i++)
        while (group > 16 && m->cls[i].mixer == KVP_MIX_ATTENTION && (m->cls[i].head_dim % group || m->cls[i].v_head_dim % group))
            group /= 2;
    while (residual > group && residual * 2 > w->prompt)
        residual /= 2;
    snprintf(buf, n, "group=%" PRIu64 ",residual=%" PRIu64, group, residual);
}

const struct technique technique_kivi = {
    .info = {.name = "kivi", .axis = KVP_AXIS_ENCODE, .summary = "2- or 4-bit keys per channel and values per token, newest rows whole",
             .source = "Liu et al. 2024, arXiv:2402.02750, section 4; jy-yuan/KIVI models/llama_kivi.py, quant/new_pack.py",
             .params = "bits=2,group=32,residual=128"},
    .n_params = 3,
    .params = {{.key = "bits", .kind = KVP_PARAM_INT, .i = 2, .min = 2, .max = 4},
               {.key = "group", .kind = KVP_PARAM_INT, .i = 32, .min = 1, .max = 1 << 20},
               {.key = "residual", .kind = KVP_PARAM_INT, .i = 128, .min = 1, .max = 1 << 30}},
    .example = example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
