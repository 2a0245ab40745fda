/* quant_scope.c - which matrices a list of module names speaks of. */
#include "calc/quant.h"

#include <fnmatch.h>
#include <inttypes.h>
#include <regex.h>
#include <stdlib.h>
#include <string.h>

enum { NAME = 160, MAX_LEAVES = 5, MAX_WORK = 1 << 14 /* patterns of every layer, times layers */ };

struct quant_names {
    const struct kvp_json *j;
    struct entry {
        const char *key, *text;
        long layer; /* the number after "layers."; -1: none, or a pattern */
        bool is_regex, is_glob;
        regex_t regex;
    } *v;
    size_t n, room;
    size_t patterns;  /* that may speak of any layer */
    uint32_t *active; /* those of `layer` */
    size_t n_active;
    uint32_t layer;
};

/* What a role's matrices are called behind "layers.N.": a row is one maker's words for all of them. */
enum only { ANY, GATED, NOT_GATED, ATTENTION, LATENT, LATENT_PLAIN_Q };
static const struct spelling {
    enum kvp_role role;
    enum only only; /* of layers that are so */
    const char *parent, *leaf[MAX_LEAVES];
} spellings[] = {
    {KVP_ROLE_ATTN, ATTENTION, "self_attn", {"q_proj", "k_proj", "v_proj", "o_proj"}},
    {KVP_ROLE_ATTN, ATTENTION, "self_attn", {"qkv_proj", "o_proj"}},
    {KVP_ROLE_ATTN, ATTENTION, "mixer", {"q_proj", "k_proj", "v_proj", "o_proj"}},
    {KVP_ROLE_ATTN, LATENT, "self_attn", {"q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}},
    {KVP_ROLE_ATTN, LATENT_PLAIN_Q, "self_attn", {"q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}},
    {KVP_ROLE_FFN, GATED, "mlp", {"gate_proj", "up_proj", "down_proj"}},
    {KVP_ROLE_FFN, GATED, "mlp", {"gate_up_proj", "down_proj"}},
    {KVP_ROLE_FFN, GATED, "feed_forward", {"gate_proj", "up_proj", "down_proj"}},
    {KVP_ROLE_FFN, GATED, "feed_forward", {"w1", "w2", "w3"}},
    {KVP_ROLE_FFN, NOT_GATED, "mlp", {"up_proj", "down_proj"}},
    {KVP_ROLE_FFN, NOT_GATED, "mlp", {"fc1", "fc2"}},
    {KVP_ROLE_FFN, NOT_GATED, "mlp", {"c_fc", "c_proj"}},
    {KVP_ROLE_FFN, NOT_GATED, "mixer", {"up_proj", "down_proj"}},
    {KVP_ROLE_EXPERT, GATED, "mlp.experts.0", {"gate_proj", "up_proj", "down_proj"}},
    {KVP_ROLE_EXPERT, GATED, "mlp.experts", {"gate_up_proj", "down_proj"}},
    {KVP_ROLE_EXPERT, GATED, "block_sparse_moe.experts.0", {"w1", "w2", "w3"}},
    {KVP_ROLE_EXPERT, GATED, "feed_forward.experts.0", {"gate_proj", "up_proj", "down_proj"}},
    {KVP_ROLE_EXPERT, GATED, "feed_forward.experts", {"gate_up_proj", "down_proj"}},
    {KVP_ROLE_EXPERT, NOT_GATED, "mixer.experts.0", {"up_proj", "down_proj"}},
    {KVP_ROLE_SHARED, GATED, "mlp.shared_experts", {"gate_proj", "up_proj", "down_proj"}},
    {KVP_ROLE_SHARED, GATED, "mlp.shared_expert", {"gate_proj", "up_proj", "down_proj"}},
    {KVP_ROLE_SHARED, GATED, "block_sparse_moe.shared_experts", {"gate_proj", "up_proj", "down_proj"}},
    {KVP_ROLE_SHARED, GATED, "feed_forward.shared_expert", {"gate_proj", "up_proj", "down_proj"}},
    {KVP_ROLE_SHARED, NOT_GATED, "mixer.shared_experts", {"up_proj", "down_proj"}},
    {KVP_ROLE_RECURRENT, ANY, "mixer", {"in_proj", "out_proj"}},
    {KVP_ROLE_RECURRENT, ANY, "mamba", {"in_proj", "out_proj"}},
    {KVP_ROLE_RECURRENT, ANY, "linear_attn", {"in_proj_qkvz", "in_proj_ba", "out_proj"}},
    {KVP_ROLE_RECURRENT, ANY, "linear_attn", {"in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj"}},
};
/* What stands before "layers." */
static const char *const prefixes[] = {"model.", "language_model.model.", "model.language_model.", "backbone.", ""};

unsigned quant_roles(const struct kvp_layer_class *c)
{
    return (unsigned)(c->mixer != KVP_MIX_NONE || c->cross_heads) << KVP_ROLE_ATTN | (unsigned)(c->recurrent != KVP_REC_NONE) << KVP_ROLE_RECURRENT |
           (unsigned)(c->ffn_width != 0) << KVP_ROLE_FFN | (unsigned)(c->experts != 0) << KVP_ROLE_EXPERT |
           (unsigned)(c->shared_width != 0) << KVP_ROLE_SHARED;
}

static bool fits(const struct kvp_layer_class *c, enum only only)
{
    switch (only) {
    case ANY:
        return true;
    case GATED:
        return c->ffn == KVP_FFN_GATED;
    case NOT_GATED:
        return c->ffn != KVP_FFN_GATED;
    case ATTENTION:
        return c->mixer != KVP_MIX_MLA;
    case LATENT:
        return c->mixer == KVP_MIX_MLA && c->q_rank;
    case LATENT_PLAIN_Q:
        return c->mixer == KVP_MIX_MLA && !c->q_rank;
    }
    return false;
}

/* ---- the list --------------------------------------------------------------------------------------------- */

kvp_err quant_names_new(struct quant_names **out, const struct kvp_json *j)
{
    *out = calloc(1, sizeof(**out));
    if (!*out)
        return kvp_fail(j->e, KVP_ENOMEM, "%s: out of memory", j->origin);
    (*out)->j = j;
    return KVP_OK;
}

void quant_names_free(struct quant_names *n)
{
    for (size_t i = 0; n && i < n->n; i++)
        if (n->v[i].is_regex)
            regfree(&n->v[i].regex);
    free(n ? n->v : NULL);
    free(n ? n->active : NULL);
    free(n);
}

/* Python's \d and \w are not in POSIX. What can take for ever (repetition by numbers, back references) is left out. */
static bool to_posix(char *buf, size_t n, const char *text)
{
    size_t at = (size_t)snprintf(buf, n, "^(");

    for (; *text; text++) {
        const char *put = text[0] == '\\' && text[1] == 'd' ? "[0-9]" : text[0] == '\\' && text[1] == 'w' ? "[A-Za-z0-9_]" : NULL;

        if (at + 16 > n || strncmp(text, "(?", 2) == 0 || *text == '{' || (text[0] == '\\' && strchr("123456789", text[1])))
            return false;
        if (put)
            at += (size_t)snprintf(buf + at, n - at, "%s", put), text++;
        else
            buf[at++] = *text;
    }
    snprintf(buf + at, n - at, ")");
    return true;
}

static kvp_err compile(struct quant_names *n, struct entry *x)
{
    char posix[512], word[64];

    if (to_posix(posix, sizeof(posix), x->text + 3) && regcomp(&x->regex, posix, REG_EXTENDED | REG_NOSUB) == 0) {
        x->is_regex = true;
        return KVP_OK;
    }
    kvp_json_word(word, sizeof(word), x->text);
    return kvp_fail(n->j->e, KVP_ENOTSUP, "%s: %s: the pattern \"%s\" is not understood", n->j->origin, x->key, word);
}

kvp_err quant_names_add_one(struct quant_names *n, const char *key, const char *name)
{
    struct entry x = {.key = key, .text = name, .layer = -1};
    const char *layers = strstr(name, "layers.");
    struct entry *v;
    char *end;

    if (n->n == n->room) {
        v = realloc(n->v, (n->room ? 2 * n->room : 64) * sizeof(*v));
        if (!v)
            return kvp_fail(n->j->e, KVP_ENOMEM, "%s: out of memory", n->j->origin);
        n->v = v;
        n->room = n->room ? 2 * n->room : 64;
    }
    if (strncmp(name, "re:", 3) == 0) {
        KVP_TRY(compile(n, &x));
    } else {
        x.is_glob = strpbrk(name, "*?") != NULL;
        x.text = layers ? layers : name;
        if (layers) {
            x.layer = strtol(layers + 7, &end, 10);
            x.layer = end > layers + 7 && (*end == '.' || !*end) ? x.layer : -1;
        }
    }
    n->patterns += x.layer < 0;
    n->v[n->n++] = x;
    return KVP_OK;
}

kvp_err quant_names_add(struct quant_names *n, const char *key, const json_t *list)
{
    const json_t *v;
    const char *name;
    size_t i;

    if (list && !json_is_array(list) && !json_is_object(list))
        return kvp_fail(n->j->e, KVP_EINPUT, "%s: %s: expected a list of names", n->j->origin, key);
    json_object_foreach((json_t *)(uintptr_t)list, name, v)
        KVP_TRY(quant_names_add_one(n, key, name));
    json_array_foreach(list, i, v)
        if (json_is_string(v))
            KVP_TRY(quant_names_add_one(n, key, json_string_value(v)));
    return KVP_OK;
}

/* ---- matching --------------------------------------------------------------------------------------------- */

static bool has_words(const char *name, const char *words)
{
    const size_t n = strlen(words);

    for (const char *at = name; n && (at = strstr(at, words)); at++)
        if ((at == name || at[-1] == '.') && (!at[n] || at[n] == '.'))
            return true;
    return false;
}

/* A module, or one that it is in: "layers.*.self_attn" has no * behind it in gpt-oss. */
static bool glob(const char *pattern, const char *name)
{
    char part[NAME];
    size_t n = strlen(name);

    snprintf(part, sizeof(part), "%s", name);
    for (; n; n = (size_t)(strrchr(part, '.') ? strrchr(part, '.') - part : 0)) {
        part[n] = 0;
        if (fnmatch(pattern, part, 0) == 0)
            return true;
    }
    return false;
}

/* `name` begins with "layers.". */
static bool matches(const struct entry *x, const char *name)
{
    char whole[NAME];

    if (!x->is_regex)
        return x->is_glob ? glob(x->text, name) : has_words(name, x->text);
    for (size_t i = 0; i < sizeof(prefixes) / sizeof(prefixes[0]); i++) {
        snprintf(whole, sizeof(whole), "%s%s", prefixes[i], name);
        if (regexec(&x->regex, whole, 0, NULL, 0) == 0)
            return true;
    }
    return false;
}

/* The entries that may speak of this layer. */
static kvp_err activate(struct quant_names *n, const struct kvp_model *m, uint32_t layer)
{
    if (n->active && n->layer == layer)
        return KVP_OK;
    if (n->patterns > MAX_WORK / m->layers)
        return kvp_fail(n->j->e, KVP_ENOTSUP, "%s: %s: too many patterns for %" PRIu32 " layers", n->j->origin, n->v[0].key, m->layers);
    if (!n->active)
        n->active = malloc((n->n + 1) * sizeof(*n->active));
    if (!n->active)
        return kvp_fail(n->j->e, KVP_ENOMEM, "%s: out of memory", n->j->origin);
    n->layer = layer;
    n->n_active = 0;
    for (size_t i = 0; i < n->n; i++)
        if (n->v[i].layer < 0 || n->v[i].layer == (long)layer)
            n->active[n->n_active++] = (uint32_t)i;
    return KVP_OK;
}

static const struct entry *entry_for(const struct quant_names *n, const char *name)
{
    for (size_t i = 0; i < n->n_active; i++)
        if (matches(&n->v[n->active[i]], name))
            return &n->v[n->active[i]];
    return NULL;
}

kvp_err quant_covers(struct quant_names *n, const struct kvp_model *m, uint32_t layer, enum kvp_role role, bool *covered)
{
    const struct entry *part = NULL;
    char name[NAME], word[64];

    *covered = false;
    KVP_TRY(activate(n, m, layer));
    for (size_t s = 0; s < sizeof(spellings) / sizeof(spellings[0]) && !*covered; s++) {
        const struct spelling *x = &spellings[s];
        uint32_t all = 0, hit = 0;

        if (x->role != role || !fits(&m->cls[m->class_of[layer]], x->only))
            continue;
        for (; all < MAX_LEAVES && x->leaf[all]; all++) {
            const struct entry *by;

            snprintf(name, sizeof(name), "layers.%" PRIu32 ".%s.%s", layer, x->parent, x->leaf[all]);
            by = entry_for(n, name);
            hit += by != NULL;
            part = by ? by : part;
        }
        *covered = hit == all;
    }
    if (*covered || !part)
        return KVP_OK;
    kvp_json_word(word, sizeof(word), part->text);
    return kvp_fail(n->j->e, KVP_ENOTSUP, "%s: %s: \"%s\" and the like are a part of the %s weights of layer %" PRIu32 ", which are counted as one",
                    n->j->origin, part->key, word, kvp_role_name(role), layer);
}

bool quant_covers_whole(const struct quant_names *n, enum kvp_role role)
{
    for (size_t i = 0; i < n->n; i++)
        if (n->v[i].layer < 0 && strstr(n->v[i].text, role == KVP_ROLE_HEAD ? "lm_head" : "embed_tokens"))
            return true;
    return false;
}
