#include "validate/engine/weights.h"

#include "validate/engine/convert.h"
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
};

static struct led_mem *slot(const struct weights *w, enum wt_role role, uint32_t layer)
{
    if (role < WT_LAYER_ROLES)
        return &w->mem[role];
    return &w->mem[WT_LAYER_ROLES + (uint64_t)layer * (WT_ROLES - WT_LAYER_ROLES) + (role - WT_LAYER_ROLES)];
}

struct kb_span weights_of(const struct weights *w, enum wt_role role, uint32_t layer)
{
    return (struct kb_span){slot(w, role == WT_HEAD && w->tied ? WT_EMBED : role, layer)->buf, 0};
}

static const struct kvp_layer_class *class_at(const struct kvp_model *m, uint32_t layer)
{
    return &m->cls[m->class_of[layer]];
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

static kvp_err alloc_roles(const struct filling *f, int from, int to, uint32_t layer, struct kvp_error *e)
{
    const struct kvp_layer_class *c = from < WT_LAYER_ROLES ? NULL : class_at(f->m, layer);

    for (int r = from; r < to; r++) {
        uint64_t n;

        KVP_TRY(sum_elements(f, c, (enum wt_role)r, WP_PIECES, &n, e));
        KVP_TRY(led_alloc(f->w->led, LED_WEIGHTS, n * cvt_size(f->w->format), slot(f->w, (enum wt_role)r, layer), e));
    }
    return KVP_OK;
}

static kvp_err put(const struct filling *f, struct kb_span dst, uint64_t element, const void *src, uint64_t n,
                   struct kvp_error *e)
{
    const struct ledger *l = f->w->led;
    const uint64_t size = cvt_size(f->w->format);

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
    const uint64_t key = mix(mix(f->seed) + ((uint64_t)layer * WP_PIECES + p + 1));
    const uint64_t total = elements(s), step = CHUNK_ELEMENTS - CHUNK_ELEMENTS % VALUES_PER_DRAW;
    uint32_t table[VALUES];

    value_table((unsigned char *)table, f->w->format, middle[s->fill], half[s->fill]);
    for (uint64_t at = 0; at < total; at += step) {
        const uint64_t n = total - at < step ? total - at : step;

        if (f->w->format == KVP_F32)
            draw32((uint32_t *)(void *)f->chunk, table, key, at, n);
        else
            draw16((uint16_t *)(void *)f->chunk, (const uint16_t *)(void *)table, key, at, n);
        KVP_TRY(put(f, dst, at, f->chunk, n, e));
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
    const uint64_t stacked[3] = {n->transposed, cols, n->transposed ? rows / n->transposed : 0};
    const uint64_t plain[2] = {n->transposed ? cols : rows, n->transposed ? rows : cols};
    const uint64_t *want = n->transposed > 1 ? stacked : plain;
    const uint32_t dims = n->transposed > 1 ? 3 : cols ? 2 : 1;
    char has[128], expected[64];

    if (t->format == KVP_FORMATS)
        return kvp_fail(e, KVP_ENOTSUP, "%s: %s: dtype %s, expected F32, F16 or BF16", t->file, t->name, t->dtype);
    if (t->dims == dims && memcmp(t->shape, want, dims * sizeof(want[0])) == 0)
        return KVP_OK;
    if (n->first >= WP_REC_IN && !n->transposed && same_but_for_ones(t, rows, cols))
        return KVP_OK;
    st_shape_text(t->dims, t->shape, has, sizeof(has));
    st_shape_text(dims, want, expected, sizeof(expected));
    return kvp_fail(e, KVP_EINPUT, "%s: %s: shape %s, the model expects %s", t->file, t->name, has, expected);
}

/* All rows of one tensor of the file, from its element `first` on, to dst, some rows at a time. */
static kvp_err copy_tensor(const struct filling *f, const struct st_tensor *t, uint64_t first, uint64_t rows, uint64_t cols,
                           bool transposed, struct kb_span dst, uint64_t element, struct kvp_error *e)
{
    const uint64_t width = cols ? cols : 1, size = cvt_size(t->format), out = cvt_size(f->w->format);
    const uint64_t block = CHUNK_ELEMENTS / width ? CHUNK_ELEMENTS / width : 1;

    for (uint64_t r = 0; r < rows; r += block) {
        const uint64_t n = rows - r < block ? rows - r : block;

        for (uint64_t i = 0; i < n; i++)
            cvt_run(f->w->format, f->chunk + i * width * out, t->format,
                    t->data + (first + (transposed ? r + i : (r + i) * width)) * size, transposed ? rows : 1, width);
        KVP_TRY(put(f, dst, element + r * width, f->chunk, n * width, e));
    }
    return KVP_OK;
}

static kvp_err fill_from_file(const struct filling *f, const struct wt_name *n, const struct kvp_layer_class *c,
                              uint32_t layer, struct kvp_error *e)
{
    const struct wt_shape first = wt_shape_of(f->m, c, n->first);
    struct st_tensor *t;
    uint64_t rows = 0, before, part;
    char name[128];

    for (uint32_t i = 0; i < n->count; i++)
        rows += wt_shape_of(f->m, c, (enum wt_piece)(n->first + i)).rows;
    if (rows == 0)
        return KVP_OK;
    layer_name(n->pattern, layer, name, sizeof(name));
    t = find_tensor(f, name);
    if (!t)
        return kvp_fail(e, KVP_EINPUT, "%s: no tensor %s or %s%s", f->path, name, f->family->prefix, name);
    KVP_TRY(check_tensor(t, n, rows, first.cols, e));
    t->used = true;
    part = n->transposed ? rows / n->transposed : rows;
    KVP_TRY(sum_elements(f, c, first.role, (int)n->first, &before, e));
    for (uint64_t at = 0; at < rows; at += part)
        KVP_TRY(copy_tensor(f, t, at * first.cols, part, first.cols, n->transposed, weights_of(f->w, first.role, layer),
                            before + at * first.cols, e));
    return KVP_OK;
}

/* Tensors that the model does not have would make its numbers another model's. */
static bool may_ignore(const struct filling *f, const char *name)
{
    const size_t prefix = strlen(f->family->prefix);
    const char *bare = strncmp(name, f->family->prefix, prefix) == 0 ? name + prefix : name;

    if (wt_is_buffer(name))
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

static kvp_err fill_pieces(const struct filling *f, bool of_layer, uint32_t layer, struct kvp_error *e)
{
    const struct kvp_layer_class *c = of_layer ? class_at(f->m, layer) : NULL;

    for (uint32_t i = 0; f->files && i < f->family->n_names; i++)
        if ((f->family->names[i].first >= WP_ATTN_NORM) == of_layer)
            KVP_TRY(fill_from_file(f, &f->family->names[i], c, layer, e));
    for (int p = 0; !f->files && p < WP_PIECES; p++) {
        const struct wt_shape s = wt_shape_of(f->m, c, (enum wt_piece)p);
        struct kb_span dst;
        uint64_t before;

        if (s.rows == 0 || (p >= WP_ATTN_NORM) != of_layer)
            continue;
        KVP_TRY(sum_elements(f, c, s.role, p, &before, e));
        dst = weights_of(f->w, s.role, layer);
        dst.offset += before * cvt_size(f->w->format);
        KVP_TRY(fill_random(f, &s, (enum wt_piece)p, layer, dst, e));
    }
    return KVP_OK;
}

/* All is allocated before anything is read, so that a model that does not fit says so early. */
static kvp_err fill_all(const struct filling *f, struct kvp_error *e)
{
    KVP_TRY(alloc_roles(f, 0, WT_LAYER_ROLES, 0, e));
    for (uint32_t l = 0; l < f->m->layers; l++)
        KVP_TRY(alloc_roles(f, WT_LAYER_ROLES, WT_ROLES, l, e));
    KVP_TRY(fill_pieces(f, false, 0, e));
    for (uint32_t l = 0; l < f->m->layers; l++)
        KVP_TRY(fill_pieces(f, true, l, e));
    return f->files ? check_unused(f, e) : KVP_OK;
}

static uint64_t longest_row(const struct kvp_model *m)
{
    uint64_t longest = m->width;

    for (uint32_t i = 0; i < m->classes; i++) {
        const uint64_t q = (uint64_t)m->cls[i].heads * m->cls[i].head_dim, ffn = m->cls[i].ffn_width;

        longest = q > longest ? q : longest;
        longest = ffn > longest ? ffn : longest;
        longest = m->cls[i].inner > longest ? m->cls[i].inner : longest;
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

kvp_err weights_open(struct weights *w, struct ledger *led, const struct kvp_model *m, enum kvp_format format,
                     const char *path, uint64_t seed, struct kvp_error *e)
{
    struct filling f = {.w = w, .m = m, .path = path, .seed = seed};
    kvp_err rc = KVP_OK;

    *w = (struct weights){.led = led, .layers = m->layers, .tied = m->tied, .format = format};
    w->mem = calloc(WT_LAYER_ROLES + (size_t)m->layers * (WT_ROLES - WT_LAYER_ROLES), sizeof(*w->mem));
    f.chunk = malloc(CHUNK_BYTES + longest_row(m) * 4);
    if (!w->mem || !f.chunk)
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

void weights_close(struct weights *w)
{
    const uint64_t n = WT_LAYER_ROLES + (uint64_t)w->layers * (WT_ROLES - WT_LAYER_ROLES);

    for (uint64_t i = 0; w->mem && i < n; i++)
        led_free(w->led, &w->mem[i]);
    free(w->mem);
    *w = (struct weights){0};
}
