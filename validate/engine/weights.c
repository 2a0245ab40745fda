#include "validate/engine/weights.h"

#include "validate/engine/convert.h"
#include "validate/engine/low_rank.h"
#include "validate/engine/safetensors.h"
#include "validate/engine/shapes.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

enum { CHUNK_BYTES = 4 << 20, CHUNK_ELEMENTS = CHUNK_BYTES / 4, VALUES = 4096, VALUE_BITS = 12, VALUES_PER_DRAW = 5 };

/* One filling of all weights. */
struct filling {
    struct weights *w;
    const struct kvp_model *m;
    struct st_files *files; /* NULL: random */
    const struct wt_family *family;
    const char *path;
    uint64_t seed;
    unsigned char *chunk; /* CHUNK_BYTES or one row, whichever is more */
    float *host;          /* a coded role is filled here, whole and in f32, ... */
    enum wt_role only;    /* ... this one */
};

static uint64_t slot_number(enum wt_role role, uint32_t layer)
{
    if (role < WT_LAYER_ROLES)
        return role;
    return WT_LAYER_ROLES + (uint64_t)layer * (WT_ROLES - WT_LAYER_ROLES) + (role - WT_LAYER_ROLES);
}

static struct led_mem *slot(const struct weights *w, enum wt_role role, uint32_t layer)
{
    return &w->mem[slot_number(role, layer)];
}

struct kb_span weights_of(const struct weights *w, enum wt_role role, uint32_t layer)
{
    return (struct kb_span){slot(w, role == WT_HEAD && w->tied ? WT_EMBED : role, layer)->buf, 0};
}

const struct wt_coded *weights_coded(const struct weights *w, enum wt_role role, uint32_t layer, uint32_t *n)
{
    const struct wt_coded *m = &w->coded[slot_number(role == WT_HEAD && w->tied ? WT_EMBED : role, layer) * WT_MATRICES];

    for (*n = 0; *n < WT_MATRICES && m[*n].rows;)
        ++*n;
    return m;
}

struct kb_coded weights_code(const struct weights *w, const struct wt_coded *m)
{
    return (struct kb_coded){.coding = w->coding.coding, .bits = w->coding.bits, .group = w->coding.group,
                             .factor = w->coding.factor, .bias_format = w->coding.vectors, .scale = {m->part[WT_SCALE].buf, 0},
                             .zero = {m->part[WT_ZERO].buf, 0}, .index = {m->part[WT_INDEX].buf, 0}};
}

static const struct kvp_layer_class *class_at(const struct kvp_model *m, uint32_t layer)
{
    return layer < m->layers ? &m->cls[m->class_of[layer]] : wt_encoder_class(m, layer - m->layers);
}

static uint64_t elements(const struct wt_shape *s)
{
    return s->rows * (s->cols ? s->cols : 1);
}

/* Elements of the pieces [0, to) that make up `role`. */
static kvp_err sum_elements(const struct filling *f, const struct kvp_layer_class *c, enum wt_role role, int to,
                            uint64_t *sum, struct kvp_error *e)
{
    *sum = 0;
    for (int p = 0; p < to; p++) {
        const struct wt_shape s = wt_shape_of(f->m, c, (enum wt_piece)p);
        uint64_t n;

        if (s.role != role)
            continue;
        if (__builtin_mul_overflow(s.rows, s.cols ? s.cols : 1, &n) || __builtin_add_overflow(*sum, n, sum) ||
            *sum > UINT64_MAX / 4)
            return kvp_fail(e, KVP_ERANGE, "%s: a weight's size overflows", f->m->name);
    }
    return KVP_OK;
}

/* The linears that products read by role (forward.c, linear). */
static bool is_linear(enum wt_role role)
{
    return role == WT_QKV || role == WT_O || role == WT_UP || role == WT_DOWN;
}

/* Linears are coded, and the matrices of the whole model where the format codes them too. */
static bool role_is(const struct filling *f, enum wt_role role, bool *matrix)
{
    *matrix = false;
    for (int p = 0; p < WP_PIECES; p++) {
        const struct wt_shape s = wt_shape_of(f->m, NULL, (enum wt_piece)p);

        *matrix = *matrix || (s.role == role && s.fill == WF_MATRIX);
    }
    return f->w->coding.on && *matrix && (is_linear(role) || (role < WT_LAYER_ROLES && f->w->coding.all));
}

/* Matrices that are not among the linears, and would stay whole: nobody said what of them is coded. */
static kvp_err check_codable(const struct filling *f, struct kvp_error *e)
{
    for (uint32_t c = 0; f->w->coding.on && c < f->m->classes; c++)
        for (int p = 0; p < WP_PIECES; p++) {
            const struct wt_shape s = wt_shape_of(f->m, &f->m->cls[c], (enum wt_piece)p);

            if (s.rows && s.cols && s.fill == WF_MATRIX && s.role >= WT_LAYER_ROLES && !is_linear(s.role))
                return kvp_fail(e, KVP_ENOTSUP, "%s: the engine codes the weights of attention and dense feed-forwards only", f->m->name);
        }
    return KVP_OK;
}

/* What a matrix that is factored becomes, and the biases that go with it. */
static bool is_factored(const struct kvp_layer_class *c, enum wt_role role)
{
    return c && c->low_k && (role == WT_QKV || role == WT_QKV_BIAS || (role >= WT_K_UP && role <= WT_V_UP_BIAS));
}

static bool is_coded(const struct filling *f, enum wt_role role)
{
    bool matrix;

    return role_is(f, role, &matrix);
}

/* What a piece's numbers are while they are filled in. */
static enum kvp_format format_of(const struct filling *f, const struct wt_shape *s)
{
    return f->host ? KVP_F32 : s->fill == WF_MATRIX ? f->w->coding.plain : f->w->coding.vectors;
}

/* One matrix for each piece of the role, or one for all of it where checkpoints fuse them. */
static uint32_t matrices_of(const struct filling *f, const struct kvp_layer_class *c, enum wt_role role, struct wt_coded out[WT_MATRICES])
{
    const bool fused = c && ((role == WT_QKV && c->fused_qkv) || (role == WT_UP && c->fused_gate_up));
    uint64_t first = 0;
    uint32_t n = 0;

    for (int p = 0; p < WP_PIECES; p++) {
        const struct wt_shape s = wt_shape_of(f->m, c, (enum wt_piece)p);

        if (s.role != role || !s.rows)
            continue;
        if (fused && n)
            out[0].rows += (uint32_t)s.rows;
        else
            out[n++] = (struct wt_coded){.first = first, .rows = (uint32_t)s.rows, .cols = (uint32_t)s.cols};
        first += s.rows;
    }
    return n;
}

static kvp_err alloc_coded(const struct filling *f, enum wt_role role, uint32_t layer, struct kvp_error *e)
{
    struct wt_coded *m = &f->w->coded[slot_number(role, layer) * WT_MATRICES];
    const uint32_t n = matrices_of(f, role < WT_LAYER_ROLES ? NULL : class_at(f->m, layer), role, m);

    for (uint32_t i = 0; i < n; i++) {
        uint64_t bytes[WT_PARTS];

        KVP_TRY(wt_coding_bytes(bytes, &f->w->coding, m[i].rows, m[i].cols, e));
        for (int p = 0; p < WT_PARTS; p++)
            KVP_TRY(led_alloc(f->w->led, LED_WEIGHTS, bytes[p], &m[i].part[p], e));
    }
    return KVP_OK;
}

static kvp_err alloc_roles(const struct filling *f, int from, int to, uint32_t layer, struct kvp_error *e)
{
    const struct kvp_layer_class *c = from < WT_LAYER_ROLES ? NULL : class_at(f->m, layer);

    for (int r = from; r < to; r++) {
        bool matrix;
        uint64_t n;

        KVP_TRY(sum_elements(f, c, (enum wt_role)r, WP_PIECES, &n, e));
        if (role_is(f, (enum wt_role)r, &matrix))
            KVP_TRY(alloc_coded(f, (enum wt_role)r, layer, e));
        else
            KVP_TRY(led_alloc(f->w->led, LED_WEIGHTS, n * cvt_size(matrix ? f->w->coding.plain : f->w->coding.vectors),
                              slot(f->w, (enum wt_role)r, layer), e));
    }
    return KVP_OK;
}

static kvp_err put(const struct filling *f, enum kvp_format format, struct kb_span dst, uint64_t element, const void *src,
                   uint64_t n, struct kvp_error *e)
{
    const struct ledger *l = f->w->led;
    const uint64_t size = cvt_size(format);

    if (f->host) {
        memcpy(f->host + element + dst.offset / size, src, n * size);
        return KVP_OK;
    }
    dst.offset += element * size;
    return l->be->write(l->dev, dst, src, n * size, e);
}

/* ---- random ------------------------------------------------------------------------------------- */

/* Steele, Lea and Flood 2014, SplitMix64's output function: a counter in, 64 well-mixed bits out. */
static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* VALUES evenly spaced values around `middle`, symmetric, in the weights' format: drawing a weight is
 * one look-up. */
static void value_table(unsigned char *table, enum kvp_format format, double middle, double half_width)
{
    for (int i = 0; i < VALUES; i++)
        cvt_store(format, table + (size_t)i * cvt_size(format),
                  (float)(middle + half_width * (2.0 * i + 1 - VALUES) / VALUES));
}

/* Elements [first, first + n) of a tensor whose stream is `key`; first is a multiple of VALUES_PER_DRAW. */
#define DEFINE_DRAW(name, type)                                                               \
    static void name(type *out, const type *table, uint64_t key, uint64_t first, uint64_t n)  \
    {                                                                                         \
        uint64_t count = first / VALUES_PER_DRAW;                                             \
                                                                                              \
        for (uint64_t i = 0; i < n; count++) {                                                \
            uint64_t bits = mix(key + count * 0x9e3779b97f4a7c15u);                           \
                                                                                              \
            for (int j = 0; j < VALUES_PER_DRAW && i < n; j++, bits >>= VALUE_BITS)           \
                out[i++] = table[bits % VALUES];                                              \
        }                                                                                     \
    }
DEFINE_DRAW(draw16, uint16_t)
DEFINE_DRAW(draw32, uint32_t)
#undef DEFINE_DRAW

static kvp_err fill_random(const struct filling *f, const struct wt_shape *s, enum wt_piece p, uint32_t layer,
                           struct kb_span dst, struct kvp_error *e)
{
    /* matrices: a uniform value within +-sqrt(3 / in) has variance 1 / in */
    const double half[] = {[WF_MATRIX] = sqrt(3.0 / (double)(s->cols ? s->cols : 1)), [WF_NORM] = 0.1, [WF_BIAS] = 0.1, [WF_MIX] = 0.5};
    static const double middle[] = {[WF_NORM] = 1, [WF_MIX] = 0.5};
    const bool later = p >= WP_CROSS_FIRST; /* pieces that came to the table later have streams of their own */
    const uint64_t key = mix(mix(later ? ~f->seed : f->seed) + ((uint64_t)layer * (later ? WP_PIECES : WP_DRAWN) + p + 1));
    const uint64_t total = elements(s), step = CHUNK_ELEMENTS - CHUNK_ELEMENTS % VALUES_PER_DRAW;
    const enum kvp_format format = format_of(f, s);
    uint32_t table[VALUES];

    value_table((unsigned char *)table, format, middle[s->fill], half[s->fill]);
    for (uint64_t at = 0; at < total; at += step) {
        const uint64_t n = total - at < step ? total - at : step;

        if (format == KVP_F32)
            draw32((uint32_t *)(void *)f->chunk, table, key, at, n);
        else
            draw16((uint16_t *)(void *)f->chunk, (const uint16_t *)(void *)table, key, at, n);
        KVP_TRY(put(f, format, dst, at, f->chunk, n, e));
    }
    return KVP_OK;
}

/* ---- safetensors -------------------------------------------------------------------------------- */

static void layer_name(const char *pattern, uint32_t layer, char *buf, size_t n)
{
    const char *mark = strstr(pattern, "%u");

    if (mark)
        snprintf(buf, n, "%.*s%" PRIu32 "%s", (int)(mark - pattern), pattern, layer, mark + 2);
    else
        snprintf(buf, n, "%s", pattern);
}

/* With the family's prefix or without. */
static struct st_tensor *find_tensor(const struct filling *f, const char *name)
{
    char full[160];
    struct st_tensor *t;

    snprintf(full, sizeof(full), "%s%s", f->family->prefix, name);
    t = st_find(f->files, full);
    return t ? t : st_find(f->files, name);
}

/* Recurrent layers' files write [1, 1, n] or [heads, dim] for a vector, [n, 1, m] for a matrix. */
static bool same_but_for_ones(const struct st_tensor *t, uint64_t rows, uint64_t cols)
{
    uint64_t left[ST_DIMS];
    uint32_t n = 0;

    for (uint32_t i = 0; i < t->dims; i++)
        if (t->shape[i] != 1)
            left[n++] = t->shape[i];
    return cols ? n == 2 && left[0] == rows && left[1] == cols : t->count == rows;
}

static kvp_err check_tensor(const struct st_tensor *t, const struct wt_name *n, uint64_t rows, uint64_t cols, struct kvp_error *e)
{
    const uint32_t order = n->order >= WO_GROUPED ? WO_PLAIN : n->order;
    const uint64_t stacked[3] = {order, cols, order ? rows / order : 0};
    const uint64_t plain[2] = {order ? cols : rows, order ? rows : cols};
    const uint64_t *want = order > 1 ? stacked : plain;
    const uint32_t dims = order > 1 ? 3 : cols ? 2 : 1;
    char has[128], expected[64];

    if (t->format == KVP_FORMATS)
        return kvp_fail(e, KVP_ENOTSUP, "%s: %s: dtype %s, expected F32, F16 or BF16", t->file, t->name, t->dtype);
    if (t->dims == dims && memcmp(t->shape, want, dims * sizeof(want[0])) == 0)
        return KVP_OK;
    if (n->first >= WP_REC_IN && n->first < WP_CROSS_FIRST && !order && same_but_for_ones(t, rows, cols))
        return KVP_OK;
    st_shape_text(t->dims, t->shape, has, sizeof(has));
    st_shape_text(dims, want, expected, sizeof(expected));
    return kvp_fail(e, KVP_EINPUT, "%s: %s: shape %s, the model expects %s", t->file, t->name, has, expected);
}

/* All rows of one tensor of the file, from its element `first` on, to dst, some rows at a time. */
static kvp_err copy_tensor(const struct filling *f, const struct st_tensor *t, uint64_t first, uint64_t rows, uint64_t cols,
                           bool transposed, enum kvp_format to, struct kb_span dst, uint64_t element, struct kvp_error *e)
{
    const uint64_t width = cols ? cols : 1, size = cvt_size(t->format), out = cvt_size(to);
    const uint64_t block = CHUNK_ELEMENTS / width ? CHUNK_ELEMENTS / width : 1;

    for (uint64_t r = 0; r < rows; r += block) {
        const uint64_t n = rows - r < block ? rows - r : block;

        for (uint64_t i = 0; i < n; i++)
            cvt_run(to, f->chunk + i * width * out, t->format,
                    t->data + (first + (transposed ? r + i : (r + i) * width)) * size, transposed ? rows : 1, width);
        KVP_TRY(put(f, to, dst, element + r * width, f->chunk, n * width, e));
    }
    return KVP_OK;
}

/* The first of the pattern's alternatives that the files have; `name` is the last one that was looked for. */
static struct st_tensor *find_named(const struct filling *f, const char *pattern, uint32_t layer, char *name, size_t n)
{
    struct st_tensor *t = NULL;
    char one[128];

    for (const char *p = pattern; !t && *p; p += strcspn(p, "|"), p += *p == '|') {
        snprintf(one, sizeof(one), "%.*s", (int)strcspn(p, "|"), p);
        layer_name(one, layer, name, n);
        t = find_tensor(f, name);
    }
    return t;
}

static uint32_t groups_of(const struct kvp_layer_class *c, uint32_t order)
{
    return order == WO_GROUPED ? c->kv_heads : order == WO_BY_QUERY ? c->heads : c->groups;
}

/* Each group of rows is a share of every piece, one behind the other. */
static kvp_err copy_grouped(const struct filling *f, const struct st_tensor *t, const struct wt_name *n, const struct kvp_layer_class *c,
                            uint32_t layer, struct kvp_error *e)
{
    const uint32_t groups = groups_of(c, n->order);
    uint64_t from = 0;

    for (uint32_t g = 0; g < groups; g++)
        for (uint32_t i = 0; i < n->count; i++) {
            const enum wt_piece p = (enum wt_piece)(n->first + i);
            const struct wt_shape s = wt_shape_of(f->m, c, p);
            const uint64_t width = s.cols ? s.cols : 1, share = s.rows / groups;
            uint64_t before;

            KVP_TRY(sum_elements(f, c, s.role, (int)p, &before, e));
            KVP_TRY(copy_tensor(f, t, from * width, share, s.cols, false, format_of(f, &s), weights_of(f->w, s.role, layer),
                                before + g * share * width, e));
            from += share;
        }
    return KVP_OK;
}

static kvp_err fill_from_file(const struct filling *f, const struct wt_name *n, const struct kvp_layer_class *c,
                              uint32_t layer, struct kvp_error *e)
{
    const struct wt_shape first = wt_shape_of(f->m, c, n->first);
    const uint32_t number = layer < f->m->layers ? layer : layer - f->m->layers; /* as the file counts its half's */
    struct st_tensor *t;
    uint64_t rows = 0, before, part;
    char name[128];

    for (uint32_t i = 0; i < n->count; i++)
        rows += wt_shape_of(f->m, c, (enum wt_piece)(n->first + i)).rows;
    if (rows == 0)
        return KVP_OK;
    t = find_named(f, n->pattern, number, name, sizeof(name));
    if (!t)
        return kvp_fail(e, KVP_EINPUT, "%s: no tensor %s or %s%s", f->path, name, f->family->prefix, name);
    KVP_TRY(check_tensor(t, n, rows, first.cols, e));
    t->used = true;
    KVP_TRY(sum_elements(f, c, first.role, (int)n->first, &before, e));
    if (n->order >= WO_GROUPED)
        return copy_grouped(f, t, n, c, layer, e);
    part = n->order ? rows / n->order : rows;
    for (uint64_t at = 0; at < rows; at += part)
        KVP_TRY(copy_tensor(f, t, at * first.cols, part, first.cols, n->order, format_of(f, &first), weights_of(f->w, first.role, layer),
                            before + at * first.cols, e));
    return KVP_OK;
}

/* "layers.%u.experts.%u.w" with the layer and the expert filled in. */
static void expert_name(const char *pattern, uint32_t layer, uint32_t expert, char *buf, size_t n)
{
    char once[128];

    layer_name(pattern, layer, once, sizeof(once));
    layer_name(once, expert, buf, n);
}

/* All experts' matrices from one tensor: a matrix of its own for each, behind one another. */
static kvp_err check_stack(const struct st_tensor *t, uint64_t experts, uint64_t rows, uint64_t cols, bool transposed, struct kvp_error *e)
{
    const uint64_t want[3] = {experts, transposed ? cols : rows, transposed ? rows : cols};
    const uint32_t dims = cols ? 3 : 2;
    char has[128], expected[64];

    if (t->format == KVP_FORMATS)
        return kvp_fail(e, KVP_ENOTSUP, "%s: %s: dtype %s, expected F32, F16 or BF16", t->file, t->name, t->dtype);
    if (t->dims == dims && memcmp(t->shape, want, dims * sizeof(want[0])) == 0)
        return KVP_OK;
    st_shape_text(t->dims, t->shape, has, sizeof(has));
    st_shape_text(dims, want, expected, sizeof(expected));
    return kvp_fail(e, KVP_EINPUT, "%s: %s: shape %s, the model expects %s", t->file, t->name, has, expected);
}

static kvp_err fill_experts(const struct filling *f, const struct wt_expert_name *n, const struct kvp_layer_class *c, uint32_t layer,
                            struct kvp_error *e)
{
    const struct wt_shape all = wt_shape_of(f->m, c, n->piece);
    const struct wt_name plain = {.first = n->piece, .order = n->transposed ? WO_TRANSPOSED : WO_PLAIN};
    const uint64_t rows = all.rows / c->experts / n->parts, width = all.cols ? all.cols : 1;

    for (uint32_t x = 0; all.rows && x < c->experts; x++) {
        struct st_tensor *t;
        char name[128];

        expert_name(n->pattern, layer, x, name, sizeof(name));
        t = find_tensor(f, name);
        if (!t)
            return kvp_fail(e, KVP_EINPUT, "%s: no tensor %s or %s%s", f->path, name, f->family->prefix, name);
        KVP_TRY(n->stacked ? check_stack(t, c->experts, rows, all.cols, n->transposed, e) : check_tensor(t, &plain, rows, all.cols, e));
        t->used = true;
        KVP_TRY(copy_tensor(f, t, n->stacked ? x * rows * width : 0, rows, all.cols, n->transposed, format_of(f, &all),
                            weights_of(f->w, all.role, layer), ((uint64_t)x * n->parts + n->part) * rows * width, e));
    }
    return KVP_OK;
}

/* BART's buffer beside the head, which transformers adds to the logits. */
static bool is_zero(const struct st_tensor *t)
{
    const uint64_t bytes = t && t->format != KVP_FORMATS ? t->count * cvt_size(t->format) : 0;
    uint64_t i = 0;

    while (i < bytes && t->data[i] == 0)
        i++;
    return bytes && i == bytes;
}

/* Tensors that the model does not have would make its numbers another model's. */
static bool may_ignore(const struct filling *f, const char *name)
{
    const size_t prefix = strlen(f->family->prefix);
    const char *bare = strncmp(name, f->family->prefix, prefix) == 0 ? name + prefix : name;

    if (wt_is_buffer(name) || (strcmp(name, "final_logits_bias") == 0 && is_zero(st_find(f->files, name))))
        return true;
    for (uint32_t i = 0; i < f->family->n_names; i++) {
        const struct wt_name *n = &f->family->names[i];
        const char *mark = strstr(n->pattern, "%u");
        char *rest;

        if (!mark && n->first == WP_HEAD && f->m->tied && strcmp(bare, n->pattern) == 0)
            return true;
        if (!mark || strncmp(bare, n->pattern, (size_t)(mark - n->pattern)) != 0)
            continue;
        if (strtoull(bare + (mark - n->pattern), &rest, 10) >= f->m->layers && *rest == '.')
            return true; /* a layer that --layers left out */
    }
    return false;
}

static kvp_err check_unused(const struct filling *f, struct kvp_error *e)
{
    const struct st_tensor *t;

    for (uint64_t i = 0; (t = st_at(f->files, i)); i++)
        if (!t->used && !may_ignore(f, t->name)) {
            char shape[128];

            st_shape_text(t->dims, t->shape, shape, sizeof(shape));
            return kvp_fail(e, KVP_EINPUT, "%s: %s %s is not a tensor of this %s model", t->file, t->name, shape,
                            f->m->model_type);
        }
    return KVP_OK;
}

/* ---- all of it ---------------------------------------------------------------------------------- */

/* Is a piece of this role filled in now: a role that is coded or factored one at a time, the others together? */
static bool its_turn(const struct filling *f, const struct kvp_layer_class *c, enum wt_role role)
{
    return f->host ? role == f->only : !is_coded(f, role) && !is_factored(c, role);
}

static const struct wt_name *names_of(const struct filling *f, bool encoder, uint32_t *n)
{
    if (encoder)
        return cross_encoder_names(f->m->model_type, n);
    *n = f->family->n_names;
    return f->family->names;
}

static kvp_err fill_pieces(const struct filling *f, bool of_layer, uint32_t layer, struct kvp_error *e)
{
    const struct kvp_layer_class *c = of_layer ? class_at(f->m, layer) : NULL;
    uint32_t n_names = 0;
    const struct wt_name *names = f->files ? names_of(f, of_layer && layer >= f->m->layers, &n_names) : NULL;

    for (uint32_t i = 0; of_layer && f->files && !f->host && c->experts && i < f->family->n_experts; i++)
        KVP_TRY(fill_experts(f, &f->family->experts[i], c, layer, e));
    for (uint32_t i = 0; i < n_names; i++)
        if (wt_of_layer(names[i].first) == of_layer && its_turn(f, c, wt_shape_of(f->m, c, names[i].first).role))
            KVP_TRY(fill_from_file(f, &names[i], c, layer, e));
    for (int p = 0; p < WP_PIECES; p++) {
        const struct wt_shape s = wt_shape_of(f->m, c, (enum wt_piece)p);
        struct kb_span dst;
        uint64_t before;

        if (f->files && !cross_is_block(f->m, c, (enum wt_piece)p))
            continue;
        if (s.rows == 0 || wt_of_layer((enum wt_piece)p) != of_layer || !its_turn(f, c, s.role))
            continue;
        KVP_TRY(sum_elements(f, c, s.role, p, &before, e));
        dst = weights_of(f->w, s.role, layer);
        dst.offset += before * cvt_size(format_of(f, &s));
        KVP_TRY(fill_random(f, &s, (enum wt_piece)p, layer, dst, e));
    }
    return KVP_OK;
}

kvp_err weights_put(const struct weights *w, const struct wt_coded *m, void *const part[WT_PARTS], struct kvp_error *e)
{
    const struct ledger *l = w->led;

    for (int p = 0; p < WT_PARTS; p++)
        if (m->part[p].bytes)
            KVP_TRY(l->be->write(l->dev, (struct kb_span){m->part[p].buf, 0}, part[p], m->part[p].bytes, e));
    return KVP_OK;
}

static kvp_err encode(const struct filling *f, const struct wt_coded *m, const float *numbers, struct kvp_error *e)
{
    void *part[WT_PARTS] = {NULL};
    kvp_err rc = KVP_OK;

    for (int p = 0; p < WT_PARTS && rc == KVP_OK; p++)
        if (m->part[p].bytes && !(part[p] = malloc(m->part[p].bytes)))
            rc = kvp_fail(e, KVP_ENOMEM, "out of memory for a coded matrix");
    if (rc == KVP_OK) {
        wt_encode(part, &f->w->coding, numbers + m->first * m->cols, m->rows, m->cols);
        rc = weights_put(f->w, m, part, e);
    }
    for (int p = 0; p < WT_PARTS; p++)
        free(part[p]);
    return rc;
}

/* One role whole on the host, then matrix by matrix as codes. */
static kvp_err fill_coded(const struct filling *from, enum wt_role role, uint32_t layer, struct kvp_error *e)
{
    const bool of_layer = role >= WT_LAYER_ROLES;
    struct filling f = *from;
    uint64_t n;
    uint32_t matrices;
    const struct wt_coded *m = weights_coded(f.w, role, layer, &matrices);
    kvp_err rc;

    KVP_TRY(sum_elements(&f, of_layer ? class_at(f.m, layer) : NULL, role, WP_PIECES, &n, e));
    if (!n || (role == WT_HEAD && f.w->tied))
        return KVP_OK;
    f.only = role;
    f.host = malloc(n * sizeof(*f.host));
    if (!f.host)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu64 " weights to be coded", n);
    rc = fill_pieces(&f, of_layer, layer, e);
    for (uint32_t i = 0; i < matrices && rc == KVP_OK; i++)
        rc = encode(&f, &m[i], f.host, e);
    free(f.host);
    return rc;
}

/* ---- factored projections ------------------------------------------------------------------------ */

/* A layer as it is before it is factored: its q, k and v, and their biases. */
struct projections {
    const struct filling *f;
    struct kvp_model m; /* of one layer that is not factored */
    uint32_t layer;
    uint64_t q, kv;
    float *qkv, *bias;
    double condition;
};

/* One role of the layer, whole and in f32, as if nothing were factored. */
static kvp_err read_whole(const struct projections *p, enum wt_role role, float **out, struct kvp_error *e)
{
    struct filling f = *p->f;
    uint64_t n;

    f.m = &p->m;
    KVP_TRY(sum_elements(&f, class_at(f.m, p->layer), role, WP_PIECES, &n, e));
    if (!n)
        return KVP_OK;
    f.only = role;
    f.host = *out = malloc(n * sizeof(**out));
    return *out ? fill_pieces(&f, true, p->layer, e) : kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu64 " weights to be factored", n);
}

/* n numbers, rounded, to element `at` of a role. */
static kvp_err put_numbers(const struct projections *p, enum wt_role role, uint64_t at, const float *x, uint64_t n, struct kvp_error *e)
{
    const struct filling *f = p->f;
    const bool vector = role == WT_QKV_BIAS || role == WT_K_UP_BIAS || role == WT_V_UP_BIAS;
    const enum kvp_format format = vector ? f->w->coding.vectors : f->w->coding.plain;

    for (uint64_t i = 0, step; i < n; i += step) {
        step = n - i < CHUNK_ELEMENTS ? n - i : CHUNK_ELEMENTS;
        cvt_run(format, f->chunk, KVP_F32, (const unsigned char *)(x + i), 1, step);
        KVP_TRY(put(f, format, weights_of(f->w, role, p->layer), at + i, f->chunk, step, e));
    }
    return KVP_OK;
}

/* Rows of k, or of v, of the whole matrix, factored. */
struct factors {
    uint64_t first, rank;
    float *up, *down;
    struct kvp_error e;
    kvp_err rc;
};

static void split(const struct projections *p, struct factors *x)
{
    const uint64_t cols = p->f->m->width;

    x->up = malloc(p->kv * x->rank * sizeof(*x->up));
    x->down = malloc(x->rank * cols * sizeof(*x->down));
    x->rc = x->up && x->down ? low_rank_split(x->up, x->down, p->qkv + x->first * cols, p->kv, cols, x->rank, &x->e)
                             : kvp_fail(&x->e, KVP_ENOMEM, "out of memory for factors of %" PRIu64 " rows", p->kv);
}

/* The first factor below q (and k's), the second by itself. */
static kvp_err put_factors(const struct projections *p, const struct factors *x, bool value, struct kvp_error *e)
{
    const uint64_t cols = p->f->m->width, above = p->q + (value ? class_at(p->f->m, p->layer)->low_k : 0);

    if (x->rc != KVP_OK)
        return kvp_fail(e, x->rc, "%s", x->e.text);
    KVP_TRY(put_numbers(p, WT_QKV, above * cols, x->down, x->rank * cols, e));
    KVP_TRY(put_numbers(p, value ? WT_V_UP : WT_K_UP, 0, x->up, p->kv * x->rank, e));
    return p->bias ? put_numbers(p, value ? WT_V_UP_BIAS : WT_K_UP_BIAS, 0, p->bias + x->first, p->kv, e) : KVP_OK;
}

static kvp_err factor_all(struct projections *p, struct kvp_error *e)
{
    const struct kvp_layer_class *c = class_at(p->f->m, p->layer);
    struct factors x[2] = {{.first = p->q, .rank = c->low_k}, {.first = p->q + p->kv, .rank = c->low_v}};
    kvp_err rc;

    KVP_TRY(read_whole(p, WT_QKV_BIAS, &p->bias, e));
    KVP_TRY(put_numbers(p, WT_QKV, 0, p->qkv, p->q * p->f->m->width, e));
    if (p->bias)
        KVP_TRY(put_numbers(p, WT_QKV_BIAS, 0, p->bias, p->q, e));
#pragma omp parallel for num_threads(2)
    for (int side = 0; side < 2; side++)
        split(p, &x[side]);
    rc = put_factors(p, &x[0], false, e);
    if (rc == KVP_OK)
        rc = put_factors(p, &x[1], true, e);
    for (int side = 0; side < 2; side++) {
        free(x[side].up);
        free(x[side].down);
    }
    return rc;
}

/* log of the condition numbers of W_k and W_v, multiplied. */
static kvp_err condition(struct projections *p, struct kvp_error *e)
{
    const uint64_t cols = p->f->m->width;
    double k, v;

    KVP_TRY(low_rank_condition(&k, p->qkv + p->q * cols, p->kv, cols, e));
    KVP_TRY(low_rank_condition(&v, p->qkv + (p->q + p->kv) * cols, p->kv, cols, e));
    p->condition = k + v;
    return KVP_OK;
}

/* A layer's projections through `step`. */
static kvp_err with_projections(const struct filling *f, uint32_t layer, kvp_err (*step)(struct projections *p, struct kvp_error *e),
                                double *out, struct kvp_error *e)
{
    struct kvp_layer_class whole = *class_at(f->m, layer);
    uint32_t *all_one = calloc(f->m->layers, sizeof(*all_one));
    struct projections p = {.f = f, .m = *f->m, .layer = layer, .q = (uint64_t)whole.heads * whole.head_dim,
                            .kv = (uint64_t)whole.kv_heads * whole.head_dim};
    kvp_err rc;

    if (!all_one)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " layers", f->m->layers);
    whole.low_k = whole.low_v = 0;
    p.m.cls = &whole;
    p.m.class_of = all_one;
    rc = read_whole(&p, WT_QKV, &p.qkv, e);
    if (rc == KVP_OK)
        rc = step(&p, e);
    if (out)
        *out = p.condition;
    free(p.qkv);
    free(p.bias);
    free(all_one);
    return rc;
}

static kvp_err fill_roles(const struct filling *f, int from, int to, uint32_t layer, struct kvp_error *e)
{
    KVP_TRY(fill_pieces(f, from >= WT_LAYER_ROLES, layer, e));
    for (int r = from; r < to; r++)
        if (is_coded(f, (enum wt_role)r) && f->w->coding.method == WT_ROUND)
            KVP_TRY(fill_coded(f, (enum wt_role)r, layer, e));
    return from >= WT_LAYER_ROLES && class_at(f->m, layer)->low_k ? with_projections(f, layer, factor_all, NULL, e) : KVP_OK;
}

/* All is allocated before anything is read, so that a model that does not fit says so early. */
static kvp_err fill_all(const struct filling *f, struct kvp_error *e)
{
    KVP_TRY(check_codable(f, e));
    KVP_TRY(alloc_roles(f, 0, WT_LAYER_ROLES, 0, e));
    for (uint32_t l = 0; l < f->w->layers; l++)
        KVP_TRY(alloc_roles(f, WT_LAYER_ROLES, WT_ROLES, l, e));
    KVP_TRY(fill_roles(f, 0, WT_LAYER_ROLES, 0, e));
    for (uint32_t l = 0; l < f->w->layers; l++)
        KVP_TRY(fill_roles(f, WT_LAYER_ROLES, WT_ROLES, l, e));
    /* with a calibrated method the tensors are used, and checked, where the calibration runs */
    return f->files && f->w->coding.method == WT_ROUND ? check_unused(f, e) : KVP_OK;
}

/* What experts and latent attention multiply by. */
static uint64_t longest_of(uint64_t longest, const struct kvp_layer_class *c)
{
    const uint64_t rows[] = {4ull * c->cross_heads * c->cross_head_dim, c->cross_in, c->expert_width, c->shared_width, c->q_rank, c->kv_rank, (uint64_t)c->heads * c->v_head_dim};

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        longest = rows[i] > longest ? rows[i] : longest;
    return longest;
}

static uint64_t longest_row(const struct kvp_model *m)
{
    uint64_t longest = m->width;

    for (uint32_t i = 0; i < m->classes; i++) {
        const uint64_t q = (uint64_t)m->cls[i].heads * m->cls[i].head_dim, ffn = m->cls[i].ffn_width;

        longest = q > longest ? q : longest;
        longest = ffn > longest ? ffn : longest;
        longest = m->cls[i].inner > longest ? m->cls[i].inner : longest;
        longest = longest_of(longest, &m->cls[i]);
    }
    for (uint32_t i = 0; i < m->encoders; i++) {
        longest = m->encoder[i].ffn_width > longest ? m->encoder[i].ffn_width : longest;
        longest = longest_of(longest, &m->encoder[i]);
    }
    return longest;
}

static kvp_err open_files(struct filling *f, struct kvp_error *e)
{
    f->family = wt_family_of(f->m->model_type);
    if (!f->family)
        return kvp_fail(e, KVP_ENOTSUP, "%s: no tensor names are known for model_type %s", f->path, f->m->model_type);
    return st_open(&f->files, f->path, e);
}

kvp_err weights_open(struct weights *w, struct ledger *led, const struct kvp_model *m, const struct wt_coding *coding,
                     const char *path, uint64_t seed, struct kvp_error *e)
{
    const uint32_t layers = m->layers + wt_encoder_layers(m);
    const size_t slots = WT_LAYER_ROLES + (size_t)layers * (WT_ROLES - WT_LAYER_ROLES);
    struct filling f = {.w = w, .m = m, .path = path, .seed = seed};
    kvp_err rc = KVP_OK;

    *w = (struct weights){.led = led, .layers = layers, .tied = m->tied, .coding = *coding};
    w->mem = calloc(slots, sizeof(*w->mem));
    w->coded = calloc(slots * WT_MATRICES, sizeof(*w->coded));
    f.chunk = malloc(CHUNK_BYTES + longest_row(m) * 4);
    if (!w->mem || !w->coded || !f.chunk)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for weights");
    if (rc == KVP_OK && path)
        rc = open_files(&f, e);
    if (rc == KVP_OK)
        rc = fill_all(&f, e);
    st_close(f.files);
    free(f.chunk);
    if (rc != KVP_OK)
        weights_close(w);
    return rc;
}

static kvp_err measure(const struct filling *f, double *out, struct kvp_error *e)
{
    for (uint32_t l = 0; l < f->m->layers; l++) {
        out[l] = 0;
        if (class_at(f->m, l)->mixer == KVP_MIX_ATTENTION && !class_at(f->m, l)->no_kv)
            KVP_TRY(with_projections(f, l, condition, &out[l], e));
    }
    return KVP_OK;
}

kvp_err weights_conditions(double *out, const struct kvp_model *m, const char *path, uint64_t seed, struct kvp_error *e)
{
    struct weights none = {.layers = m->layers, .tied = m->tied};
    struct filling f = {.w = &none, .m = m, .path = path, .seed = seed, .chunk = malloc(CHUNK_BYTES + longest_row(m) * 4)};
    kvp_err rc = KVP_OK;

    none.mem = calloc(WT_LAYER_ROLES + (size_t)m->layers * (WT_ROLES - WT_LAYER_ROLES), sizeof(*none.mem));
    if (!none.mem || !f.chunk)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for weights");
    if (rc == KVP_OK && path)
        rc = open_files(&f, e);
    if (rc == KVP_OK)
        rc = measure(&f, out, e);
    st_close(f.files);
    free(f.chunk);
    free(none.mem);
    return rc;
}

static uint64_t slots_of(const struct weights *w)
{
    return WT_LAYER_ROLES + (uint64_t)w->layers * (WT_ROLES - WT_LAYER_ROLES);
}

void weights_move(struct weights *w, struct ledger *to)
{
    const uint64_t n = slots_of(w);

    for (uint64_t i = 0; i < n; i++)
        led_move(w->led, to, &w->mem[i]);
    for (uint64_t i = 0; i < n * WT_MATRICES; i++)
        for (int p = 0; p < WT_PARTS; p++)
            led_move(w->led, to, &w->coded[i].part[p]);
    w->led = to;
}

void weights_close(struct weights *w)
{
    const uint64_t n = slots_of(w);

    for (uint64_t i = 0; w->mem && i < n; i++)
        led_free(w->led, &w->mem[i]);
    for (uint64_t i = 0; w->coded && i < n * WT_MATRICES; i++)
        for (int p = 0; p < WT_PARTS; p++)
            led_free(w->led, &w->coded[i].part[p]);
    free(w->coded);
    free(w->mem);
    *w = (struct weights){0};
}
