/* model.c - from config.json to layer classes. Every size comes from a key of the config, or from the
 * default of the class that model_type names; never from a repository's name.
 *
 * What stands on the layers is the class's: a classifier (LlamaForSequenceClassification) has a row for each
 * label instead of one for each word, a backbone saved alone (MistralModel) nothing. */
#include <kvproof/model.h>

#include "calc/family.h"
#include "calc/json.h"
#include "calc/quant.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* No later product of a few dimensions comes near what doubles hold exactly, and none is absurd. */
static const struct {
    const char *what;
    uint64_t least, most;
} limits[KVP_SIZES] = {
    [KVP_SIZE_VOCAB] = {"the vocabulary", 1, 1 << 28},
    [KVP_SIZE_WIDTH] = {"the width", 1, 1 << 20},
    [KVP_SIZE_LAYERS] = {"the number of layers", 1, 4096},
    [KVP_SIZE_HEADS] = {"the number of heads", 1, 1 << 16},
    [KVP_SIZE_KV_HEADS] = {"the number of KV heads", 1, 1 << 16},
    [KVP_SIZE_HEAD_DIM] = {"the head size", 1, 1 << 16},
    [KVP_SIZE_FFN] = {"the feed-forward width", 1, 1 << 24},
    [KVP_SIZE_POSITIONS] = {"the trained context", 1, UINT64_C(1) << 40},
};
static const uint64_t max_window = UINT64_C(1) << 40;

/* ---- sizes ------------------------------------------------------------------------------------------- */

kvp_err kvp_read_size(const struct kvp_reader *r, enum kvp_size s, uint64_t *out)
{
    bool found = false, present = false;

    *out = 0;
    for (int k = 0; k < KVP_SPELLINGS && r->d->key[s][k] && !found; k++) {
        present |= json_object_get(r->j.object, r->d->key[s][k]) != NULL;
        KVP_TRY(kvp_json_u64(&r->j, r->d->key[s][k], limits[s].least, limits[s].most, out, &found));
    }
    if (!found && !present)
        *out = r->d->absent[s] || r->j.object == r->top.object ? r->d->absent[s] : r->d->nested_absent[s];
    return KVP_OK;
}

static kvp_err need_size(const struct kvp_reader *r, enum kvp_size s, uint64_t *out)
{
    KVP_TRY(kvp_read_size(r, s, out));
    if (!*out)
        return kvp_fail(r->j.e, KVP_EINPUT, "%s: %s is missing: %s", r->j.origin, r->d->key[s][0],
                        limits[s].what);
    return KVP_OK;
}

kvp_err kvp_read_heads(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    uint64_t heads, kv_heads, head_dim;
    const char *name = r->d->key[KVP_SIZE_HEADS][0], *width = r->d->key[KVP_SIZE_WIDTH][0];

    KVP_TRY(need_size(r, KVP_SIZE_HEADS, &heads));
    KVP_TRY(kvp_read_size(r, KVP_SIZE_KV_HEADS, &kv_heads));
    KVP_TRY(kvp_read_size(r, KVP_SIZE_HEAD_DIM, &head_dim));
    if (!kv_heads)
        kv_heads = heads;
    if (heads % kv_heads)
        return kvp_fail(r->j.e, KVP_EINPUT,
                        "%s: %s %" PRIu64 " is not a multiple of the %" PRIu64 " KV heads", r->j.origin, name,
                        heads, kv_heads);
    if (!head_dim && r->m->width % heads)
        return kvp_fail(r->j.e, KVP_EINPUT,
                        "%s: head_dim is absent and %s %" PRIu32 " is not a multiple of %s %" PRIu64,
                        r->j.origin, width, r->m->width, name, heads);
    if (!head_dim)
        head_dim = r->m->width / heads;
    if (r->d->position == KVP_POS_ROPE && head_dim % 2)
        return kvp_fail(r->j.e, KVP_EINPUT,
                        "%s: the head size %" PRIu64 " is odd, and rotary positions pair its elements",
                        r->j.origin, head_dim);
    c->heads = (uint32_t)heads;
    c->kv_heads = (uint32_t)kv_heads;
    c->head_dim = c->v_head_dim = (uint32_t)head_dim;
    return KVP_OK;
}

kvp_err kvp_read_act(const struct kvp_reader *r, const char *key, const char *absent, enum kvp_act *out)
{
    static const struct {
        const char *name;
        enum kvp_act act;
    } acts[] = {{"silu", KVP_ACT_SILU},
                {"swish", KVP_ACT_SILU},
                {"gelu_new", KVP_ACT_GELU_TANH},
                {"gelu_pytorch_tanh", KVP_ACT_GELU_TANH},
                {"gelu_fast", KVP_ACT_GELU_TANH},
                {"gelu", KVP_ACT_GELU},
                {"relu", KVP_ACT_RELU},
                {"relu2", KVP_ACT_RELU2}};
    const char *name = absent;
    char word[64];

    if (key)
        KVP_TRY(kvp_json_text(&r->j, key, &name, NULL));
    for (size_t i = 0; i < sizeof(acts) / sizeof(acts[0]); i++)
        if (strcmp(acts[i].name, name) == 0) {
            *out = acts[i].act;
            return KVP_OK;
        }
    kvp_json_word(word, sizeof(word), name);
    return kvp_fail(r->j.e, KVP_ENOTSUP, "%s: %s \"%s\" is not supported; silu, gelu, gelu_new and relu are",
                    r->j.origin, r->d->act_key, word);
}

static kvp_err read_biases(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    bool attn = false, mlp = false;

    if (r->d->bias == KVP_BIAS_KEYS || r->d->bias == KVP_BIAS_ATTN)
        KVP_TRY(kvp_json_bool(&r->j, "attention_bias", &attn, NULL));
    if (r->d->bias == KVP_BIAS_KEYS)
        KVP_TRY(kvp_json_bool(&r->j, "mlp_bias", &mlp, NULL));
    c->qkv_bias = attn || r->d->bias == KVP_BIAS_QKV || r->d->bias == KVP_BIAS_ALL;
    c->o_bias = attn || r->d->bias == KVP_BIAS_ALL;
    c->ffn_bias = mlp || r->d->bias == KVP_BIAS_ALL;
    return KVP_OK;
}

/* ---- windows ----------------------------------------------------------------------------------------- */

/* The window that sliding layers have; 0: none do. */
static kvp_err read_window(const struct kvp_reader *r, uint64_t *window)
{
    bool use = false;

    *window = 0;
    if (r->d->window == KVP_WINDOW_FROM) {
        KVP_TRY(kvp_json_bool(&r->j, "use_sliding_window", &use, NULL));
        if (!use)
            return KVP_OK;
    }
    if (!json_object_get(r->j.object, "sliding_window"))
        *window = r->d->window_absent;
    return kvp_json_u64(&r->j, "sliding_window", 1, max_window, window, NULL);
}

/* No window: attention to everything, or to what an indexer chooses of everything. */
static bool is_full(const struct kvp_reader *r, const char *type)
{
    return strcmp(type, "full_attention") == 0 ||
           (r->d->indexed && (strcmp(type, "deepseek_sparse_attention") == 0 || strcmp(type, "indexed_attention") == 0));
}

static kvp_err windows_from_types(const struct kvp_reader *r, const json_t *types, uint64_t window, uint64_t *of)
{
    if (!json_is_array(types) || json_array_size(types) != r->m->layers)
        return kvp_fail(r->j.e, KVP_EINPUT,
                        "%s: layer_types: expected a list of %" PRIu32 " names, one a layer", r->j.origin,
                        r->m->layers);
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const char *type = json_string_value(json_array_get(types, i));
        char word[64];

        if (type && is_full(r, type)) {
            of[i] = 0;
        } else if (type && strcmp(type, "sliding_attention") == 0) {
            if (!window)
                return kvp_fail(r->j.e, KVP_EINPUT,
                                "%s: layer_types: layer %" PRIu32
                                " slides, but no sliding_window is in force",
                                r->j.origin, i);
            of[i] = window;
        } else {
            kvp_json_word(word, sizeof(word), type ? type : "(not a string)");
            return kvp_fail(r->j.e, KVP_ENOTSUP,
                            "%s: layer_types: layer %" PRIu32
                            " is \"%s\"; full_attention and sliding_attention are supported",
                            r->j.origin, i, word);
        }
    }
    return KVP_OK;
}

/* of[layers]: each layer's window. */
static kvp_err read_windows(const struct kvp_reader *r, uint64_t *of)
{
    const json_t *types = kvp_json_get(&r->j, "layer_types");
    uint64_t window, from = 0;

    KVP_TRY(read_window(r, &window));
    if (types)
        return windows_from_types(r, types, window, of);
    if (window && r->d->window == KVP_WINDOW_NONE)
        return kvp_fail(r->j.e, KVP_ENOTSUP,
                        "%s: sliding_window is set, but model_type %s has none and layer_types is absent",
                        r->j.origin, r->d->model_type[0]);
    if (r->d->window == KVP_WINDOW_FROM) {
        from = r->d->window_from_absent;
        KVP_TRY(kvp_json_u64(&r->j, "max_window_layers", 0, UINT32_MAX, &from, NULL));
    }
    for (uint32_t i = 0; i < r->m->layers; i++)
        of[i] = i >= from ? window : 0;
    return KVP_OK;
}

/* ---- layers ------------------------------------------------------------------------------------------ */

static kvp_err read_ffn(struct kvp_reader *r)
{
    uint64_t ffn;

    r->proto.ffn = r->d->ffn;
    KVP_TRY(kvp_read_size(r, KVP_SIZE_FFN, &ffn));
    if (!ffn && r->d->ffn_per_width)
        ffn = r->d->ffn_per_width * r->m->width;
    if (!ffn)
        KVP_TRY(need_size(r, KVP_SIZE_FFN, &ffn));
    r->proto.ffn_width = (uint32_t)ffn;
    return KVP_OK;
}

static kvp_err read_prototype(struct kvp_reader *r)
{
    struct kvp_layer_class *c = &r->proto;

    c->norms = r->d->norms ? r->d->norms : 2;
    c->qk_norm = r->d->qk_norm;
    if (!r->d->own_mixer) {
        c->mixer = KVP_MIX_ATTENTION;
        KVP_TRY(kvp_read_heads(r, c));
    }
    if (!r->d->own_ffn)
        KVP_TRY(read_ffn(r));
    KVP_TRY(kvp_read_act(r, r->d->act_key, r->d->act ? r->d->act : "silu", &c->act));
    return read_biases(r, c);
}

static kvp_err fill_layers(struct kvp_reader *r)
{
    uint64_t *window = calloc(r->m->layers, sizeof(*window));
    kvp_err rc = window ? KVP_OK : kvp_fail(r->j.e, KVP_ENOMEM, "%s: out of memory", r->j.origin);

    if (rc == KVP_OK && r->d->window != KVP_WINDOW_HOOK)
        rc = read_windows(r, window);
    for (uint32_t i = 0; rc == KVP_OK && i < r->m->layers; i++) {
        memcpy(&r->layer[i], &r->proto, sizeof(r->proto));
        r->layer[i].window = window[i];
    }
    free(window);
    if (rc == KVP_OK && r->d->layers)
        rc = r->d->layers(r);
    return rc;
}

static kvp_err read_layers(struct kvp_reader *r)
{
    kvp_err rc;

    KVP_TRY(read_prototype(r));
    r->layer = calloc(r->m->layers, sizeof(*r->layer));
    rc = r->layer ? fill_layers(r) : kvp_fail(r->j.e, KVP_ENOMEM, "%s: out of memory", r->j.origin);
    if (rc == KVP_OK)
        rc = kvp_model_group(r->m, r->layer, r->j.e);
    free(r->layer);
    return rc;
}

kvp_err kvp_model_group(struct kvp_model *m, const struct kvp_layer_class *layer, struct kvp_error *e)
{
    struct kvp_layer_class *cls = calloc(m->layers ? m->layers : 1, sizeof(*cls));
    uint32_t *of = calloc(m->layers ? m->layers : 1, sizeof(*of)), n = 0;

    if (!cls || !of) {
        free(cls);
        free(of);
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " layers", m->layers);
    }
    for (uint32_t i = 0; i < m->layers; i++) {
        struct kvp_layer_class x;

        memcpy(&x, &layer[i], sizeof(x)); /* padding too: layers are compared byte by byte */
        x.count = 0;
        while (of[i] < n) {
            const uint32_t count = cls[of[i]].count;
            bool same;

            cls[of[i]].count = 0;
            same = memcmp(&cls[of[i]], &x, sizeof(x)) == 0;
            cls[of[i]].count = count;
            if (same)
                break;
            of[i]++;
        }
        if (of[i] == n)
            memcpy(&cls[n++], &x, sizeof(x));
        cls[of[i]].count++;
    }
    free(m->cls);
    free(m->class_of);
    m->cls = cls;
    m->class_of = of;
    m->classes = n;
    return KVP_OK;
}

/* ---- for hooks --------------------------------------------------------------------------------------- */

enum { MAX_COUNT = 1 << 24 };

kvp_err kvp_read_count(const struct kvp_reader *r, const char *key, uint32_t *out)
{
    uint64_t v = 0;
    bool found;

    KVP_TRY(kvp_json_u64(&r->j, key, 0, MAX_COUNT, &v, &found));
    if (found)
        *out = (uint32_t)v;
    return KVP_OK;
}

kvp_err kvp_read_count_of(const struct kvp_reader *r, const char *const *keys, uint32_t *out)
{
    for (; *keys; keys++)
        if (kvp_json_get(&r->j, *keys))
            return kvp_read_count(r, *keys, out);
    return KVP_OK;
}

kvp_err kvp_need_count(const struct kvp_reader *r, const char *key, uint32_t *out)
{
    KVP_TRY(kvp_read_count(r, key, out));
    return *out ? KVP_OK : kvp_key_fail(r, KVP_EINPUT, key, "expected a number above 0");
}

kvp_err kvp_read_flag(const struct kvp_reader *r, const char *key, bool *out)
{
    return kvp_json_bool(&r->j, key, out, NULL);
}

kvp_err kvp_read_list(const struct kvp_reader *r, const char *key, const json_t **out)
{
    char what[64];

    *out = kvp_json_get(&r->j, key);
    if (!*out || (json_is_array(*out) && json_array_size(*out) == r->m->layers))
        return KVP_OK;
    snprintf(what, sizeof(what), "expected a list of %" PRIu32 ", one a layer", r->m->layers);
    return kvp_key_fail(r, KVP_EINPUT, key, what);
}

kvp_err kvp_key_fail(const struct kvp_reader *r, kvp_err code, const char *key, const char *what)
{
    return kvp_fail(r->j.e, code, "%s: %s: %s", r->j.origin, key, what);
}

bool kvp_arch_ends(const struct kvp_reader *r, const char *tail)
{
    const char *arch = json_string_value(json_array_get(json_object_get(r->top.object, "architectures"), 0));
    const size_t n = arch ? strlen(arch) : 0, k = strlen(tail);

    return n >= k && strcmp(arch + n - k, tail) == 0;
}

void kvp_cannot_run(struct kvp_model *m, const char *reason)
{
    if (!*m->not_run)
        snprintf(m->not_run, sizeof(m->not_run), "%s", reason);
}

kvp_err kvp_add_extra(const struct kvp_reader *r, struct kvp_extra *list, const char *name, uint32_t rows, uint32_t cols,
                      uint32_t n, bool linear)
{
    for (int i = 0; i < KVP_MAX_EXTRA; i++)
        if (!list[i].name) {
            list[i] = (struct kvp_extra){name, rows, cols, n, linear};
            return KVP_OK;
        }
    return kvp_key_fail(r, KVP_EINPUT, name, "no room for another extra weight");
}

/* ---- positions --------------------------------------------------------------------------------------- */

static kvp_err need_real(const struct kvp_json *j, const char *key, double *out)
{
    bool found;

    KVP_TRY(kvp_json_real(j, key, out, &found));
    return found ? KVP_OK : kvp_fail(j->e, KVP_EINPUT, "%s: %s is missing", j->origin, key);
}

static kvp_err read_llama3(const struct kvp_json *j, struct kvp_model *m)
{
    KVP_TRY(need_real(j, "factor", &m->rope_factor));
    KVP_TRY(need_real(j, "low_freq_factor", &m->rope_low_freq));
    KVP_TRY(need_real(j, "high_freq_factor", &m->rope_high_freq));
    KVP_TRY(need_real(j, "original_max_position_embeddings", &m->rope_original_context));
    if (m->rope_high_freq < m->rope_low_freq)
        return kvp_fail(j->e, KVP_EINPUT, "%s: high_freq_factor %g is below low_freq_factor %g",
                        j->origin, m->rope_high_freq, m->rope_low_freq);
    return KVP_OK;
}

/* Which part of a head rotates changes no size. */
static kvp_err read_partial(const struct kvp_reader *r, const struct kvp_json *j)
{
    static const char *const keys[] = {"partial_rotary_factor", "rotary_pct", "rope_pct"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        double partial = 1;

        KVP_TRY(kvp_json_real(j, keys[i], &partial, NULL));
        if (partial != 1)
            r->m->numbers.rotary_part = partial;
        if (partial != 1 && !r->d->partial_rotary)
            kvp_cannot_run(r->m, "only a part of each head is rotated");
    }
    return KVP_OK;
}

/* Newer configs give one set a layer type ({"full_attention": {...}, ...}). */
static bool is_per_layer_type(const json_t *object)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)(uintptr_t)object, key, v)
        if (json_is_object(v))
            return true;
    return false;
}

static const struct kvp_rule rope_rules[] = {
    {"mscale_all_dim", KVP_KEY_ANY, "a factor of the scores"},
    {"sliding_attention", KVP_KEY_ANY, "read: rotation of layers with a window"},
    {0},
};

/* A number, where 0 is as good as absent. */
static kvp_err read_if_any(const struct kvp_json *j, const char *key, double *out)
{
    const json_t *v = kvp_json_get(j, key);

    return v && json_is_number(v) && json_number_value(v) == 0 ? KVP_OK : kvp_json_real(j, key, out, NULL);
}

/* Peng et al. 2023 (arXiv:2309.00071); the keys are those of transformers' _compute_yarn_parameters. */
static kvp_err read_yarn(const struct kvp_json *j, struct kvp_model *m)
{
    struct kvp_numbers *n = &m->numbers;
    bool truncate = true;

    m->rope_original_context = (double)m->max_positions;
    KVP_TRY(need_real(j, "factor", &m->rope_factor));
    KVP_TRY(kvp_json_real(j, "original_max_position_embeddings", &m->rope_original_context, NULL));
    KVP_TRY(read_if_any(j, "beta_fast", &n->yarn_fast));
    KVP_TRY(read_if_any(j, "beta_slow", &n->yarn_slow));
    KVP_TRY(read_if_any(j, "mscale", &n->yarn_mscale));
    KVP_TRY(read_if_any(j, "mscale_all_dim", &n->yarn_mscale_all));
    KVP_TRY(read_if_any(j, "attention_factor", &n->yarn_attention));
    KVP_TRY(kvp_json_bool(j, "truncate", &truncate, NULL));
    n->yarn_whole = !truncate;
    if (m->rope_factor <= 0 || m->rope_original_context < 1 || m->rope_theta <= 1)
        m->rope_scaling = KVP_ROPE_OTHER; /* its logarithms have no value */
    return KVP_OK;
}

static kvp_err read_rope_object(const struct kvp_reader *r, const char *key, const json_t *object);

/* One set for layers that see all keys, one for those with a window. */
static kvp_err read_rope_by_type(const struct kvp_reader *r, const char *key, const json_t *object)
{
    const json_t *full = json_object_get(object, "full_attention"), *sliding = json_object_get(object, "sliding_attention");
    struct kvp_json j = {sliding, r->j.origin, r->j.e};
    const char *type = "default";

    if (!json_is_object(full) || !json_is_object(sliding) || json_object_size(object) != 2) {
        kvp_cannot_run(r->m, "layers differ in their rotary embedding");
        return KVP_OK;
    }
    KVP_TRY(kvp_check_part(&j, key, rope_rules));
    KVP_TRY(kvp_json_text(&j, "rope_type", &type, NULL));
    KVP_TRY(kvp_json_real(&j, "rope_theta", &r->m->numbers.window_theta, NULL));
    KVP_TRY(read_partial(r, &j));
    if (strcmp(type, "default") != 0 || r->m->numbers.window_theta <= 0)
        kvp_cannot_run(r->m, "layers with a window scale their rotary embedding");
    return read_rope_object(r, key, full);
}

/* rope_parameters (newer, holds the base too) or rope_scaling; the type under rope_type or type. */
static kvp_err read_rope_object(const struct kvp_reader *r, const char *key, const json_t *object)
{
    char origin[320];
    struct kvp_json j = {object, origin, r->j.e};
    const char *type = "default";
    bool found = false;

    snprintf(origin, sizeof(origin), "%s: %s", r->j.origin, key);
    if (!json_is_object(object))
        return kvp_fail(r->j.e, KVP_EINPUT, "%s: expected an object", origin);
    KVP_TRY(kvp_check_part(&j, key, rope_rules));
    if (is_per_layer_type(object))
        return read_rope_by_type(r, key, object);
    KVP_TRY(kvp_json_text(&j, "rope_type", &type, &found));
    if (!found)
        KVP_TRY(kvp_json_text(&j, "type", &type, NULL));
    KVP_TRY(kvp_json_real(&j, "rope_theta", &r->m->rope_theta, NULL));
    KVP_TRY(read_partial(r, &j));
    kvp_json_word(r->m->rope_type, sizeof(r->m->rope_type), type);
    if (strcmp(type, "default") == 0)
        return KVP_OK;
    if (strcmp(type, "llama3") == 0) {
        r->m->rope_scaling = KVP_ROPE_LLAMA3;
        return read_llama3(&j, r->m);
    }
    if (strcmp(type, "linear") == 0) {
        r->m->rope_scaling = KVP_ROPE_LINEAR;
        return need_real(&j, "factor", &r->m->rope_factor);
    }
    if (strcmp(type, "yarn") == 0) {
        r->m->rope_scaling = KVP_ROPE_YARN;
        return read_yarn(&j, r->m);
    }
    r->m->rope_scaling = KVP_ROPE_OTHER; /* no effect on sizes; who computes with it refuses it */
    return KVP_OK;
}

/* One base, or one a layer (Step): that changes no size. */
static kvp_err read_theta(const struct kvp_reader *r)
{
    if (json_array_size(kvp_json_get(&r->j, "rope_theta"))) {
        kvp_cannot_run(r->m, "layers differ in their rotary embedding");
        return KVP_OK;
    }
    return kvp_json_real(&r->j, "rope_theta", &r->m->rope_theta, NULL);
}

static kvp_err read_positions(const struct kvp_reader *r)
{
    static const char *const keys[] = {"rope_parameters", "rope_scaling"};

    KVP_TRY((r->d->no_positions ? kvp_read_size : need_size)(r, KVP_SIZE_POSITIONS, &r->m->max_positions));
    r->m->position = r->d->position;
    if (r->d->position != KVP_POS_ROPE)
        return KVP_OK;
    kvp_json_word(r->m->rope_type, sizeof(r->m->rope_type), "default");
    r->m->rope_theta = 10000;
    KVP_TRY(kvp_json_real(&r->j, "rotary_emb_base", &r->m->rope_theta, NULL));
    KVP_TRY(read_theta(r));
    KVP_TRY(read_partial(r, &r->j));
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const json_t *object = kvp_json_get(&r->j, keys[i]);

        if (object)
            return read_rope_object(r, keys[i], object);
    }
    return KVP_OK;
}

/* ---- the rest ---------------------------------------------------------------------------------------- */

static kvp_err read_dtype(const struct kvp_reader *r)
{
    static const struct {
        const char *name;
        enum kvp_format format;
    } names[] = {{"float32", KVP_F32}, {"float16", KVP_F16}, {"bfloat16", KVP_BF16}};
    static const char prefix[] = "torch.";
    const char *name = NULL, *key = kvp_json_get(&r->j, "dtype") ? "dtype" : "torch_dtype";
    const struct kvp_json *j = kvp_json_get(&r->j, key) ? &r->j : &r->top;
    char word[64];

    key = kvp_json_get(j, "dtype") ? "dtype" : "torch_dtype";
    r->m->dtype = KVP_F32;
    KVP_TRY(kvp_json_text(j, key, &name, NULL));
    if (!name || strcmp(name, "auto") == 0)
        return KVP_OK;
    if (strncmp(name, prefix, strlen(prefix)) == 0)
        name += strlen(prefix);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i].name, name) == 0) {
            r->m->dtype = names[i].format;
            r->m->dtype_given = true;
            return KVP_OK;
        }
    kvp_json_word(word, sizeof(word), name);
    return kvp_fail(r->j.e, KVP_ENOTSUP, "%s: %s \"%s\" is not supported; float32, float16 and bfloat16 are",
                    r->j.origin, key, word);
}

static kvp_err read_layer_count(const struct kvp_reader *r, uint64_t *out)
{
    KVP_TRY(kvp_read_size(r, KVP_SIZE_LAYERS, out));
    for (size_t i = 0; i < sizeof(r->d->layers_of) / sizeof(r->d->layers_of[0]) && r->d->layers_of[i] && !*out; i++) {
        const json_t *v = kvp_json_get(&r->j, r->d->layers_of[i]);

        *out = json_is_string(v) ? strlen(json_string_value(v)) : json_array_size(v);
        if (*out > limits[KVP_SIZE_LAYERS].most)
            return kvp_key_fail(r, KVP_EINPUT, r->d->layers_of[i], "there are too many layers");
    }
    return *out ? KVP_OK : need_size(r, KVP_SIZE_LAYERS, out);
}

/* A classifier's rows: num_labels, else as many as id2label names, else two. */
static kvp_err read_labels(struct kvp_reader *r)
{
    const size_t named = json_object_size(json_object_get(r->top.object, "id2label"));

    r->m->head_rows = named ? (uint32_t)named : 2;
    r->m->tied = false;
    return kvp_read_count(r, "num_labels", &r->m->head_rows);
}

/* Classes of transformers without a head; a tied one's embedding is there all the same. Words of other makers
 * (ChatGLMModel) name whole models. */
static kvp_err read_head(struct kvp_reader *r)
{
    static const char *const bare[] = {"LlamaModel", "MistralModel", "MixtralModel", "Qwen2Model", "Qwen3Model", "Phi3Model"};

    if (kvp_arch_ends(r, "ForSequenceClassification"))
        return read_labels(r);
    for (size_t i = 0; i < sizeof(bare) / sizeof(bare[0]); i++)
        if (kvp_arch_ends(r, bare[i]) && !r->m->tied)
            r->m->no_head = r->m->no_logits = true;
    return KVP_OK;
}

/* The tower's shapes; and whether there is one that they do not tell of. */
static kvp_err read_towers(struct kvp_reader *r)
{
    static const char *const keys[] = {"vision_config", "visual", "audio_config", "img_processor", "mm_vision_tower"};
    bool named = r->outer != r->d;

    if (r->outer->towers)
        KVP_TRY(r->outer->towers(r));
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        named = named || kvp_json_get(&r->top, keys[i]);
    if (named && !r->m->towers)
        r->m->tower_unknown = "the config does not give its sizes, or its class is not known";
    return KVP_OK;
}

/* DeepSeek-V4: where experts are fp4, they are MXFP4, and the scales of blocks elsewhere e8m0
 * (inference/model.py and convert.py beside the model). */
static kvp_err read_expert_dtype(struct kvp_reader *r)
{
    struct kvp_quant *q = &r->m->quant;
    const char *type = "fp8";
    char word[64];

    KVP_TRY(kvp_json_text(&r->j, "expert_dtype", &type, NULL));
    if (q->format == KVP_WF_PLAIN || strcmp(type, "fp8") == 0)
        return KVP_OK;
    if (strcmp(type, "fp4") != 0 || q->format != KVP_WF_FP8 || q->of[KVP_ROLE_EXPERT]) {
        kvp_json_word(word, sizeof(word), type);
        return kvp_fail(r->j.e, KVP_ENOTSUP, "%s: expert_dtype \"%s\" beside quantization method %s is not supported", r->j.origin, word, q->method);
    }
    q->e8m0 = true;
    q->other[0] = (struct kvp_quant_kind){.format = KVP_WF_MXFP4};
    q->of[KVP_ROLE_EXPERT] = 1;
    return KVP_OK;
}

static kvp_err read_quant(struct kvp_reader *r)
{
    KVP_TRY(kvp_quant_read(r->m, &r->j));
    if (r->top.object != r->j.object && r->m->quant.format == KVP_WF_PLAIN)
        KVP_TRY(kvp_quant_read(r->m, &r->top));
    return read_expert_dtype(r);
}

static kvp_err read_model(struct kvp_reader *r)
{
    struct kvp_model *m = r->m;
    uint64_t vocab, width, layers;

    KVP_TRY(kvp_dialect_check_flat(&r->j, r->d, r->j.object == r->top.object ? r->outer : NULL));
    KVP_TRY(need_size(r, KVP_SIZE_VOCAB, &vocab));
    KVP_TRY(need_size(r, KVP_SIZE_WIDTH, &width));
    KVP_TRY(read_layer_count(r, &layers));
    m->vocab = (uint32_t)vocab;
    m->width = (uint32_t)width;
    m->layers = (uint32_t)layers;
    kvp_json_word(m->model_type, sizeof(m->model_type), r->d->model_type[0]);
    m->norm = r->d->norm;
    m->norm_vectors = m->norm == KVP_NORM_LAYER && !r->d->norm_no_bias ? 2 : 1;
    m->norm_eps = r->d->eps;
    if (r->d->eps_key)
        KVP_TRY(kvp_json_real(&r->j, r->d->eps_key, &m->norm_eps, NULL));
    m->tied = r->d->tied;
    KVP_TRY(kvp_json_bool(&r->j, "tie_word_embeddings", &m->tied, NULL));
    KVP_TRY(kvp_json_bool(&r->top, "tie_word_embeddings", &m->tied, NULL)); /* the head is the outer class's */
    KVP_TRY(read_dtype(r));
    KVP_TRY(read_positions(r));
    if (r->d->not_run)
        kvp_cannot_run(r->m, r->d->not_run);
    KVP_TRY(read_layers(r));
    KVP_TRY(read_quant(r));
    KVP_TRY(read_head(r));
    return read_towers(r);
}

/* Which dialect, and where the text model is. */
static kvp_err open_config(struct kvp_reader *r)
{
    KVP_TRY(kvp_dialect_of(&r->top, NULL, &r->d));
    r->outer = r->d;
    for (size_t i = 0; i < sizeof(r->outer->nested) / sizeof(r->outer->nested[0]) && r->outer->nested[i]; i++) {
        const json_t *part = kvp_json_get(&r->top, r->outer->nested[i]);

        if (!part)
            continue;
        if (!json_is_object(part))
            return kvp_fail(r->j.e, KVP_EINPUT, "%s: %s: expected an object", r->j.origin, r->outer->nested[i]);
        KVP_TRY(kvp_dialect_check_keys(&r->top, r->outer));
        r->j.object = part;
        return kvp_dialect_of(&r->j, r->outer->inner, &r->d);
    }
    if (r->outer->inner)
        return kvp_dialect_of(&(struct kvp_json){json_null(), r->j.origin, r->j.e}, r->outer->inner, &r->d);
    return KVP_OK;
}

static void cut_slashes(char *path)
{
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = 0;
}

/* "DIR/llama/config.json" is llama, "llama.json" is llama, "config.json" is config. */
static void name_after(char *buf, size_t n, const char *origin)
{
    char path[512], *base;

    kvp_json_word(path, sizeof(path), origin);
    base = strrchr(path, '/');
    if (base && strcmp(base, "/config.json") == 0) {
        *base = 0;
        cut_slashes(path);
    }
    base = strrchr(path, '/');
    base = base ? base + 1 : path;
    if (strlen(base) > 5 && strcmp(base + strlen(base) - 5, ".json") == 0)
        base[strlen(base) - 5] = 0;
    kvp_json_word(buf, n, *base ? base : "model");
}

kvp_err kvp_model_parse(struct kvp_model *out, const char *json, size_t len, const char *origin,
                        struct kvp_error *e)
{
    struct kvp_model m = {0};
    char shown[256];
    json_t *root = NULL;
    struct kvp_reader r = {.j = {NULL, shown, e}, .top = {NULL, shown, e}, .m = &m};
    kvp_err rc;

    memset(out, 0, sizeof(*out));
    kvp_json_word(shown, sizeof(shown), origin);
    KVP_TRY(kvp_json_parse(&root, json, len, shown, e));
    r.j.object = r.top.object = root;
    if (!json_is_object(root))
        rc = kvp_fail(e, KVP_EINPUT, "%s: expected a JSON object", shown);
    else
        rc = open_config(&r);
    if (rc == KVP_OK)
        rc = read_model(&r);
    json_decref(root);
    if (rc != KVP_OK) {
        kvp_model_free(&m);
        return rc;
    }
    name_after(m.name, sizeof(m.name), origin);
    *out = m;
    return KVP_OK;
}

/* ---- after parsing ----------------------------------------------------------------------------------- */

kvp_err kvp_model_truncate(struct kvp_model *m, uint32_t layers, struct kvp_error *e)
{
    uint32_t kept = 0;

    if (!layers || layers > m->layers)
        return kvp_fail(e, KVP_EINPUT, "%s has %" PRIu32 " layers, so the first %" PRIu32 " cannot be taken",
                        m->name, m->layers, layers);
    for (uint32_t c = 0; c < m->classes; c++)
        m->cls[c].count = 0;
    for (uint32_t i = 0; i < layers; i++) /* classes are numbered in the order of their first layer */
        if (m->cls[m->class_of[i]].count++ == 0)
            kept++;
    if (layers < m->layers)
        m->file_bytes = m->file_elements = m->file_tower_bytes = m->file_mtp_bytes = 0;
    m->layers = layers;
    m->classes = kept;
    return KVP_OK;
}

void kvp_model_free(struct kvp_model *m)
{
    if (!m)
        return;
    free(m->cls);
    free(m->class_of);
    free(m->encoder);
    free(m->tower);
    memset(m, 0, sizeof(*m));
}

static void *copy_of(const void *from, size_t n, size_t size, bool *failed)
{
    void *p = n ? calloc(n, size) : NULL;

    if (p)
        memcpy(p, from, n * size);
    *failed = *failed || (n && !p);
    return p;
}

kvp_err kvp_model_copy(struct kvp_model *out, const struct kvp_model *m, struct kvp_error *e)
{
    bool failed = false;

    *out = *m;
    out->cls = copy_of(m->cls, m->classes, sizeof(*m->cls), &failed);
    out->class_of = copy_of(m->class_of, m->layers, sizeof(*m->class_of), &failed);
    out->encoder = copy_of(m->encoder, m->encoders, sizeof(*m->encoder), &failed);
    out->tower = copy_of(m->tower, m->towers, sizeof(*m->tower), &failed);
    if (!failed)
        return KVP_OK;
    kvp_model_free(out);
    return kvp_fail(e, KVP_ENOMEM, "out of memory for a model");
}
