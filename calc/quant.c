/* quant.c - quantization_config and its relatives: transformers utils/quantization_config.py, modelopt
 * hf_quant_config.json, AutoGPTQ quantize_config.json, mlx-lm `quantization`, compressed-tensors. */
#include "calc/quant.h"

#include <stdlib.h>

enum { MAX_LISTED = 4096 };

/* Names of modules that stay as they are, and what role they speak of. A role is kept when all layers of it
 * are: a pattern without a layer's number, or one for more than half of the layers. */
struct kept {
    uint64_t layers;
    unsigned roles;
    uint64_t seen[KVP_ROLES][MAX_LISTED / 64];
    uint64_t n[KVP_ROLES];
};

static int role_of(const char *name)
{
    static const struct {
        const char *word;
        enum kvp_role role;
    } words[] = {{"lm_head", KVP_ROLE_HEAD}, {"embed_tokens", KVP_ROLE_EMBED}, {"router", KVP_ROLE_ROUTER}, {"shared_expert", KVP_ROLE_SHARED},
                 {"self_attn", KVP_ROLE_ATTN}, {"mixer", KVP_ROLE_RECURRENT}, {"linear_attn", KVP_ROLE_RECURRENT}};

    if (strstr(name, "norm") || strstr(name, "indexer") || strstr(name, "vision"))
        return -1;
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        if (strstr(name, words[i].word))
            return (int)words[i].role;
    return strstr(name, "mlp") && !strstr(name, "expert") && !strstr(name, "gate") ? (int)KVP_ROLE_FFN : -1;
}

static void keep(struct kept *k, const char *name)
{
    const char *at = strstr(name, "layers.");
    const int role = role_of(name);
    char *end;
    unsigned long l;

    if (role < 0)
        return;
    l = at ? strtoul(at + 7, &end, 10) : 0;
    if (!at || end == at + 7) {
        k->roles |= 1u << role;
        return;
    }
    if (l >= MAX_LISTED || k->seen[role][l / 64] >> (l % 64) & 1)
        return;
    k->seen[role][l / 64] |= 1ull << (l % 64);
    if (k->layers && ++k->n[role] > k->layers / 2)
        k->roles |= 1u << role;
}

static void read_kept(struct kvp_quant *q, const json_t *o, uint64_t layers)
{
    static const char *const keys[] = {"modules_to_not_convert", "ignore", "exclude_modules", "llm_int8_skip_modules", "ignored_layers"};
    struct kept *k = calloc(1, sizeof(*k));

    if (!k)
        return;
    k->layers = layers;
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const json_t *list = json_object_get(o, keys[i]), *v;
        size_t n;

        json_array_foreach(list, n, v)
            if (json_is_string(v))
                keep(k, json_string_value(v));
    }
    q->kept |= k->roles;
    free(k);
}

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

/* compressed-tensors and modelopt: the first group's weights. */
static kvp_err read_config_groups(const struct kvp_json *j, struct kvp_quant *q)
{
    const json_t *groups = kvp_json_get(j, "config_groups");
    const json_t *first = json_object_iter_value(json_object_iter((json_t *)(uintptr_t)groups));
    const struct kvp_json w = {json_object_get(first, "weights"), j->origin, j->e};
    const char *type = "int", *strategy = "";

    if (!json_is_object(w.object))
        return kvp_fail(j->e, KVP_ENOTSUP, "%s: config_groups: expected a group with \"weights\"", j->origin);
    q->bits = 8;
    KVP_TRY(read_int(&w, "num_bits", NULL, &q->bits, 8));
    KVP_TRY(kvp_json_text(&w, "type", &type, NULL));
    KVP_TRY(kvp_json_text(&w, "strategy", &strategy, NULL));
    KVP_TRY(read_group(&w, q));
    if (strcmp(strategy, "channel") == 0)
        q->group = UINT32_MAX;
    if (strcmp(type, "float") == 0)
        q->format = q->bits == 8 ? KVP_WF_FP8 : q->group == 32 ? KVP_WF_MXFP4 : KVP_WF_NVFP4;
    else
        q->format = q->bits == 8 && (!q->group || q->group == UINT32_MAX) ? KVP_WF_W8A8 : KVP_WF_COMPRESSED;
    return KVP_OK;
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

static kvp_err by_word(const struct kvp_json *j, struct kvp_quant *q, const char *word)
{
    static const struct {
        const char *word;
        enum kvp_wformat format;
        uint32_t group;
    } known[] = {{"gptq", KVP_WF_GPTQ, 0}, {"awq", KVP_WF_AWQ, 0}, {"fp8", KVP_WF_FP8, 0}, {"FP8", KVP_WF_FP8, 0},
                 {"fbgemm_fp8", KVP_WF_FP8, UINT32_MAX}, {"FP8_PER_CHANNEL_PER_TOKEN", KVP_WF_FP8, UINT32_MAX},
                 {"mxfp4", KVP_WF_MXFP4, 0}, {"NVFP4", KVP_WF_NVFP4, 0}, {"mlx", KVP_WF_MLX, 0}};
    char shown[64];

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(known[i].word, word) == 0) {
            q->format = known[i].format;
            q->group = q->group ? q->group : known[i].group;
            return KVP_OK;
        }
    kvp_json_word(shown, sizeof(shown), word);
    return kvp_fail(j->e, KVP_ENOTSUP, "%s: quantization method %s is not supported", j->origin, shown);
}

kvp_err kvp_quant_side(struct kvp_quant *q, const struct kvp_json *j, uint64_t layers)
{
    const char *method = NULL, *algo = NULL, *word;
    const json_t *inner = kvp_json_get(j, "quantization");
    const struct kvp_json in = {inner, j->origin, j->e};

    if (json_is_object(inner)) /* modelopt's side file */
        return kvp_quant_side(q, &in, layers);
    KVP_TRY(kvp_json_text(j, "quant_method", &method, NULL));
    KVP_TRY(kvp_json_text(j, "quant_algo", &algo, NULL));
    KVP_TRY(read_int(j, "bits", "w_bit", &q->bits, 8));
    KVP_TRY(read_group(j, q));
    KVP_TRY(read_block(j, q));
    KVP_TRY(kvp_json_bool(j, "desc_act", &q->desc_act, NULL));
    read_kept(q, j->object, layers);
    word = algo ? algo : method ? method : kvp_json_get(j, "desc_act") ? "gptq" : q->bits && q->group ? "mlx" : "without a method's name";
    kvp_json_word(q->method, sizeof(q->method), word);
    if (method && strcmp(method, "bitsandbytes") == 0)
        return bitsandbytes(j, q);
    if (!algo && kvp_json_get(j, "config_groups"))
        return read_config_groups(j, q);
    KVP_TRY(by_word(j, q, word));
    q->packed_bias = q->format == KVP_WF_GPTQ;
    if (q->format == KVP_WF_MLX)
        q->embed = q->head = true;
    return KVP_OK;
}

kvp_err kvp_quant_read(struct kvp_quant *q, const struct kvp_json *j, uint64_t layers)
{
    static const char *const keys[] = {"quantization_config", "compression_config", "quantization"};

    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const struct kvp_json in = {kvp_json_get(j, keys[i]), j->origin, j->e};

        if (!in.object)
            continue;
        if (!json_is_object(in.object))
            return kvp_fail(j->e, KVP_EINPUT, "%s: %s: expected an object", j->origin, keys[i]);
        return kvp_quant_side(q, &in, layers);
    }
    return KVP_OK;
}
