#include "calc/technique.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

uint64_t law_ring(const struct law *l, uint64_t seen)
{
    return num_min(num_less(seen, l->dropped), l->cap);
}

uint64_t law_ring_before(const struct law *l, uint64_t seen)
{
    return num_min(num_less(seen - 1, l->dropped), l->cap);
}

uint64_t law_share(const struct law *l, uint64_t seen)
{
    const double x = l->share * (double)law_ring(l, seen);
    const uint64_t n = (uint64_t)x;

    return n + ((double)n < x);
}

/* ---- building ------------------------------------------------------------------------------------ */

struct part *plan_add_part(struct plan_class *c, const char *name)
{
    static const struct part none = {.unit = 1, .paged_as = UINT32_MAX, .law = {.held = law_ring, .cap = PLAN_NO_LIMIT}};
    struct part *p = &c->parts[c->n_parts < PLAN_MAX_PARTS ? c->n_parts++ : PLAN_MAX_PARTS - 1];

    *p = none;
    p->name = name;
    p->tag = KVP_TAG_CACHE;
    p->layers = c->count;
    return p;
}

static uint64_t law_fixed(const struct law *l, uint64_t seen)
{
    (void)seen;
    return l->cap;
}

struct part *plan_add_fixed(struct plan *p, struct plan_class *c, const char *name, enum kvp_tag tag, enum kvp_format f,
                            uint64_t heads, uint64_t tokens, uint64_t width)
{
    struct part *x = plan_add_part(c, name);

    (void)p;
    x->tag = tag;
    x->format = f;
    x->heads = heads;
    x->width = width;
    x->law = (struct law){.held = law_fixed, .cap = tokens};
    return x;
}

kvp_err plan_begin_split(struct plan *p, struct kvp_error *e)
{
    const uint32_t layers = p->model->layers + SELECT_SIDES * 3 * p->model->classes + 1;

    if (!p->opened.split) {
        p->opened.split = calloc(layers, sizeof(*p->opened.split));
        p->opened.group_of = calloc(layers, sizeof(*p->opened.group_of));
    }
    if (!p->opened.split || !p->opened.group_of)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a plan");
    p->cls = p->opened.split;
    p->n_classes = 0;
    return KVP_OK;
}

static void begin_class(struct plan *p, uint32_t layer, uint32_t kind)
{
    const struct plan_class *from = &p->opened.unsplit[p->model->class_of[layer]];
    struct plan_class *to = &p->cls[p->n_classes++];

    memcpy(to, from, offsetof(struct plan_class, parts) + from->n_parts * sizeof(from->parts[0]));
    to->first = layer;
    to->kind = kind;
    to->count = 0;
}

static void join_class(struct plan *p, uint32_t layer, uint32_t c)
{
    p->opened.group_of[layer] = c;
    p->cls[c].count++;
    for (uint32_t i = 0; i < p->cls[c].n_parts; i++)
        p->cls[c].parts[i].layers = p->cls[c].count;
}

/* Who reads whose rows is a matter of single layers (plan_owner). */
static bool any_reader(const struct kvp_model *m)
{
    for (uint32_t i = 0; i < m->classes; i++)
        if (m->cls[i].no_kv)
            return true;
    return false;
}

struct plan_class *plan_put(struct plan *p, uint32_t layer, uint32_t count)
{
    struct plan_class *c = &p->cls[p->n_classes];

    begin_class(p, layer, 0);
    c->count = count;
    for (uint32_t i = 0; i < c->n_parts; i++)
        c->parts[i].layers = count;
    return c;
}

kvp_err plan_group(struct plan *p, const uint32_t *kind, struct kvp_error *e)
{
    const bool apart = any_reader(p->model);

    KVP_TRY(plan_begin_split(p, e));
    for (uint32_t l = 0; l < p->model->layers; l++) {
        const struct kvp_layer_class *model = &p->model->cls[p->model->class_of[l]];
        uint32_t c = apart ? p->n_classes : 0;

        while (c < p->n_classes && (p->cls[c].model != model || p->cls[c].kind != kind[l]))
            c++;
        if (c == p->n_classes)
            begin_class(p, l, kind[l]);
        join_class(p, l, c);
    }
    return KVP_OK;
}

kvp_err plan_split(struct plan *p, struct kvp_error *e)
{
    KVP_TRY(plan_begin_split(p, e));
    for (uint32_t l = 0; l < p->model->layers; l++) {
        begin_class(p, l, l);
        join_class(p, l, l);
    }
    return KVP_OK;
}

/* Classes of one model class are chained to its first. */
static void join_alike(struct plan *p)
{
    uint32_t *head = p->opened.head;

    for (uint32_t i = 0; i < p->model->classes; i++)
        head[i] = UINT32_MAX;
    for (uint32_t c = p->n_classes; c-- > 0;) {
        struct plan_class *x = &p->cls[c];
        uint32_t *first = &head[x->model - p->model->cls];

        x->alike = x->count;
        x->next = 0;
        if (*first != UINT32_MAX) {
            x->next = *first;
            x->alike += p->cls[*first].alike;
            p->cls[*first].alike = 0;
        }
        *first = c;
    }
}

uint32_t plan_take_parts(struct plan_class *c, struct part was[PLAN_MAX_PARTS])
{
    const uint32_t n = c->n_parts;

    memcpy(was, c->parts, n * sizeof(*was));
    c->n_parts = 0;
    return n;
}

struct part *plan_find_part(struct plan_class *c, const char *name)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (strcmp(c->parts[i].name, name) == 0)
            return &c->parts[i];
    return NULL;
}

bool class_has_rows(const struct plan_class *c)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (part_is_row(&c->parts[i]))
            return true;
    return false;
}

/* Rows, or what a technique before has made of them. */
static bool class_keeps_tokens(const struct plan_class *c)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (c->parts[i].attended && (c->parts[i].rows || c->parts[i].paged_as != UINT32_MAX))
            return true;
    return false;
}

kvp_err plan_has_rows(const struct plan *p, struct kvp_error *e)
{
    for (uint32_t i = 0; i < p->n_classes; i++)
        if (class_keeps_tokens(&p->cls[i]))
            return KVP_OK;
    return kvp_fail(e, KVP_ENOTSUP, "not applicable: no KV cache");
}

void plan_add_table(struct plan *p, uint64_t pages)
{
    for (uint32_t i = 0; i < p->n_tables; i++)
        if (p->tables[i] == pages)
            return;
    p->tables[p->n_tables++] = pages;
}

/* Layers take turns: one scratch serves all of them, so the biggest counts. */
void plan_add_scratch(struct plan *p, const char *name, enum kvp_format f, uint64_t a, uint64_t b, uint64_t c)
{
    struct plan_scratch *s = p->scratch;

    while (s < p->scratch + p->n_scratch && strcmp(s->name, name) != 0)
        s++;
    if (s == p->scratch + p->n_scratch)
        *(p->n_scratch++, s) = (struct plan_scratch){.name = name, .format = f};
    if (NUM_PROD(&p->over, s->shape[0], s->shape[1], s->shape[2]) < NUM_PROD(&p->over, a, b, c))
        *s = (struct plan_scratch){name, f, {a, b, c}};
}

void plan_add_meta(struct plan *p, const char *name, enum kvp_format f, uint64_t a, uint64_t b)
{
    if (p->n_meta < PLAN_MAX_META)
        p->meta[p->n_meta++] = (struct plan_meta){name, f, a, b};
}

static bool stores_rows(const struct plan_class *c)
{
    for (uint32_t i = 0; i < c->n_parts; i++)
        if (c->parts[i].attended)
            return true;
    return false;
}

const struct plan_class *plan_owner(const struct plan *p, uint32_t cls)
{
    const struct plan_class *c = &p->cls[cls], *owner = c;

    if (!c->model->no_kv || c->model->mixer != KVP_MIX_ATTENTION)
        return c;
    for (uint32_t i = 0; i < p->n_classes; i++) {
        const struct plan_class *x = &p->cls[i];

        if (x->first < c->first && stores_rows(x) && x->model->window == c->model->window && x->model->chunk == c->model->chunk &&
            (owner == c || x->first > owner->first))
            owner = x;
    }
    return owner;
}

uint64_t plan_pass_width(const struct plan *p)
{
    const uint64_t fit = p->budget ? p->budget / p->chunk : p->w.batch;

    return num_min(p->w.batch, num_max(fit, 1));
}

static kvp_err check_pairs(const struct kvp_stack *s, struct kvp_error *e)
{
    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t j = i + 1; j < s->n; j++) {
            const struct kvp_pair *p = pair_find(s->spec[i].name, s->spec[j].name);

            if (!p || !p->allowed)
                return kvp_fail(e, KVP_ENOTSUP, "%s with %s: %s", s->spec[i].name, s->spec[j].name,
                                p ? p->reason : "not in the composition table");
        }
    return KVP_OK;
}

/* Of a prefix that the batch shares there is one copy more, as it was at the hit. */
static void add_state(struct plan *p, struct plan_class *c)
{
    const uint32_t before = c->n_parts;
    uint32_t end;

    plan_add_state(p, c);
    end = c->n_parts;
    for (uint32_t i = before; i < end && p->hit && p->w.batch > 1; i++) {
        struct part *x = plan_add_part(c, "state_checkpoint");

        *x = c->parts[i];
        x->name = "state_checkpoint";
        x->shared = x->law.cap;
    }
}

static kvp_err rewrite(struct plan *p, struct kvp_error *e)
{
    const struct technique *t;

    for (uint32_t i = 0; i < p->stack->n; i++) {
        t = p->opened.technique[i];
        if (t && t->store_rewrite)
            KVP_TRY(t->store_rewrite(p, &p->stack->spec[i], e));
    }
    for (uint32_t i = 0; (t = technique_at(i)); i++)
        if (t->baseline && t->cache_rewrite)
            KVP_TRY(t->cache_rewrite(p, NULL, e));
    for (uint32_t i = 0; i < p->stack->n; i++) {
        t = p->opened.technique[i];
        if (t && t->cache_rewrite)
            KVP_TRY(t->cache_rewrite(p, &p->stack->spec[i], e));
    }
    for (uint32_t c = 0; c < p->n_classes; c++) /* last: techniques rewrite what holds tokens, and this doesn't */
        add_state(p, &p->cls[c]);
    join_alike(p);
    return KVP_OK;
}

/* Bytes of one token in all heads, where another token always adds as much. */
static uint64_t row_bytes(const struct part *x)
{
    bool over = false;
    const uint64_t n = x->channels_first || x->width < 2 ? 0 : num_mul(&over, x->heads, format_bytes(&over, x->format, x->width));

    return over ? 0 : n;
}

/* Without a store a tensor has room for exactly what it will hold. */
static void exact_room(struct plan *p)
{
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            struct part *x = &p->cls[c].parts[i];

            x->row = row_bytes(x);
            if (x->slots)
                continue;
            if (x->tag == KVP_TAG_STATE) {
                x->slots = x->slots_most = x->law.cap;
                continue;
            }
            x->slots = x->law.held(&x->law, p->w.context);
            x->slots_most = x->law.most ? x->law.most(&x->law, p->w.prompt, p->w.context) : x->slots;
        }
}

static kvp_err check_positions(const struct plan *p, struct kvp_error *e)
{
    if (p->model->position != KVP_POS_LEARNED || p->w.context <= p->model->max_positions)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "context %" PRIu64 ": %s has learned positions for %" PRIu64 " tokens only", p->w.context,
                    p->model->name, p->model->max_positions);
}

/* The techniques that change the model itself work on a copy. */
static kvp_err rewrite_model(struct plan *p, struct kvp_error *e)
{
    for (uint32_t i = 0; i < p->stack->n; i++) {
        const struct kvp_spec *s = &p->stack->spec[i];
        const struct technique *t = p->opened.technique[i];

        if (!t || !t->model_rewrite)
            continue;
        if (!p->rewritten.cls)
            KVP_TRY(kvp_model_copy(&p->rewritten, p->model, e));
        p->model = &p->rewritten;
        KVP_TRY(t->model_rewrite(&p->rewritten, s, e));
    }
    return KVP_OK;
}

static kvp_err make_room(struct plan *p, struct kvp_error *e)
{
    const uint32_t n = p->model->classes ? p->model->classes : 1;
    uint32_t l = p->model->layers;

    p->opened.unsplit = calloc(n, sizeof(*p->opened.unsplit));
    p->opened.tables = calloc(l > n ? l : n, sizeof(*p->opened.tables));
    p->opened.head = calloc(n, sizeof(*p->opened.head));
    p->opened.kind = calloc(l ? l : 1, sizeof(*p->opened.kind));
    p->opened.tally = calloc((size_t)SELECT_SIDES * n, sizeof(*p->opened.tally));
    if (!p->opened.unsplit || !p->opened.tables || !p->opened.head || !p->opened.kind || !p->opened.tally)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a plan");
    while (l-- > 0)
        p->opened.unsplit[p->model->class_of[l]].first = l;
    return KVP_OK;
}

static kvp_err open_plan(struct plan *p, bool rewritten, struct kvp_error *e)
{
    for (uint32_t i = 0; i < p->stack->n; i++)
        p->opened.technique[i] = technique_find(p->stack->spec[i].name, strlen(p->stack->spec[i].name));
    KVP_TRY(check_pairs(p->stack, e));
    if (!rewritten)
        KVP_TRY(rewrite_model(p, e));
    return make_room(p, e);
}

kvp_err plan_open(struct plan *out, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o,
                  enum kvp_format kv, bool rewritten, struct kvp_error *e)
{
    kvp_err rc;

    *out = (struct plan){.model = m, .o = o, .stack = s, .opened.kv = kv};
    out->opened.weights = store_of_model(m, o->weights_given ? o->weights : m->dtype);
    out->opened.encoder_tokens = o->encoder_tokens ? o->encoder_tokens : m->encoder_positions;
    rc = open_plan(out, rewritten, e);
    if (rc != KVP_OK)
        plan_free(out);
    return rc;
}

static void begin(struct plan *p, const struct kvp_workload *w)
{
    memset((char *)p + offsetof(struct plan, w), 0, sizeof(*p) - offsetof(struct plan, w));
    p->w = *w;
    p->kv = p->opened.kv;
    p->weights = p->opened.weights;
    p->encoder_tokens = p->opened.encoder_tokens;
    p->cls = p->opened.unsplit;
    p->tables = p->opened.tables;
    p->n_classes = p->model->classes;
    for (uint32_t i = 0; i < p->n_classes; i++) {
        const uint32_t first = p->cls[i].first;

        memset(&p->cls[i], 0, offsetof(struct plan_class, parts));
        p->cls[i].first = first;
    }
}

kvp_err plan_fill(struct plan *p, const struct kvp_workload *w, struct kvp_error *e)
{
    begin(p, w);
    KVP_TRY(kvp_workload_resolve(&p->w, e));
    p->chunk = p->w.prompt;
    p->asked = p->w.context;
    KVP_TRY(check_positions(p, e));
    KVP_TRY(rewrite(p, e));
    exact_room(p);
    return KVP_OK;
}

kvp_err plan_build(struct plan *out, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_workload *w,
                   const struct kvp_options *o, enum kvp_format kv, struct kvp_error *e)
{
    kvp_err rc;

    KVP_TRY(plan_open(out, m, s, o, kv, false, e));
    rc = plan_fill(out, w, e);
    if (rc != KVP_OK)
        plan_free(out);
    return rc;
}

void plan_free(struct plan *p)
{
    free(p->opened.unsplit);
    free(p->opened.split);
    free(p->opened.group_of);
    free(p->opened.head);
    free(p->opened.kind);
    free(p->opened.tally);
    free(p->opened.tables);
    kvp_model_free(&p->rewritten);
    *p = (struct plan){0};
}

kvp_err kvp_stack_check(const struct kvp_stack *s, const struct kvp_model *m, const struct kvp_workload *w, struct kvp_error *e)
{
    struct plan p;

    KVP_TRY(plan_build(&p, m, s, w, &(struct kvp_options){0}, m->dtype, e));
    plan_free(&p);
    return KVP_OK;
}

/* ---- lowering ------------------------------------------------------------------------------------ */

uint64_t part_bytes(bool *over, const struct part *p, uint64_t tokens)
{
    const uint64_t n = p->unit == 1 ? tokens : tokens / p->unit;

    if (p->row)
        return num_mul(over, p->row, n);
    if (p->channels_first)
        return NUM_PROD(over, p->heads, p->width, format_bytes(over, p->format, n));
    return p->width > 1 ? NUM_PROD(over, p->heads, n, format_bytes(over, p->format, p->width)) : num_mul(over, p->heads, format_bytes(over, p->format, n));
}

uint64_t part_read(const struct part *p, uint64_t seen)
{
    return p->law.read ? p->law.read(&p->law, seen) : p->law.held(&p->law, seen);
}

static void lower_as(const char *name, uint32_t cls, const struct part *x, uint64_t first, uint64_t tokens, struct tensors *out)
{
    tokens = x->unit == 1 ? tokens : tokens / x->unit;
    if (x->channels_first)
        TENSOR(out, name, x->tag, cls, x->layers, x->format, first, x->heads, x->width, tokens);
    else if (x->width > 1)
        TENSOR(out, name, x->tag, cls, x->layers, x->format, first, x->heads, tokens, x->width);
    else
        TENSOR(out, name, x->tag, cls, x->layers, x->format, first, x->heads, tokens);
}

/* A page that the batch shares, and one of no sequence, is there once. */
static uint64_t pool_pages(struct plan *p, const struct part *x)
{
    const uint64_t own = num_mul(&p->over, p->w.batch, x->pages), twice = num_mul(&p->over, p->w.batch - 1, x->shared / x->block);

    return num_add(&p->over, num_less(own, twice), x->null);
}

/* What the batch shares is a tensor of its own; in pages it is pages that several tables name. */
static void lower(struct plan *p, uint32_t cls, const struct part *x, struct tensors *out)
{
    char name[48];

    if (x->pages) {
        lower_as(x->name, cls, x, pool_pages(p, x), x->block, out);
        return;
    }
    lower_as(x->name, cls, x, p->w.batch, x->slots - x->shared, out);
    if (!x->shared)
        return;
    snprintf(name, sizeof(name), "%s.shared", x->name);
    lower_as(name, cls, x, 1, x->shared, out);
}

void plan_tensors(struct plan *p, struct tensors *out)
{
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++)
            lower(p, c, &p->cls[c].parts[i], out);
    for (uint32_t i = 0; i < p->n_tables; i++)
        TENSOR(out, "block_table", KVP_TAG_METADATA, WHOLE_MODEL, 1, KVP_I32, p->w.batch, p->tables[i]);
    for (uint32_t i = 0; i < p->n_meta; i++)
        TENSOR(out, p->meta[i].name, KVP_TAG_METADATA, WHOLE_MODEL, 1, p->meta[i].format, p->meta[i].a, p->meta[i].b);
    for (uint32_t i = 0; i < p->n_scratch; i++) {
        const struct plan_scratch *s = &p->scratch[i];

        TENSOR(out, s->name, KVP_TAG_WORKSPACE, WHOLE_MODEL, 1, s->format, s->shape[0], s->shape[1], s->shape[2]);
    }
    out->over = out->over || p->over;
}

/* ---- totals -------------------------------------------------------------------------------------- */

/* Of all sequences together; what they share once. */
static uint64_t all_layers(struct plan *p, const struct part *x, uint64_t tokens)
{
    const uint64_t all = NUM_PROD(&p->over, part_bytes(&p->over, x, tokens), x->layers, p->w.batch);

    if (!x->shared)
        return all;
    return num_less(all, NUM_PROD(&p->over, part_bytes(&p->over, x, num_min(tokens, x->shared)), x->layers, p->w.batch - 1));
}

/* As reserved: whole pages, those beyond the slots at rest too, or `tokens` slots. */
static uint64_t all_room(struct plan *p, const struct part *x, uint64_t tokens)
{
    if (x->pages) {
        const uint64_t more = num_mul(&p->over, p->w.batch, num_less(tokens, x->slots) / x->block);

        return NUM_PROD(&p->over, part_bytes(&p->over, x, x->block), x->layers, num_add(&p->over, pool_pages(p, x), more));
    }
    return all_layers(p, x, tokens);
}

static uint64_t shared_bytes(struct plan *p)
{
    uint64_t sum = 0;

    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            const struct part *x = &p->cls[c].parts[i];

            const uint64_t slots = num_add(&p->over, x->shared, num_mul(&p->over, x->null, x->block));

            if (slots && x->tag != KVP_TAG_STATE)
                sum = num_add(&p->over, sum, num_mul(&p->over, part_bytes(&p->over, x, slots), x->layers));
        }
    return sum;
}

/* Bytes of one sequence that one more token adds in the long run. */
static uint64_t per_token(struct plan *p)
{
    uint64_t sum = 0;

    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            const struct part *x = &p->cls[c].parts[i];

            if (x->law.share > 0)
                sum = num_add(&p->over, sum, (uint64_t)(x->law.share * (double)num_mul(&p->over, part_bytes(&p->over, x, 1), x->layers)));
            /* `unit` tokens add one element of each channel: exact, since the widths divide. */
            if (x->law.endless)
                sum = num_add(&p->over, sum, num_mul(&p->over, part_bytes(&p->over, x, x->unit * 32), x->layers) / (x->unit * 32));
        }
    return sum;
}

static uint64_t held_sum(struct plan *p, uint64_t seen)
{
    uint64_t sum = 0;

    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            const struct part *x = &p->cls[c].parts[i];

            if (x->tag != KVP_TAG_STATE)
                sum = num_add(&p->over, sum, all_layers(p, x, x->law.held(&x->law, seen)));
        }
    return sum;
}

static bool any_grows(const struct plan *p)
{
    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++)
            if (p->cls[c].parts[i].grows)
                return true;
    return false;
}

uint32_t plan_class_of(const struct plan *p, uint32_t layer)
{
    return p->cls == p->opened.split ? p->opened.group_of[layer] : p->model->class_of[layer];
}

/* What one layer's tensors grow by in a step, and what of the old ones goes. */
struct growth {
    uint32_t n;
    uint64_t new[PLAN_MAX_PARTS], old[PLAN_MAX_PARTS];
};

static struct growth growth_of(struct plan *p, const struct plan_class *c, uint64_t seen)
{
    struct growth g = {.n = 0};

    for (uint32_t i = 0; i < c->n_parts; i++) {
        const struct part *x = &c->parts[i];
        const uint64_t before = x->law.held(&x->law, seen - 1), after = x->law.held(&x->law, seen);

        if (after == before || x->tag == KVP_TAG_STATE)
            continue;
        g.new[g.n] = num_mul(&p->over, part_bytes(&p->over, x, after), p->w.batch);
        g.old[g.n++] = num_mul(&p->over, part_bytes(&p->over, x, before), p->w.batch);
    }
    return g;
}

/* The step that brings token `seen`: layer by layer and tensor by tensor, the new one is allocated while
 * the old one lives, then the old one goes. */
static uint64_t growth_peak(struct plan *p, uint64_t seen)
{
    uint64_t now = held_sum(p, seen - 1), peak = 0;
    struct growth known[4]; /* of the classes met last: kinds of layers take turns */
    uint32_t whose[4] = {UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX};

    for (uint32_t l = 0; l < p->model->layers; l++) {
        const uint32_t c = plan_class_of(p, l);
        struct growth *g = &known[c % 4];

        if (whose[c % 4] != c)
            *g = growth_of(p, &p->cls[c], seen);
        whose[c % 4] = c;
        for (uint32_t i = 0; i < g->n; i++) {
            now = num_add(&p->over, now, g->new[i]);
            peak = num_max(peak, now);
            now = num_less(now, g->old[i]);
        }
    }
    return peak;
}

/* Sizes only rise, so the highest step is the last at which some class still grows. */
static uint64_t growing_peak(struct plan *p)
{
    uint64_t peak = held_sum(p, p->w.context), done = 0;

    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            const uint64_t last = num_min(p->w.context, p->cls[c].parts[i].law.cap);

            if (last > p->w.prompt && last != done)
                peak = num_max(peak, growth_peak(p, last));
            done = last;
        }
    return peak;
}

static uint64_t reserved_peak(struct plan *p)
{
    uint64_t sum = 0;

    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++)
            if (p->cls[c].parts[i].tag != KVP_TAG_STATE)
                sum = num_add(&p->over, sum, all_room(p, &p->cls[c].parts[i], p->cls[c].parts[i].slots_most));
    for (uint32_t i = 0; i < p->n_tables; i++)
        sum = num_add(&p->over, sum, NUM_PROD(&p->over, 4, p->w.batch, p->tables[i]));
    for (uint32_t i = 0; i < p->n_meta; i++)
        sum = num_add(&p->over, sum, num_mul(&p->over, p->meta[i].a, format_bytes(&p->over, p->meta[i].format, p->meta[i].b)));
    return sum;
}

/* Reserved less used. */
static int64_t rounding(struct plan *p)
{
    int64_t sum = 0;

    for (uint32_t c = 0; c < p->n_classes; c++)
        for (uint32_t i = 0; i < p->cls[c].n_parts; i++) {
            const struct part *x = &p->cls[c].parts[i];
            const uint64_t held = x->law.held(&x->law, p->w.context);

            if (x->slots != held)
                p->over |= __builtin_add_overflow(sum, (int64_t)all_layers(p, x, x->slots) - (int64_t)all_layers(p, x, held), &sum);
        }
    return sum;
}

void plan_totals(struct plan *p, struct kvp_memory *m)
{
    const int64_t batch = (int64_t)p->w.batch;
    int64_t own;

    m->bytes_per_token = per_token(p);
    m->rounding_bytes = rounding(p);
    m->shared_bytes = shared_bytes(p);
    p->over |= __builtin_sub_overflow((int64_t)m->cache_bytes - (int64_t)m->shared_bytes, m->rounding_bytes, &own);
    m->rounding_bytes += own % batch; /* a store's metadata that no sequence owns */
    p->over |= __builtin_sub_overflow(own / batch, (int64_t)num_mul(&p->over, m->bytes_per_token, p->asked), &m->fixed_bytes_per_sequence);
    m->cache_peak_bytes = any_grows(p) ? growing_peak(p) : reserved_peak(p);
}
