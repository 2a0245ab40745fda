/* rig.h - drives one cache over a backend without an engine: random q, k, v of whole histories are laid
 * out as projections leave them, and what comes back is held against references in double that each
 * test writes for itself. One rig per test; a failed call fails the test with its own words. */
#ifndef RIG_H
#define RIG_H

#include "kernels/backend.h"
#include "validate/caches/cache.h"

#include <check.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RIG_LAYERS = 3 };
static const char *const rig_backends[] = {"ref", "cpu"};
enum { RIG_BACKENDS = 2 };

/* One row of a test's table. Layers without dimensions of their own take heads, kv_heads and dim. */
struct rig_case {
    const char *stack; /* techniques, space-separated */
    enum kvp_format format;
    uint64_t batch, prompt, context;
    uint32_t heads, kv_heads, dim, layers;
    uint64_t window[RIG_LAYERS], max_positions;
};

struct rig {
    const struct rig_case *c;
    const struct kb_backend *be;
    struct kb_dev *dev;
    struct ledger led;
    struct kvp_layer_class cls[RIG_LAYERS];
    uint32_t class_of[RIG_LAYERS];
    struct kvp_model model;
    struct kvp_stack stack;
    struct cache_env env;
    const struct cache_ops *ops;
    struct cache *cache;
    struct kb_buf *qkv, *out, *lse, *inv_freq;
    float *x[RIG_LAYERS]; /* [batch][context][(heads + 2 kv_heads) * dim] */
    float *rows, *result; /* of one call: [batch * tokens][...] */
    uint64_t seen, calls[KVP_OPS];
};

static inline uint64_t rig_stride(const struct rig *r)
{
    return (uint64_t)(r->c->heads + 2 * r->c->kv_heads) * r->c->dim;
}

static inline void *rig_zalloc(uint64_t n, size_t size)
{
    void *p = calloc(n ? n : 1, size);

    ck_assert_ptr_nonnull(p);
    return p;
}

#define RIG_OK(r, call)                                                                           \
    do {                                                                                          \
        struct kvp_error e = {0};                                                                 \
        const kvp_err rc_ = (call);                                                               \
        ck_assert_msg(rc_ == KVP_OK, "%s on %s: " #call ": %s", (r)->c->stack, (r)->be->name, e.text); \
    } while (0)

static inline kvp_err rig_run(void *self, enum kvp_op op, enum kb_kernel k, const void *args, struct kvp_error *e)
{
    struct rig *r = self;

    r->calls[op]++;
    return r->be->run(r->dev, k, args, e);
}

static inline kvp_err rig_copy(void *self, enum kvp_op op, struct kb_span dst, uint64_t dst_pitch, struct kb_span src,
                               uint64_t src_pitch, uint64_t bytes, uint64_t rows, struct kvp_error *e)
{
    struct rig *r = self;

    r->calls[op]++;
    for (uint64_t i = 0; i < rows; i++)
        KVP_TRY(r->be->copy(r->dev, (struct kb_span){dst.buf, dst.offset + i * dst_pitch},
                            (struct kb_span){src.buf, src.offset + i * src_pitch}, bytes, e));
    return KVP_OK;
}

/* RoPE's frequency of a pair of channels, as every rig has it. */
static inline float rig_inv_freq(const struct rig *r, uint32_t i)
{
    return powf(100, -2.0f * (float)i / (float)r->c->dim);
}

/* As the engine's: q and k of a call turned by their positions in the text. */
static inline kvp_err rig_rope(void *self, uint32_t layer, const struct cache_qkv *x, struct kvp_error *e)
{
    struct rig *r = self;
    struct kb_rope a = {.rows = r->c->batch * x->tokens, .heads = r->c->heads + r->c->kv_heads, .head_dim = r->c->dim,
                        .stride = x->stride, .x = x->q, .inv_freq = {r->inv_freq, 0}};
    int32_t *at = malloc(a.rows * sizeof(*at));
    kvp_err rc;

    (void)layer;
    ck_assert_ptr_nonnull(at);
    for (uint64_t i = 0; i < a.rows; i++)
        at[i] = (int32_t)(x->position + i % x->tokens);
    KVP_TRY(r->be->alloc(r->dev, a.rows * sizeof(*at), &a.positions.buf, e));
    KVP_TRY(r->be->write(r->dev, a.positions, at, a.rows * sizeof(*at), e));
    free(at);
    rc = rig_run(r, KVP_OP_ROPE, KB_ROPE, &a, e);
    r->be->release(r->dev, a.positions.buf);
    return rc;
}

static inline void rig_frequencies(struct rig *r)
{
    const uint64_t n = r->c->dim / 2 ? r->c->dim / 2 : 1;

    RIG_OK(r, r->be->alloc(r->dev, n * sizeof(float), &r->inv_freq, &e));
    for (uint32_t i = 0; i < n; i++) {
        const float f = rig_inv_freq(r, i);

        RIG_OK(r, r->be->write(r->dev, (struct kb_span){r->inv_freq, i * sizeof(f)}, &f, sizeof(f), &e));
    }
    r->env.inv_freq = (struct kb_span){r->inv_freq, 0};
}

/* Uniform in [-1, 1), from a 64-bit LCG (Knuth's MMIX constants); the same on every machine. */
static inline float rig_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (float)((double)(*state >> 40) / 8388608.0 - 1.0);
}

static inline void rig_stack(struct kvp_stack *s, const char *text)
{
    char copy[256], *save = NULL;
    struct kvp_error e = {0};

    snprintf(copy, sizeof(copy), "%s", text);
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
        ck_assert_msg(kvp_stack_add(s, word, &e) == KVP_OK, "%s: %s", word, e.text);
}

static inline void rig_model(struct rig *r)
{
    const struct rig_case *c = r->c;

    for (uint32_t i = 0; i < c->layers; i++) {
        r->class_of[i] = i;
        r->cls[i] = (struct kvp_layer_class){.count = 1, .heads = c->heads, .kv_heads = c->kv_heads,
                                             .head_dim = c->dim, .window = c->window[i]};
    }
    r->model = (struct kvp_model){.layers = c->layers, .classes = c->layers, .cls = r->cls, .class_of = r->class_of,
                                  .width = c->heads * c->dim, .max_positions = c->max_positions ? c->max_positions : 4096};
}

/* Everything but the cache: a test of refusals opens that itself. */
static inline void rig_prepare(struct rig *r, const struct rig_case *c, const char *backend, bool trace)
{
    uint64_t state = 42, width;

    *r = (struct rig){.c = c};
    RIG_OK(r, (kb_find(&r->be, backend, &e)));
    RIG_OK(r, r->be->open(&r->dev, &(struct kb_options){.threads = 1}, &e));
    r->led = (struct ledger){.be = r->be, .dev = r->dev};
    rig_model(r);
    rig_stack(&r->stack, c->stack);
    r->env = (struct cache_env){.led = &r->led, .model = &r->model, .stack = &r->stack, .format = c->format,
                                .batch = c->batch, .prompt = c->prompt, .context = c->context, .trace = trace,
                                .run = rig_run, .copy = rig_copy, .rope = rig_rope, .self = r};
    rig_frequencies(r);
    width = rig_stride(r);
    for (uint32_t l = 0; l < c->layers; l++) {
        r->x[l] = rig_zalloc(c->batch * c->context * width, sizeof(float));
        for (uint64_t i = 0; i < c->batch * c->context * width; i++)
            r->x[l][i] = rig_random(&state);
    }
    r->rows = rig_zalloc(c->batch * c->prompt * width, sizeof(float));
    r->result = rig_zalloc(c->batch * c->prompt * c->heads * c->dim, sizeof(float));
    RIG_OK(r, r->be->alloc(r->dev, c->batch * c->prompt * width * sizeof(float), &r->qkv, &e));
    RIG_OK(r, r->be->alloc(r->dev, c->batch * c->prompt * c->heads * c->dim * sizeof(float), &r->out, &e));
    RIG_OK(r, r->be->alloc(r->dev, c->batch * c->prompt * c->heads * sizeof(float), &r->lse, &e));
    RIG_OK(r, cache_find(&r->ops, &r->stack, &e));
}

static inline void rig_open(struct rig *r, const struct rig_case *c, const char *backend, bool trace)
{
    rig_prepare(r, c, backend, trace);
    RIG_OK(r, r->ops->open(&r->cache, &r->env, &e));
}

/* Closes the cache and asserts that the ledger is empty: nothing is left behind. */
static inline void rig_close(struct rig *r)
{
    r->ops->close(r->cache);
    for (int t = 0; t < LED_TAGS; t++)
        ck_assert_msg(r->led.now[t] == 0, "%s: %llu bytes of tag %d after close", r->c->stack,
                      (unsigned long long)r->led.now[t], t);
    r->be->release(r->dev, r->qkv);
    r->be->release(r->dev, r->out);
    r->be->release(r->dev, r->lse);
    r->be->release(r->dev, r->inv_freq);
    r->be->close(r->dev);
    for (uint32_t l = 0; l < r->c->layers; l++)
        free(r->x[l]);
    free(r->rows);
    free(r->result);
}

/* The f32 row of token t in a layer; q of head h at h*dim, then k, then v of the kv heads. */
static inline const float *rig_row(const struct rig *r, uint32_t layer, uint64_t b, uint64_t t)
{
    return r->x[layer] + (b * r->c->context + t) * rig_stride(r);
}
static inline const float *rig_q(const struct rig *r, uint32_t layer, uint64_t b, uint64_t t, uint32_t h)
{
    return rig_row(r, layer, b, t) + (uint64_t)h * r->c->dim;
}
static inline const float *rig_k(const struct rig *r, uint32_t layer, uint64_t b, uint64_t t, uint32_t g)
{
    return rig_row(r, layer, b, t) + (uint64_t)(r->c->heads + g) * r->c->dim;
}
static inline const float *rig_v(const struct rig *r, uint32_t layer, uint64_t b, uint64_t t, uint32_t g)
{
    return rig_row(r, layer, b, t) + (uint64_t)(r->c->heads + r->c->kv_heads + g) * r->c->dim;
}
/* What the last call of a layer returned: token t of the call. */
static inline const float *rig_out(const struct rig *r, uint64_t b, uint64_t t, uint64_t tokens, uint32_t h)
{
    return r->result + ((b * tokens + t) * r->c->heads + h) * r->c->dim;
}

/* One layer over `tokens` tokens from position r->seen; the result is in r->result. */
static inline kvp_err rig_try_layer(struct rig *r, uint32_t layer, uint64_t tokens, struct kvp_error *e)
{
    const struct rig_case *c = r->c;
    const uint64_t width = rig_stride(r), out = (uint64_t)c->heads * c->dim;
    const struct cache_qkv x = {.tokens = tokens, .position = r->seen, .stride = width, .q = {r->qkv, 0},
                                .k = {r->qkv, (uint64_t)c->heads * c->dim * sizeof(float)},
                                .v = {r->qkv, (uint64_t)(c->heads + c->kv_heads) * c->dim * sizeof(float)},
                                .out_stride = out, .out = {r->out, 0}, .lse = {r->lse, 0}};

    for (uint64_t b = 0; b < c->batch; b++)
        memcpy(r->rows + b * tokens * width, rig_row(r, layer, b, r->seen), tokens * width * sizeof(float));
    KVP_TRY(r->be->write(r->dev, x.q, r->rows, c->batch * tokens * width * sizeof(float), e));
    KVP_TRY((r->seen ? r->ops->decode : r->ops->prefill)(r->cache, layer, &x, e));
    return r->be->read(r->dev, x.out, r->result, c->batch * tokens * out * sizeof(float), e);
}

static inline void rig_layer(struct rig *r, uint32_t layer, uint64_t tokens)
{
    RIG_OK(r, rig_try_layer(r, layer, tokens, &e));
}

/* The prompt first, then one token a call. `check` (may be NULL) sees each layer's result; r->seen is
 * still the position of the call's first token. */
static inline void rig_step(struct rig *r, void (*check)(struct rig *r, uint32_t layer, uint64_t tokens, void *arg), void *arg)
{
    const uint64_t tokens = r->seen ? 1 : r->c->prompt;

    for (uint32_t l = 0; l < r->c->layers; l++) {
        rig_layer(r, l, tokens);
        if (check)
            check(r, l, tokens, arg);
    }
    r->seen += tokens;
}

static inline void rig_all(struct rig *r, void (*check)(struct rig *r, uint32_t layer, uint64_t tokens, void *arg), void *arg)
{
    while (r->seen < r->c->context)
        rig_step(r, check, arg);
}

static inline void rig_reset(struct rig *r)
{
    RIG_OK(r, r->ops->reset(r->cache, &e));
    r->seen = 0;
}

/* Does `stack` give what `plain` gives, in every layer and step of c's run? Bit for bit, or within
 * `tolerance` where pages may change the order of a sum. */
static inline void rig_same_run(const struct rig_case *c, const char *plain, const char *stack, const char *backend,
                                float tolerance)
{
    struct rig_case one = *c, other = *c;
    struct rig a, b;

    one.stack = plain;
    other.stack = stack;
    rig_open(&a, &one, backend, false);
    rig_open(&b, &other, backend, false);
    for (uint64_t tokens = c->prompt; a.seen < c->context; a.seen = b.seen += tokens, tokens = 1)
        for (uint32_t l = 0; l < c->layers; l++) {
            rig_layer(&a, l, tokens);
            rig_layer(&b, l, tokens);
            for (uint64_t i = 0; i < c->batch * tokens * c->heads * c->dim; i++)
                ck_assert_msg(a.result[i] == b.result[i] || fabsf(a.result[i] - b.result[i]) < tolerance,
                              "%s on %s: layer %u at token %llu: [%llu] is %.9g, %.9g without the store", stack, backend, l,
                              (unsigned long long)a.seen, (unsigned long long)i, (double)b.result[i], (double)a.result[i]);
        }
    rig_close(&a);
    rig_close(&b);
}

/* ---- arithmetic of the references -------------------------------------------------------------- */

/* To nearest even with `bits` significant bits; below 2^low_exponent the spacing stays. Exact in double. */
static inline double rig_round_bits(double x, int bits, int low_exponent)
{
    int exponent;
    double unit;

    if (x == 0 || !isfinite(x))
        return x;
    frexp(x, &exponent);
    unit = ldexp(1, (exponent - 1 < low_exponent ? low_exponent : exponent - 1) - (bits - 1));
    return nearbyint(x / unit) * unit;
}

static inline double rig_round(double x, enum kvp_format f)
{
    if (f == KVP_F16)
        return rig_round_bits(x, 11, -14);
    if (f == KVP_BF16)
        return rig_round_bits(x, 8, -126);
    return (double)(float)x;
}

/* Softmax attention of q over n rows of k and v (each [n][dim], double) into out[dim]. */
static inline void rig_attend(const float *q, const double *k, const double *v, uint64_t n, uint32_t dim, double *out)
{
    double *p = rig_zalloc(n, sizeof(*p)), top = -HUGE_VAL, sum = 0;

    for (uint64_t j = 0; j < n; j++) {
        for (uint32_t i = 0; i < dim; i++)
            p[j] += (double)q[i] * k[j * dim + i];
        p[j] /= sqrt((double)dim);
        top = fmax(top, p[j]);
    }
    for (uint64_t j = 0; j < n; j++)
        sum += p[j] = exp(p[j] - top);
    for (uint32_t i = 0; i < dim; i++) {
        out[i] = 0;
        for (uint64_t j = 0; j < n; j++)
            out[i] += p[j] / sum * v[j * dim + i];
    }
    free(p);
}

/* Values are averages of rows in [-1, 1]; scores are sums of at most 64 products below 1, so that f32
 * leaves an absolute error of a few times 64 * 2^-24 = 4e-6 in each exponent. */
static inline void rig_same(const struct rig *r, const float *got, const double *want, const char *what, uint64_t t)
{
    for (uint32_t i = 0; i < r->c->dim; i++)
        ck_assert_msg(fabs((double)got[i] - want[i]) < 2e-5, "%s on %s, %s at token %llu: [%u] is %.8g, expected %.8g",
                      r->c->stack, r->be->name, what, (unsigned long long)t, i, (double)got[i], want[i]);
}

static inline bool rig_has_nan(const float *v, uint64_t n)
{
    bool found = false;

    for (uint64_t i = 0; i < n; i++)
        found = found || isnan(v[i]);
    return found;
}

/* Cache and metadata bytes, now and at their highest. */
struct rig_bytes {
    uint64_t cache, metadata, peak;
};

static inline void rig_check_bytes(const struct rig *r, const struct rig_bytes *want)
{
    ck_assert_msg(r->led.now[LED_CACHE] == want->cache && r->led.now[LED_METADATA] == want->metadata &&
                      r->led.cache_peak == want->peak,
                  "%s, %llu of %llu tokens: cache %llu, metadata %llu, peak %llu; expected %llu, %llu, %llu", r->c->stack,
                  (unsigned long long)r->seen, (unsigned long long)r->c->context, (unsigned long long)r->led.now[LED_CACHE],
                  (unsigned long long)r->led.now[LED_METADATA], (unsigned long long)r->led.cache_peak,
                  (unsigned long long)want->cache, (unsigned long long)want->metadata, (unsigned long long)want->peak);
}

/* ---- dumps and poison -------------------------------------------------------------------------- */

/* The lines that `fn` writes, as an array of JSON objects. */
static inline json_t *rig_dump(struct rig *r, kvp_err (*fn)(struct cache *, FILE *, struct kvp_error *))
{
    json_t *lines = json_array();
    char *text = NULL, *save = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    ck_assert_ptr_nonnull(f);
    RIG_OK(r, fn(r->cache, f, &e));
    fclose(f);
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        json_t *j = json_loads(line, 0, NULL);

        ck_assert_msg(j != NULL, "%s: not JSON: %.200s", r->c->stack, line);
        json_array_append_new(lines, j);
    }
    free(text);
    return lines;
}

static inline int64_t rig_int(const json_t *line, const char *key)
{
    return json_integer_value(json_object_get(line, key));
}

/* The data of tensor `name` of a layer; asserts its shape. */
static inline const json_t *rig_tensor(const struct rig *r, const json_t *lines, uint32_t layer, const char *name,
                                       enum kvp_format format, const uint64_t shape[4])
{
    size_t i;
    json_t *line;
    uint64_t n = 1;

    json_array_foreach(lines, i, line) {
        if (rig_int(line, "layer") != layer || strcmp(json_string_value(json_object_get(line, "name")), name) != 0)
            continue;
        ck_assert_str_eq(json_string_value(json_object_get(line, "format")), kvp_format_name(format));
        for (size_t d = 0; d < 4; d++) {
            n *= shape[d];
            ck_assert_msg((uint64_t)json_integer_value(json_array_get(json_object_get(line, "shape"), d)) == shape[d],
                          "%s: %s of layer %u: shape[%zu] is not %llu", r->c->stack, name, layer, d,
                          (unsigned long long)shape[d]);
        }
        ck_assert_uint_eq(json_array_size(json_object_get(line, "data")), n);
        return json_object_get(line, "data");
    }
    ck_abort_msg("%s: no tensor %s of layer %u in the dump", r->c->stack, name, layer);
    return NULL;
}

/* A value of a tensor; nine digits give a float back exactly. */
static inline float rig_number(const json_t *data, size_t i)
{
    return (float)json_number_value(json_array_get(data, i));
}

/* Poison position `pos`, run one more step, and see whether sequence 0, kv head 0 of layer 0 turned NaN:
 * exactly when a row was stored. Nothing else may turn. */
static inline void rig_poison_step(struct rig *r, uint64_t pos, bool want_stored)
{
    const struct rig_case *c = r->c;
    const uint64_t heads = c->heads / c->kv_heads * c->dim, all = c->batch * c->heads * c->dim;
    bool stored = !want_stored;

    RIG_OK(r, r->ops->poison(r->cache, pos, &stored, &e));
    ck_assert_msg(stored == want_stored, "%s: position %llu stored: %d, expected %d", c->stack, (unsigned long long)pos,
                  stored, want_stored);
    for (uint32_t l = 0; l < c->layers; l++) {
        rig_layer(r, l, 1);
        ck_assert_msg(rig_has_nan(r->result, heads) == (stored && l == 0), "%s on %s: position %llu, layer %u: NaN", c->stack,
                      r->be->name, (unsigned long long)pos, l);
        ck_assert_msg(!rig_has_nan(r->result + heads, all - heads), "%s on %s: position %llu, layer %u: NaN elsewhere",
                      c->stack, r->be->name, (unsigned long long)pos, l);
    }
    r->seen++;
}

#endif
