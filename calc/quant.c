/* quant.c - quantization_config and its relatives: transformers utils/quantization_config.py, modelopt
 * hf_quant_config.json, AutoGPTQ quantize_config.json, mlx-lm `quantization`, compressed-tensors.
 *
 * Static scales of activations: modelopt stores input_scale beside every quantized matrix (FP8, NVFP4), and
 * compressed-tensors does where a group's input_activations are not dynamic. What a KV cache's scheme stores
 * (k_scale, v_scale) counts with the cache. */
#include "calc/quant.h"

#include "calc/family.h"

#include <stdlib.h>
#include <string.h>

static const struct kvp_rule quant_rules[] = {
    {"group_size", KVP_KEY_ANY, "read: the group"},
    {"q_group_size", KVP_KEY_ANY, "read: the group"},
    {"config_groups", KVP_KEY_ANY, "read: what weights are"},
    {"weight_block_size", KVP_KEY_ANY, "read: the block"},
    {"static_groups", KVP_KEY_ANY, "which scale a group gets; each has one"},
    {"modules_to_not_convert", KVP_KEY_ANY, "read: what stays as it is"},
    {"ignored_layers", KVP_KEY_ANY, "read: what stays as it is"},
    {"quantized_layers", KVP_KEY_ANY, "read: what MIXED_PRECISION means"},
    {"lm_head", KVP_KEY_FALSE, "the head would be quantized too"},
    {"kv_cache_scheme", KVP_KEY_ANY, "read: the cache"},
    {"kv_cache_quant_algo", KVP_KEY_ANY, "read: the cache"},
    {"global_compression_ratio", KVP_KEY_ANY, "what a tool reckoned"},
    {"sparsity_config", KVP_KEY_ANY, "zeros are stored like other numbers unless a format says so"},
    {"block_name_to_quantize", KVP_KEY_ANY, "where a tool looked for layers"},
    {"cache_block_outputs", KVP_KEY_ANY, "how a tool calibrated"},
    {"cache_examples_on_gpu", KVP_KEY_ANY, "how a tool calibrated"},
    {"batch_size", KVP_KEY_ANY, "how a tool calibrated"},
    {"num_samples", KVP_KEY_ANY, "how a tool calibrated"},
    {0},
};
/* A group's weights, compressed-tensors quantization/quant_args.py. */
static const struct kvp_rule weight_rules[] = {
    {"num_bits", KVP_KEY_ANY, "read: bits"},
    {"group_size", KVP_KEY_ANY, "read: the group"},
    {"block_structure", KVP_KEY_FALSE, "scales would belong to blocks"},
    {0},
};

static kvp_err read_int(const struct kvp_json *j, const char *a, const char *b, uint32_t *out, uint32_t most)
{
    uint64_t n = *out;

    KVP_TRY(kvp_json_u64(j, a, 1, most, &n, NULL));
    if (b)
        KVP_TRY(kvp_json_u64(j, b, 1, most, &n, NULL));
    *out = (uint32_t)n;
    return KVP_OK;
}

static kvp_err read_group(const struct kvp_json *j, struct kvp_quant *q)
{
    static const char *const keys[] = {"group_size", "q_group_size"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const json_t *v = kvp_json_get(j, keys[i]);

        if (v && json_is_integer(v) && json_integer_value(v) == -1)
            q->group = UINT32_MAX;
        else
            KVP_TRY(read_int(j, keys[i], NULL, &q->group, 1 << 20));
    }
    return KVP_OK;
}

static kvp_err read_block(const struct kvp_json *j, struct kvp_quant *q)
{
    const json_t *b = kvp_json_get(j, "weight_block_size");

    if (!b)
        return KVP_OK;
    for (size_t i = 0; i < 2; i++) {
        const json_int_t n = json_integer_value(json_array_get(b, i));

        if (json_array_size(b) != 2 || n < 1 || n > 1 << 20)
            return kvp_fail(j->e, KVP_EINPUT, "%s: weight_block_size: expected two integers from 1 to 1048576", j->origin);
        q->block[i] = (uint32_t)n;
    }
    return KVP_OK;
}

/* ---- groups ----------------------------------------------------------------------------------------------- */

static kvp_err read_inputs(const struct kvp_json *j, const json_t *group, bool *scale)
{
    const struct kvp_json in = {json_object_get(group, "input_activations"), j->origin, j->e};
    bool dynamic = false;

    *scale = false;
    if (!json_is_object(in.object))
        return KVP_OK;
    if (!json_is_string(json_object_get(in.object, "dynamic"))) /* "local": scales of blocks as they come, one of the tensor stored */
        KVP_TRY(kvp_json_bool(&in, "dynamic", &dynamic, NULL));
    *scale = !dynamic;
    return KVP_OK;
}

static kvp_err check_strategy(const struct kvp_json *w, const char *strategy)
{
    static const char *const known[] = {"", "tensor", "channel", "group", "tensor_group"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(known[i], strategy) == 0)
            return KVP_OK;
    return kvp_fail(w->e, KVP_ENOTSUP, "%s: config_groups: strategy: only tensor, channel, group and tensor_group are supported", w->origin);
}

/* compressed-tensors and modelopt: one group's weights. */
static kvp_err read_config_group(const struct kvp_json *j, const json_t *group, struct kvp_quant *q)
{
    const struct kvp_json w = {json_object_get(group, "weights"), j->origin, j->e};
    const char *type = "int", *strategy = "";

    if (!json_is_object(w.object))
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: config_groups: expected a group with \"weights\"", j->origin);
    KVP_TRY(kvp_check_part(&w, "config_groups", weight_rules));
    q->bits = 8;
    q->group = 0;
    KVP_TRY(read_int(&w, "num_bits", NULL, &q->bits, 8));
    KVP_TRY(kvp_json_text(&w, "type", &type, NULL));
    KVP_TRY(kvp_json_text(&w, "strategy", &strategy, NULL));
    KVP_TRY(read_group(&w, q));
    KVP_TRY(check_strategy(&w, strategy));
    KVP_TRY(read_inputs(j, group, &q->input_scale));
    if (strcmp(strategy, "channel") == 0)
        q->group = UINT32_MAX;
    if (strcmp(type, "float") == 0)
        q->format = q->bits == 8 ? KVP_WF_FP8 : q->group == 32 ? KVP_WF_MXFP4 : KVP_WF_NVFP4;
    else
        q->format = q->bits == 8 && (!q->group || q->group == UINT32_MAX) ? KVP_WF_W8A8 : KVP_WF_COMPRESSED;
    return KVP_OK;
}

static struct kvp_quant_kind kind_of(const struct kvp_quant *q)
{
    return (struct kvp_quant_kind){.format = q->format, .bits = q->bits, .group = q->group, .block = {q->block[0], q->block[1]},
                                   .e8m0 = q->e8m0, .input_scale = q->input_scale};
}

static void set_base(struct kvp_quant *q, const struct kvp_quant_kind *k)
{
    q->format = k->format;
    q->bits = k->bits;
    q->group = k->group;
    memcpy(q->block, k->block, sizeof(q->block));
    q->e8m0 = k->e8m0;
    q->input_scale = k->input_scale;
}

/* Kinds of matrices, and the modules of each; a kind without names is what all others are. */
struct kinds {
    struct kvp_quant_kind kind[1 + KVP_MAX_KINDS];
    struct quant_names *names[1 + KVP_MAX_KINDS];
    const char *word[1 + KVP_MAX_KINDS];
    uint32_t n;
    bool whole; /* kind[0] is of all */
};

static void free_kinds(struct kinds *k)
{
    for (uint32_t i = 0; i < k->n; i++)
        quant_names_free(k->names[i]);
}

static kvp_err add_kind(struct kinds *k, const struct kvp_json *j, const struct kvp_quant *q, const char *word, uint32_t *at)
{
    if (k->n == 1 + KVP_MAX_KINDS)
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: more than %d ways of storing weights", j->origin, 1 + KVP_MAX_KINDS);
    KVP_TRY(quant_names_new(&k->names[k->n], j));
    k->kind[k->n] = kind_of(q);
    k->word[k->n] = word;
    *at = k->n++;
    return KVP_OK;
}

/* The kind of a role in a layer; -1: none. */
static kvp_err kind_in(const struct kinds *k, const struct kvp_model *m, uint32_t layer, enum kvp_role role, int *out)
{
    bool covered;

    *out = k->whole ? 0 : -1;
    for (uint32_t i = k->whole; i < k->n; i++) {
        KVP_TRY(quant_covers(k->names[i], m, layer, role, &covered));
        if (covered)
            *out = (int)i;
    }
    return KVP_OK;
}

/* of[] and kept, from which kind every layer's matrices are. */
static kvp_err deal_role(struct kvp_model *m, const struct kinds *k, const struct kvp_json *j, enum kvp_role role)
{
    int first = -2, kind;

    for (uint32_t i = 0; i < m->layers; i++) {
        if (!(quant_roles(&m->cls[m->class_of[i]]) >> role & 1))
            continue;
        KVP_TRY(kind_in(k, m, i, role, &kind));
        if (first != -2 && kind != first)
            return kvp_fail(j->e, KVP_ENOTSUP, "%s: the %s weights of layer %u are stored otherwise than those before", j->origin, kvp_role_name(role), i);
        first = kind;
    }
    if (first == -1)
        m->quant.kept |= 1u << role;
    m->quant.of[role] = (uint8_t)(first > 0 ? first : 0);
    return KVP_OK;
}

static kvp_err deal(struct kvp_model *m, const struct kinds *k, const struct kvp_json *j)
{
    static const enum kvp_role roles[] = {KVP_ROLE_ATTN, KVP_ROLE_FFN, KVP_ROLE_EXPERT, KVP_ROLE_SHARED, KVP_ROLE_RECURRENT};

    set_base(&m->quant, &k->kind[0]);
    for (uint32_t i = 1; i < k->n; i++)
        m->quant.other[i - 1] = k->kind[i];
    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]) && (k->n > 1 || !k->whole); i++)
        KVP_TRY(deal_role(m, k, j, roles[i]));
    return KVP_OK;
}

/* "Linear" is a class of modules: all of them. */
static bool targets_all(const json_t *targets)
{
    const json_t *v;
    size_t i;

    if (!json_is_array(targets))
        return true;
    json_array_foreach(targets, i, v)
        if (json_is_string(v) && strcmp(json_string_value(v), "Linear") == 0)
            return true;
    return false;
}

static kvp_err collect_groups(struct kinds *k, const struct kvp_json *j)
{
    const json_t *groups = kvp_json_get(j, "config_groups"), *g;
    const char *name;

    for (int all = 1; all >= 0; all--) /* the group of all others first */
        json_object_foreach((json_t *)(uintptr_t)groups, name, g) {
            struct kvp_quant q = {0};
            uint32_t at;

            if (targets_all(json_object_get(g, "targets")) != all)
                continue;
            if (all && k->n)
                return kvp_fail(j->e, KVP_ENOTSUP, "%s: config_groups: two groups for all linears", j->origin);
            KVP_TRY(read_config_group(j, g, &q));
            KVP_TRY(add_kind(k, j, &q, name, &at));
            k->whole = k->whole || all;
            if (!all)
                KVP_TRY(quant_names_add(k->names[at], "targets", json_object_get(g, "targets")));
        }
    return k->n ? KVP_OK : kvp_fail(j->e, KVP_ENOTSUP, "%s: config_groups: expected a group with \"weights\"", j->origin);
}

static kvp_err read_config_groups(struct kvp_model *m, const struct kvp_json *j)
{
    struct kinds k = {0};
    kvp_err rc = collect_groups(&k, j);

    if (rc == KVP_OK)
        rc = deal(m, &k, j);
    free_kinds(&k);
    return rc;
}

static kvp_err bitsandbytes(const struct kvp_json *j, struct kvp_quant *q)
{
    const char *type = "fp4";
    bool four = false;

    KVP_TRY(kvp_json_bool(j, "load_in_4bit", &four, NULL));
    KVP_TRY(kvp_json_bool(j, "_load_in_4bit", &four, NULL));
    KVP_TRY(kvp_json_bool(j, "bnb_4bit_use_double_quant", &q->double_quant, NULL));
    KVP_TRY(kvp_json_text(j, "bnb_4bit_quant_type", &type, NULL));
    q->described = four && !q->double_quant;
    q->format = !four ? KVP_WF_INT8 : strcmp(type, "nf4") == 0 ? KVP_WF_NF4 : KVP_WF_FP4;
    return KVP_OK;
}

/* ---- methods ---------------------------------------------------------------------------------------------- */

static kvp_err by_word(const struct kvp_json *j, struct kvp_quant *q, const char *word)
{
    static const struct {
        const char *word;
        enum kvp_wformat format;
        uint32_t group;
        bool input_scale;
    } known[] = {{"gptq", KVP_WF_GPTQ, 0, false}, {"awq", KVP_WF_AWQ, 0, false}, {"fp8", KVP_WF_FP8, 0, false}, {"FP8", KVP_WF_FP8, 0, true},
                 {"fbgemm_fp8", KVP_WF_FP8, UINT32_MAX, false}, {"FP8_PER_CHANNEL_PER_TOKEN", KVP_WF_FP8, UINT32_MAX, false},
                 {"mxfp4", KVP_WF_MXFP4, 0, false}, {"NVFP4", KVP_WF_NVFP4, 0, true}, {"MXFP8", KVP_WF_FP8, 0, false}, {"mlx", KVP_WF_MLX, 0, false}};
    char shown[64];

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(known[i].word, word) == 0) {
            q->format = known[i].format;
            q->group = q->group ? q->group : known[i].group;
            q->input_scale = known[i].input_scale;
            if (strcmp(word, "MXFP8") == 0) {
                q->block[0] = 1;
                q->block[1] = 32;
                q->e8m0 = true;
            }
            return KVP_OK;
        }
    kvp_json_word(shown, sizeof(shown), word);
    return kvp_fail(j->e, KVP_ENOTSUP, "%s: quantization method %s is not supported", j->origin, shown);
}

/* modelopt's quantized_layers: every matrix by name. Of a layer's experts the first speaks for all. */
static kvp_err collect_layers(struct kinds *k, const struct kvp_json *j)
{
    const json_t *layers = kvp_json_get(j, "quantized_layers"), *v;
    const char *name;

    json_object_foreach((json_t *)(uintptr_t)layers, name, v) {
        const struct kvp_json one = {v, j->origin, j->e};
        const char *algo = NULL;
        uint32_t at = 0;

        if (strstr(name, "experts.") && !strstr(name, "experts.0.") && !strstr(name, "shared"))
            continue;
        KVP_TRY(kvp_json_text(&one, "quant_algo", &algo, NULL));
        while (algo && at < k->n && strcmp(k->word[at], algo) != 0)
            at++;
        if (!algo)
            return kvp_fail(j->e, KVP_ENOTSUP, "%s: quantized_layers: expected quant_algo of every layer", j->origin);
        if (at == k->n) {
            struct kvp_quant q = {0};

            KVP_TRY(by_word(j, &q, algo));
            KVP_TRY(add_kind(k, j, &q, algo, &at));
        }
        KVP_TRY(quant_names_add_one(k->names[at], "quantized_layers", name));
    }
    return k->n ? KVP_OK : kvp_fail(j->e, KVP_ENOTSUP, "%s: quantization method MIXED_PRECISION without quantized_layers", j->origin);
}

static kvp_err read_mixed(struct kvp_model *m, const struct kvp_json *j)
{
    struct kinds k = {0};
    kvp_err rc = collect_layers(&k, j);

    if (rc == KVP_OK)
        rc = deal(m, &k, j);
    free_kinds(&k);
    return rc;
}

/* ---- what stays as it is ---------------------------------------------------------------------------------- */

/* kept[i]: roles of layer i that a name covers. */
static kvp_err kept_by_layer(const struct kvp_model *m, struct quant_names *names, unsigned *kept)
{
    bool covered;

    for (uint32_t i = 0; i < m->layers; i++)
        for (unsigned role = 0, has = quant_roles(&m->cls[m->class_of[i]]); role < KVP_ROLES; role++) {
            if (!(has >> role & 1))
                continue;
            KVP_TRY(quant_covers(names, m, i, (enum kvp_role)role, &covered));
            kept[i] |= (unsigned)covered << role;
        }
    return KVP_OK;
}

/* A role that all layers which have it keep is the model's; else classes are split by what they keep. */
static kvp_err settle(struct kvp_model *m, const struct kvp_json *j, const unsigned *kept)
{
    struct kvp_layer_class *layer;
    unsigned some = 0, all = ~0u;
    kvp_err rc;

    for (uint32_t i = 0; i < m->layers; i++) {
        some |= kept[i];
        all &= kept[i] | ~quant_roles(&m->cls[m->class_of[i]]);
    }
    m->quant.kept |= some & all;
    if (!(some & ~all))
        return KVP_OK;
    layer = calloc(m->layers, sizeof(*layer));
    if (!layer)
        return kvp_fail(j->e, KVP_ENOMEM, "%s: out of memory", j->origin);
    m->quant.by_layer = true;
    for (uint32_t i = 0; i < m->layers; i++) {
        memcpy(&layer[i], &m->cls[m->class_of[i]], sizeof(*layer));
        layer[i].kept = kept[i] & ~all;
    }
    rc = kvp_model_group(m, layer, j->e);
    free(layer);
    return rc;
}

static kvp_err keep_listed(struct kvp_model *m, const struct kvp_json *j, struct quant_names *names)
{
    unsigned *kept = calloc(m->layers, sizeof(*kept));
    kvp_err rc = kept ? kept_by_layer(m, names, kept) : kvp_fail(j->e, KVP_ENOMEM, "%s: out of memory", j->origin);

    if (rc == KVP_OK)
        rc = settle(m, j, kept);
    free(kept);
    m->quant.kept |= (unsigned)quant_covers_whole(names, KVP_ROLE_HEAD) << KVP_ROLE_HEAD;
    m->quant.kept |= (unsigned)quant_covers_whole(names, KVP_ROLE_EMBED) << KVP_ROLE_EMBED;
    return rc;
}

static kvp_err read_kept(struct kvp_model *m, const struct kvp_json *j)
{
    static const char *const keys[] = {"modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules", "ignored_layers"};
    struct quant_names *names = NULL;
    kvp_err rc = quant_names_new(&names, j);

    for (size_t i = 0; rc == KVP_OK && i < sizeof(keys) / sizeof(keys[0]); i++)
        rc = quant_names_add(names, keys[i], kvp_json_get(j, keys[i]));
    if (rc == KVP_OK)
        rc = keep_listed(m, j, names);
    quant_names_free(names);
    return rc;
}

/* ---- the cache -------------------------------------------------------------------------------------------- */

static kvp_err cache_fail(const struct kvp_json *j, const char *key, const char *what)
{
    char word[64];

    kvp_json_word(word, sizeof(word), what);
    return kvp_fail(j->e, KVP_ENOTSUP, "%s: %s: a cache in %s is not supported; FP8, NVFP4 and 8 or 4 bits a tensor are", j->origin, key, word);
}

static kvp_err cache_word(const struct kvp_json *j, struct kvp_quant *q, const char *key, const char *word)
{
    if (strcasecmp(word, "fp8") == 0)
        q->kv = KVP_FP8;
    else if (strcasecmp(word, "nvfp4") == 0)
        q->kv = KVP_NVFP4;
    else if (strcasecmp(word, "int8") == 0)
        q->kv = KVP_INT8;
    else if (strcasecmp(word, "none") != 0 && strcasecmp(word, "auto") != 0)
        return cache_fail(j, key, word);
    return KVP_OK;
}

static const struct kvp_rule cache_rules[] = {
    {"num_bits", KVP_KEY_ANY, "read: bits"},
    {"group_size", KVP_KEY_FALSE, "a scale would belong to a group"},
    {"block_structure", KVP_KEY_FALSE, "a scale would belong to a block"},
    {0},
};

/* compressed-tensors' kv_cache_scheme (an object of bits), modelopt's kv_cache_quant_algo (a word). */
static kvp_err read_cache(const struct kvp_json *j, struct kvp_quant *q)
{
    static const char *const keys[] = {"kv_cache_scheme", "kv_cache_quant_algo"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const struct kvp_json v = {kvp_json_get(j, keys[i]), j->origin, j->e};
        const char *type = "float", *strategy = "tensor";
        uint32_t bits = 8;

        if (!v.object)
            continue;
        if (json_is_string(v.object)) {
            KVP_TRY(cache_word(j, q, keys[i], json_string_value(v.object)));
            continue;
        }
        if (!json_is_object(v.object))
            return kvp_fail(j->e, KVP_EINPUT, "%s: %s: expected an object or a word", j->origin, keys[i]);
        KVP_TRY(kvp_check_part(&v, keys[i], cache_rules));
        KVP_TRY(kvp_json_text(&v, "type", &type, NULL));
        KVP_TRY(kvp_json_text(&v, "strategy", &strategy, NULL));
        KVP_TRY(read_int(&v, "num_bits", NULL, &bits, 16));
        if (strcmp(strategy, "tensor") != 0 || (bits != 8 && bits != 4) || (strcmp(type, "float") != 0 && strcmp(type, "int") != 0))
            return cache_fail(j, keys[i], strcmp(strategy, "tensor") != 0 ? strategy : type);
        q->kv = strcmp(type, "float") == 0 ? bits == 8 ? KVP_FP8 : KVP_NVFP4 : bits == 8 ? KVP_INT8 : KVP_INT4;
    }
    return KVP_OK;
}

/* ---- all of it -------------------------------------------------------------------------------------------- */

static kvp_err read_method(struct kvp_model *m, const struct kvp_json *j, const char *method, const char *algo, const char *word)
{
    struct kvp_quant *q = &m->quant;
    const json_t *groups = kvp_json_get(j, "config_groups");
    const json_t *first = json_object_iter_value(json_object_iter((json_t *)(uintptr_t)groups));

    if (method && strcmp(method, "bitsandbytes") == 0)
        return bitsandbytes(j, q);
    if (algo && strcmp(algo, "MIXED_PRECISION") == 0)
        return read_mixed(m, j);
    if (groups && !json_is_object(first))
        return kvp_fail(j->e, KVP_EINPUT, "%s: config_groups: expected an object of groups", j->origin);
    if (groups && (!algo || json_object_size(groups) > 1))
        return read_config_groups(m, j);
    KVP_TRY(by_word(j, q, word));
    if (first) {
        const struct kvp_json w = {json_object_get(first, "weights"), j->origin, j->e};

        KVP_TRY(json_is_object(w.object) ? kvp_check_part(&w, "config_groups", weight_rules) : KVP_OK);
        KVP_TRY(read_inputs(j, first, &q->input_scale));
    }
    q->packed_bias = q->format == KVP_WF_GPTQ;
    if (q->format == KVP_WF_MLX)
        q->embed = q->head = true;
    return KVP_OK;
}

kvp_err kvp_quant_side(struct kvp_model *m, const struct kvp_json *j)
{
    struct kvp_quant *q = &m->quant;
    const char *method = NULL, *algo = NULL, *word;
    const json_t *inner = kvp_json_get(j, "quantization");
    const struct kvp_json in = {inner, j->origin, j->e};

    if (json_is_object(inner)) /* modelopt's side file */
        return kvp_quant_side(m, &in);
    KVP_TRY(kvp_check_part(j, "quantization_config", quant_rules));
    KVP_TRY(kvp_json_text(j, "quant_method", &method, NULL));
    KVP_TRY(kvp_json_text(j, "quant_algo", &algo, NULL));
    KVP_TRY(read_int(j, "bits", "w_bit", &q->bits, 8));
    KVP_TRY(read_group(j, q));
    KVP_TRY(read_block(j, q));
    KVP_TRY(kvp_json_bool(j, "desc_act", &q->desc_act, NULL));
    KVP_TRY(read_cache(j, q));
    word = algo ? algo : method ? method : kvp_json_get(j, "desc_act") ? "gptq" : q->bits && q->group ? "mlx" : "without a method's name";
    kvp_json_word(q->method, sizeof(q->method), word);
    KVP_TRY(read_method(m, j, method, algo, word));
    return read_kept(m, j);
}

kvp_err kvp_quant_read(struct kvp_model *m, const struct kvp_json *j)
{
    static const char *const keys[] = {"quantization_config", "compression_config", "quantization"};
    struct kvp_json in = {NULL, j->origin, j->e};
    const char *first = NULL;

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const json_t *v = kvp_json_get(j, keys[i]);

        if (v && !json_is_object(v))
            return kvp_fail(j->e, KVP_EINPUT, "%s: %s: expected an object", j->origin, keys[i]);
        if (v && in.object && !json_equal(v, in.object))
            return kvp_fail(j->e, KVP_EINPUT, "%s: %s and %s say different things", j->origin, first, keys[i]);
        if (v && !in.object) {
            in.object = v;
            first = keys[i];
        }
    }
    return in.object ? kvp_quant_side(m, &in) : KVP_OK;
}
