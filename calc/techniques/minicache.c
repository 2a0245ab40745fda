/* minicache.c - two layers' keys and values become one set of directions and two sets of lengths.
 *
 *   From layer S0 on (L div 2 by default) layers pair up; an odd one out stays dense. Per pair, for k and v:
 *     directions  [Hkv, T, d]             once for both layers (SLERP of the two unit vectors)
 *     magnitudes  [Hm, T], each layer     Hm = Hkv (magnitude=head) or 1 (magnitude=token)   metadata
 *     retained    [Hkv, R, d], each layer R = ceil(gamma * T): the tokens whose directions differ most
 *     indices     [Hkv, R]                none, one for k and v, or one each                 metadata
 *
 *   merge    14 * d FLOPs per pair, token, head, k or v; the lower layer's rows wait until the upper's are there
 *   attend   d products per row that is read; both layers read the directions, so traffic is not halved
 *
 * On a model whose layers differ the next unpaired layer of the same kind is the partner: equal heads, sizes,
 * window and kept tokens. R is a fixed share, as in the public code; the paper's threshold depends on data.
 * Liu et al. 2024, arXiv:2405.14366, sections 3 and 4; Zefan-Cai/KVCache-Factory pyramidkv/minicache.py. */
#include "calc/technique.h"

#include <inttypes.h>

static const char *const granularity[] = {"head", "token", NULL};

struct numbers {
    double gamma;
    bool per_token;
    uint64_t start, indices;
    enum kvp_format index;
};

static struct numbers numbers(const struct plan *p, const struct kvp_spec *s)
{
    const struct kvp_param *start = kvp_spec_param(s, "start");

    return (struct numbers){kvp_spec_param(s, "gamma")->r, kvp_spec_param(s, "magnitude")->i == 1,
                            start->given ? (uint64_t)start->i : p->model->layers / 2, spec_int(s, "indices"),
                            kvp_spec_param(s, "index_dtype")->f};
}

static const struct part *row(const struct plan_class *c, uint32_t nth)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (part_is_row(&c->parts[i]) && nth-- == 0)
            return &c->parts[i];
    return NULL;
}

static bool alike(const struct plan_class *a, const struct plan_class *b)
{
    for (uint32_t i = 0; i < 2; i++) {
        const struct part *x = row(a, i), *y = row(b, i);

        if (!x || !y || x->heads != y->heads || x->width != y->width || x->law.cap != y->law.cap || x->law.dropped != y->law.dropped)
            return false;
    }
    return a->model->mixer == b->model->mixer && a->model->window == b->model->window && a->model->chunk == b->model->chunk;
}

/* What a layer is to its pair; BOTH: a class that holds lower and upper layers, as many of each. */
enum { ALONE, LOWER, UPPER, BOTH };

/* ---- what a pair keeps ---------------------------------------------------------------------------------- */

static struct part *add(struct plan_class *c, const char *name, const struct part *like, bool rows)
{
    struct part *x = plan_add_part(c, name);

    *x = *like;
    x->name = name;
    x->append_prefill = x->append_decode = false;
    x->merged = true;
    x->rows = rows;
    x->paged_as = rows ? like->paged_as : UINT32_MAX;
    return x;
}

/* Of the class's layers, how many store what a pair has once: a pair's lower one. */
static uint64_t pairs_of(const struct plan_class *c)
{
    return c->kind == BOTH ? c->count / 2 : c->kind == LOWER ? c->count : 0;
}

static void add_side(struct plan_class *c, const struct part *like, const char *const names[3], const struct numbers *n)
{
    struct part *x = add(c, names[0], like, true);

    x->layers = pairs_of(c);
    x = add(c, names[1], like, false);
    x->tag = KVP_TAG_METADATA;
    x->heads = n->per_token ? 1 : like->heads;
    x->width = 1;
    x = add(c, names[2], like, false);
    x->law = (struct law){.held = law_share, .cap = like->law.cap, .dropped = like->law.dropped, .share = n->gamma};
}

static void add_index(struct plan_class *c, const char *name, const struct part *like, const struct numbers *n)
{
    struct part *x = add(c, name, like, false);

    x->tag = KVP_TAG_METADATA;
    x->format = n->index;
    x->width = 1;
    x->layers = pairs_of(c);
    x->law = (struct law){.held = law_share, .cap = like->law.cap, .dropped = like->law.dropped, .share = n->gamma};
}

static void merge(struct plan *p, struct plan_class *c, const struct numbers *n)
{
    static const char *const k_names[] = {"k_direction", "k_magnitude", "k_retained"}, *const v_names[] = {"v_direction", "v_magnitude", "v_retained"};
    static const char *const index_names[] = {"retained_index", "v_retained_index"};
    const struct part k = *row(c, 0), v = *row(c, 1);
    struct part was[PLAN_MAX_PARTS];
    const uint32_t parts = plan_take_parts(c, was);

    add_side(c, &k, k_names, n);
    add_side(c, &v, v_names, n);
    for (uint32_t i = 0; i < n->indices; i++)
        add_index(c, index_names[i], i ? &v : &k, n);
    for (uint32_t i = 0; i < parts; i++)
        if (!part_is_row(&was[i]))
            *plan_add_part(c, was[i].name) = was[i];
    plan_add_scratch(p, "pair_rows", KVP_F32, p->w.batch, p->w.prompt, num_add(&p->over, k.heads * k.width, v.heads * v.width));
}

/* ---- which layers pair up ------------------------------------------------------------------------------- */

/* The next unpaired layer above `l` of its kind, or the number of layers. */
static uint32_t partner(const struct plan *p, uint32_t l)
{
    const struct plan_class *mine = &p->cls[plan_class_of(p, l)];
    uint32_t u = l + 1;

    for (; u < p->model->layers; u++) {
        const struct plan_class *c = &p->cls[plan_class_of(p, u)];

        if (p->opened.kind[u] == ALONE && class_has_rows(c) && alike(mine, c))
            break;
    }
    return u;
}

static uint32_t pair_up(struct plan *p, const struct numbers *n)
{
    uint32_t *kind = p->opened.kind, pairs = 0;

    memset(kind, 0, p->model->layers * sizeof(*kind));
    for (uint32_t l = (uint32_t)n->start; l < p->model->layers; l++) {
        uint32_t u;

        if (kind[l] != ALONE || !class_has_rows(&p->cls[plan_class_of(p, l)]))
            continue;
        u = partner(p, l);
        if (u == p->model->layers)
            continue;
        kind[l] = LOWER;
        kind[u] = UPPER;
        pairs++;
    }
    return pairs;
}

/* Lower and upper layers are of different classes somewhere, so that a class would not hold as many of each. */
static bool pairs_differ(const struct plan *p)
{
    const uint32_t *kind = p->opened.kind;
    bool differ = false;

    for (uint32_t i = 0; i < p->model->classes; i++)
        differ = differ || p->model->cls[i].no_kv;
    for (uint32_t c = 0; c < p->model->classes && !differ; c++) {
        int64_t more = 0;

        for (uint32_t l = 0; l < p->model->layers; l++)
            if (p->model->class_of[l] == c)
                more += kind[l] == LOWER ? 1 : kind[l] == UPPER ? -1 : 0;
        differ = more != 0;
    }
    return differ;
}

static kvp_err check(const struct plan *p, const struct numbers *n, struct kvp_error *e)
{
    KVP_TRY(plan_has_rows(p, e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        if (p->cls[i].model->mixer == KVP_MIX_MLA)
            return kvp_fail(e, KVP_ENOTSUP, "minicache: directions are of a head's keys and values, and MLA keeps a latent for all heads");
    if (n->start >= p->model->layers)
        return kvp_fail(e, KVP_EINPUT, "minicache: start=%" PRIu64 ": %s has %u layers, expected less", n->start, p->model->name, p->model->layers);
    return KVP_OK;
}

static kvp_err cache_rewrite(struct plan *p, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct numbers n = numbers(p, s);

    KVP_TRY(check(p, &n, e));
    if (!pair_up(p, &n))
        return kvp_fail(e, KVP_ENOTSUP, "minicache: not applicable: no two layers of %s from %" PRIu64 " on keep the same kind of cache", p->model->name, n.start);
    if (!pairs_differ(p))
        for (uint32_t l = 0; l < p->model->layers; l++)
            p->opened.kind[l] = p->opened.kind[l] == ALONE ? ALONE : BOTH;
    KVP_TRY(plan_group(p, p->opened.kind, e));
    for (uint32_t i = 0; i < p->n_classes; i++)
        if (p->cls[i].kind != ALONE)
            merge(p, &p->cls[i], &n);
    return KVP_OK;
}

/* ---- work ----------------------------------------------------------------------------------------------- */

/* What merging writes on behalf of one layer while its cache grows from `before` to `after`; the upper layers' own. */
static uint64_t written(struct plan *p, const struct plan_class *c, bool upper, uint64_t before, uint64_t after)
{
    uint64_t sum = 0;

    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];
        uint64_t tokens = 1;

        if (!x->merged || (upper && x->layers != c->count))
            continue;
        if (!before || x->law.held == law_share)
            tokens = x->law.held(&x->law, after) - (before ? x->law.held(&x->law, before) : 0);
        sum = num_add(&p->over, sum, part_bytes(&p->over, x, tokens));
    }
    return num_mul(&p->over, sum, p->w.batch);
}

/* k and v of one token, one layer: elements. */
static uint64_t elements(const struct plan_class *c)
{
    const struct part *k = row(c, 0), *v = row(c, 1);

    return k && v ? k->heads * k->width + v->heads * v->width : 0;
}

/* Directions meet when the upper layer's rows are there: `n` upper layers of the class, or lower ones. */
static void merge_ops(struct ops *o, struct plan *p, uint32_t cls, enum kvp_phase phase, uint64_t n, bool upper, uint64_t tokens)
{
    const struct plan_class *c = &p->cls[cls];
    const uint64_t B = p->w.batch, T = p->w.context, flops = upper ? NUM_PROD(&o->over, 14, B, tokens, elements(c)) : 0;

    if (n)
        ops_add(o, KVP_OP_MERGE, phase, cls, n,
                (struct cost){flops, flops, NUM_PROD(&o->over, 4, B, tokens, elements(c)),
                              phase == KVP_PREFILL ? written(p, c, upper, 0, p->w.prompt) : written(p, c, upper, T - 1, T)});
}

static void extra_ops(struct ops *o, struct plan *p, uint32_t cls, const struct kvp_spec *s, enum kvp_phase phase)
{
    struct plan_class *c = &p->cls[cls];
    const struct part *k = c->kind != ALONE ? plan_find_part(c, "k_direction") : NULL;
    uint64_t tokens, restore;

    (void)s;
    if (!k)
        return;
    tokens = phase == KVP_PREFILL ? k->law.held(&k->law, p->w.prompt) : 1;
    merge_ops(o, p, cls, phase, pairs_of(c), false, tokens);
    merge_ops(o, p, cls, phase, c->count - pairs_of(c), true, tokens);
    if (phase == KVP_PREFILL)
        return;
    restore = NUM_PROD(&o->over, p->w.batch, elements(c), part_read(k, p->w.context));
    ops_more(o, KVP_OP_ATTN, phase, cls, (struct cost){.flops = restore, .flops_full = restore});
}

/* Half of the layers may be one layer. */
static void example(const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n)
{
    (void)w;
    snprintf(buf, n, "%s", m->layers - m->layers / 2 < 2 ? "start=0" : "");
}

const struct technique technique_minicache = {
    .info = {.name = "minicache", .axis = KVP_AXIS_MERGE, .summary = "pairs of deep layers share directions and keep their own lengths",
             .source = "Liu et al. 2024, arXiv:2405.14366, sections 3 and 4; Zefan-Cai/KVCache-Factory minicache.py",
             .params = "start,gamma=0.05,magnitude=head,indices=2,index_dtype=i32"},
    .n_params = 5,
    .params = {{.key = "start", .kind = KVP_PARAM_INT, .no_default = true, .min = 0, .max = UINT32_MAX},
               {.key = "gamma", .kind = KVP_PARAM_RATIO, .r = 0.05, .r_min = 0, .r_max = 1},
               {.key = "magnitude", .kind = KVP_PARAM_WORD, .words = granularity},
               {.key = "indices", .kind = KVP_PARAM_INT, .i = 2, .min = 0, .max = 2},
               {.key = "index_dtype", .kind = KVP_PARAM_FORMAT, .f = KVP_I32, .formats = 1u << KVP_I32 | 1u << KVP_I64}},
    .example = example,
    .cache_rewrite = cache_rewrite,
    .extra_ops = extra_ops,
};
