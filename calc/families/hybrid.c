/* hybrid.c - see hybrid.h. */
#include "calc/families/hybrid.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* A number under one of the spellings; "auto" is absent. */
static kvp_err size_of(const struct kvp_reader *r, const struct kvp_mamba_size *s, uint32_t *out)
{
    *out = s->absent;
    for (int i = 0; i < KVP_MAMBA_SPELLINGS && s->key[i]; i++) {
        const json_t *v = kvp_json_get(&r->j, s->key[i]);

        if (!v || (json_is_string(v) && strcmp(json_string_value(v), "auto") == 0))
            continue;
        return kvp_need_count(r, s->key[i], out);
    }
    return KVP_OK;
}

kvp_err kvp_channels(const struct kvp_reader *r, const char *key, uint32_t a, uint32_t b, uint32_t *out)
{
    const uint64_t n = (uint64_t)a * b;

    *out = (uint32_t)n;
    return n <= 1 << 24 ? KVP_OK : kvp_key_fail(r, KVP_EINPUT, key, "that is more than 2^24 channels");
}

static kvp_err heads_of(const struct kvp_reader *r, const struct kvp_mamba_keys *k, struct kvp_layer_class *c)
{
    uint32_t heads, dim, inner, expand;

    KVP_TRY(size_of(r, &k->heads, &heads));
    KVP_TRY(size_of(r, &k->head_dim, &dim));
    KVP_TRY(size_of(r, &k->inner, &inner));
    KVP_TRY(size_of(r, &k->expand, &expand));
    if (!inner)
        KVP_TRY(kvp_channels(r, expand ? k->expand.key[0] : k->heads.key[0], expand ? expand : heads, expand ? r->m->width : dim, &inner));
    if (!heads && dim)
        heads = inner / dim;
    if (!dim && heads)
        dim = inner / heads;
    if (!heads || (uint64_t)heads * dim != inner)
        return kvp_fail(r->j.e, KVP_EINPUT, "%s: %s: %" PRIu32 " Mamba heads of %" PRIu32 " do not make the inner width %" PRIu32,
                        r->j.origin, k->heads.key[0] ? k->heads.key[0] : k->head_dim.key[0], heads, dim, inner);
    c->inner = inner;
    c->rec_heads = heads;
    c->rec_head_dim = dim;
    return KVP_OK;
}

kvp_err kvp_read_mamba2(const struct kvp_reader *r, const struct kvp_mamba_keys *k, struct kvp_layer_class *c)
{
    uint32_t shared;

    c->recurrent = KVP_REC_MAMBA2;
    KVP_TRY(heads_of(r, k, c));
    KVP_TRY(size_of(r, &k->state, &c->state));
    KVP_TRY(size_of(r, &k->conv, &c->conv));
    KVP_TRY(size_of(r, &k->groups, &c->groups));
    KVP_TRY(kvp_channels(r, k->groups.key[0], c->groups, c->state, &shared));
    if (c->rec_heads % c->groups)
        return kvp_key_fail(r, KVP_EINPUT, k->groups.key[0], "expected a divisor of the Mamba heads");
    c->conv_bias = true;
    c->rec_norm = true;
    if (k->conv_bias)
        KVP_TRY(kvp_read_flag(r, k->conv_bias, &c->conv_bias));
    return k->bias ? kvp_read_flag(r, k->bias, &c->rec_bias) : KVP_OK;
}

kvp_err kvp_read_dt_rank(const struct kvp_reader *r, const char *key, uint32_t *out)
{
    const json_t *v = kvp_json_get(&r->j, key);

    *out = (r->m->width + 15) / 16;
    if (!v || (json_is_string(v) && strcmp(json_string_value(v), "auto") == 0))
        return KVP_OK;
    return kvp_need_count(r, key, out);
}

kvp_err kvp_read_state_dtype(const struct kvp_reader *r, const char *key)
{
    static const struct {
        const char *name;
        enum kvp_format format;
    } names[] = {{"float32", KVP_F32}, {"float16", KVP_F16}, {"bfloat16", KVP_BF16}};
    const char *name = "float32";

    KVP_TRY(kvp_json_text(&r->j, key, &name, NULL));
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i].name, name) == 0) {
            r->m->state = names[i].format;
            return KVP_OK;
        }
    return kvp_key_fail(r, KVP_ENOTSUP, key, "expected float32, float16 or bfloat16");
}

enum { TOWER_ROWS = 32 };

kvp_err kvp_tower_add(const struct kvp_reader *r, const char *name, uint64_t rows, uint64_t cols, uint64_t n, bool bias)
{
    struct kvp_model *m = r->m;

    if (rows > UINT32_MAX || cols > UINT32_MAX || n > UINT32_MAX || m->towers + 2 > TOWER_ROWS)
        return kvp_key_fail(r, KVP_EINPUT, "vision_config", "a size is too big");
    if (!m->tower)
        m->tower = calloc(TOWER_ROWS, sizeof(*m->tower));
    if (!m->tower)
        return kvp_fail(r->j.e, KVP_ENOMEM, "%s: out of memory", r->j.origin);
    if (n && rows && cols)
        m->tower[m->towers++] = (struct kvp_extra){name, (uint32_t)rows, (uint32_t)cols, (uint32_t)n, cols > 1};
    if (n && rows && bias)
        m->tower[m->towers++] = (struct kvp_extra){name, (uint32_t)rows, 1, (uint32_t)n, false};
    return KVP_OK;
}

void kvp_drop_attention(struct kvp_layer_class *c)
{
    c->mixer = KVP_MIX_NONE;
    c->heads = c->kv_heads = c->head_dim = c->v_head_dim = 0;
    c->window = 0;
    c->qkv_bias = c->o_bias = c->qk_norm = c->gated_q = false;
}

void kvp_drop_ffn(struct kvp_layer_class *c)
{
    c->ffn = KVP_FFN_NONE;
    c->ffn_width = c->experts = c->experts_per_token = c->expert_width = c->expert_in = c->shared_width = 0;
    c->ffn_bias = c->shared_gate = c->router_bias = c->expert_bias = false;
}

const char *kvp_word_at(const json_t *list, uint32_t i)
{
    const char *word = json_string_value(json_array_get(list, i));

    return word ? word : "";
}

bool kvp_is_mamba(const char *word)
{
    return strcmp(word, "mamba") == 0 || strcmp(word, "linear_attention") == 0;
}

bool kvp_is_attention(const char *word)
{
    return strcmp(word, "attention") == 0 || strcmp(word, "full_attention") == 0;
}

bool kvp_list_has(const json_t *list, uint32_t i)
{
    for (size_t k = 0; k < json_array_size(list); k++)
        if (json_integer_value(json_array_get(list, k)) == (json_int_t)i)
            return json_is_integer(json_array_get(list, k));
    return false;
}

kvp_err kvp_layer_kind_fail(const struct kvp_reader *r, const char *key, uint32_t i, const char *word, const char *known)
{
    char shown[64];

    kvp_json_word(shown, sizeof(shown), word);
    return kvp_fail(r->j.e, KVP_ENOTSUP, "%s: %s: layer %" PRIu32 " is \"%s\"; %s are supported", r->j.origin, key, i, shown, known);
}
