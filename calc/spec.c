#include "calc/technique.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* A piece of the text being parsed. */
struct slice {
    const char *at;
    size_t len;
};

#define SLICE_ARG(s) (int)(s).len, (s).at

static bool is(struct slice s, const char *word)
{
    return s.len == strlen(word) && strncmp(s.at, word, s.len) == 0;
}

static const struct tech_param *find_param(const struct technique *t, struct slice key, uint32_t *index)
{
    for (*index = 0; *index < t->n_params; ++*index)
        if (is(key, t->params[*index].key))
            return &t->params[*index];
    return NULL;
}

static const struct tech_param *find_positional(const struct technique *t, uint32_t *index)
{
    for (*index = 0; *index < t->n_params; ++*index)
        if (t->params[*index].positional)
            return &t->params[*index];
    return NULL;
}

/* ---- values -------------------------------------------------------------------------------------- */

static kvp_err bad_value(const struct technique *t, const struct tech_param *p, struct slice v, const char *expected, struct kvp_error *e)
{
    return kvp_fail(e, KVP_EINPUT, "%s: %s=%.*s: expected %s", t->info.name, p->key, SLICE_ARG(v), expected);
}

static kvp_err parse_int(const struct technique *t, const struct tech_param *p, struct slice v, struct kvp_param *out, struct kvp_error *e)
{
    static const char suffix[] = "kmg";
    char expected[96];
    uint64_t n = 0;
    size_t i = 0;
    bool over = false;

    snprintf(expected, sizeof(expected), "an integer from %" PRId64 " to %" PRId64 ", with k, M or G for powers of 1024", p->min, p->max);
    for (; i < v.len && isdigit((unsigned char)v.at[i]); i++)
        n = num_add(&over, num_mul(&over, n, 10), (uint64_t)(v.at[i] - '0'));
    if (i > 0 && i + 1 == v.len) {
        const char *s = strchr(suffix, tolower((unsigned char)v.at[i]));

        if (s)
            n = num_mul(&over, n, 1ULL << (10 * (s - suffix + 1)));
        i += s ? 1 : 0;
    }
    if (i == 0 || i != v.len || over || n < (uint64_t)p->min || n > (uint64_t)p->max)
        return bad_value(t, p, v, expected, e);
    out->i = (int64_t)n;
    return KVP_OK;
}

static kvp_err parse_ratio(const struct technique *t, const struct tech_param *p, struct slice v, struct kvp_param *out, struct kvp_error *e)
{
    char text[64], expected[64], *end = text;

    snprintf(expected, sizeof(expected), "a number from %g to %g", p->r_min, p->r_max);
    if (!v.len || v.len >= sizeof(text) || !(isdigit((unsigned char)v.at[0]) || v.at[0] == '.'))
        return bad_value(t, p, v, expected, e);
    memcpy(text, v.at, v.len);
    text[v.len] = '\0';
    out->r = strtod(text, &end);
    if (*end || strspn(text, "0123456789.eE+-") != v.len || !isfinite(out->r) || out->r < p->r_min || out->r > p->r_max)
        return bad_value(t, p, v, expected, e);
    return KVP_OK;
}

static kvp_err parse_format(const struct technique *t, const struct tech_param *p, struct slice v, struct kvp_param *out, struct kvp_error *e)
{
    char expected[256] = "";

    for (unsigned f = 0; f < KVP_FORMATS; f++) {
        const char *name = kvp_format_name((enum kvp_format)f);
        const size_t used = strlen(expected);

        if (!(p->formats & 1u << f))
            continue;
        if (is(v, name)) {
            out->f = (enum kvp_format)f;
            return KVP_OK;
        }
        snprintf(expected + used, sizeof(expected) - used, "%s%s", used ? " or " : "", name);
    }
    return bad_value(t, p, v, expected, e);
}

static kvp_err parse_word(const struct technique *t, const struct tech_param *p, struct slice v, struct kvp_param *out, struct kvp_error *e)
{
    char expected[256] = "";

    for (int i = 0; p->words[i]; i++) {
        const size_t used = strlen(expected);

        if (is(v, p->words[i])) {
            out->i = i;
            out->word = p->words[i];
            return KVP_OK;
        }
        snprintf(expected + used, sizeof(expected) - used, "%s%s", used ? " or " : "", p->words[i]);
    }
    return bad_value(t, p, v, expected, e);
}

static kvp_err parse_value(const struct technique *t, const struct tech_param *p, struct slice v, struct kvp_param *out, struct kvp_error *e)
{
    static kvp_err (*const parsers[])(const struct technique *, const struct tech_param *, struct slice, struct kvp_param *,
                                      struct kvp_error *) = {
        [KVP_PARAM_INT] = parse_int, [KVP_PARAM_RATIO] = parse_ratio, [KVP_PARAM_FORMAT] = parse_format,
        [KVP_PARAM_WORD] = parse_word,
    };

    if (out->given)
        return kvp_fail(e, KVP_EINPUT, "%s: %s is given twice", t->info.name, p->key);
    out->given = true;
    return parsers[p->kind](t, p, v, out, e);
}

/* ---- specs --------------------------------------------------------------------------------------- */

static void defaults(const struct technique *t, struct kvp_spec *s)
{
    *s = (struct kvp_spec){.name = t->info.name, .axis = t->info.axis, .n_params = t->n_params};
    for (uint32_t i = 0; i < t->n_params; i++) {
        const struct tech_param *p = &t->params[i];

        s->params[i] = (struct kvp_param){.key = p->key, .kind = p->kind, .i = p->i, .r = p->r, .f = p->f,
                                          .word = p->kind == KVP_PARAM_WORD ? p->words[p->i] : NULL};
    }
}

static kvp_err parse_item(const struct technique *t, struct kvp_spec *s, struct slice item, bool first, struct kvp_error *e)
{
    const char *eq = memchr(item.at, '=', item.len);
    const struct slice key = {item.at, eq ? (size_t)(eq - item.at) : 0};
    const struct slice value = eq ? (struct slice){eq + 1, item.len - key.len - 1} : item;
    uint32_t i;
    const struct tech_param *p = eq ? find_param(t, key, &i) : find_positional(t, &i);

    if (!p && eq)
        return kvp_fail(e, KVP_EINPUT, "%s has no parameter '%.*s'%s%s", t->info.name, SLICE_ARG(key),
                        *t->info.params ? "; it has " : "", t->info.params);
    if (!p || (!eq && !first))
        return kvp_fail(e, KVP_EINPUT, "%s: '%.*s': expected key=value%s%s", t->info.name, SLICE_ARG(item),
                        *t->info.params ? " of " : ", and it has no parameters", t->info.params);
    return parse_value(t, p, value, &s->params[i], e);
}

static kvp_err check_excludes(const struct technique *t, const struct kvp_spec *s, struct kvp_error *e)
{
    for (uint32_t i = 0; i < t->n_params; i++) {
        const char *other = t->params[i].excludes;

        if (other && s->params[i].given && kvp_spec_param(s, other)->given)
            return kvp_fail(e, KVP_EINPUT, "%s: give %s or %s, not both", t->info.name, t->params[i].key, other);
    }
    return KVP_OK;
}

static kvp_err parse_spec(const struct technique *t, struct kvp_spec *s, const char *rest, struct kvp_error *e)
{
    bool first = true;

    defaults(t, s);
    while (*rest) {
        struct slice item = {rest + 1, strcspn(rest + 1, ",")};

        KVP_TRY(parse_item(t, s, item, first && *rest == ':', e));
        rest = item.at + item.len;
        first = false;
    }
    return check_excludes(t, s, e);
}

kvp_err kvp_stack_add(struct kvp_stack *s, const char *text, struct kvp_error *e)
{
    const size_t len = strcspn(text, ":,");
    const struct technique *t = technique_find(text, len);
    struct kvp_spec spec;
    uint32_t at = s->n;

    if (!t)
        return kvp_fail(e, KVP_EINPUT, "unknown technique '%.*s', see `kvproof list techniques`", (int)(len > 64 ? 64 : len), text);
    KVP_TRY(parse_spec(t, &spec, text + len, e));
    if (t->baseline)
        return KVP_OK;
    for (uint32_t i = 0; i < s->n; i++)
        if (s->spec[i].axis == spec.axis)
            return kvp_fail(e, KVP_EINPUT, "%s and %s are both on the axis '%s': one technique per axis", s->spec[i].name,
                            spec.name, kvp_axis_name(spec.axis));
    for (; at > 0 && s->spec[at - 1].axis > spec.axis; at--)
        s->spec[at] = s->spec[at - 1];
    s->spec[at] = spec;
    s->n++;
    return KVP_OK;
}

/* ---- text ---------------------------------------------------------------------------------------- */

static void value_text(const struct kvp_param *p, char *buf, size_t n)
{
    if (p->kind == KVP_PARAM_INT)
        snprintf(buf, n, "%" PRId64, p->i);
    if (p->kind == KVP_PARAM_FORMAT)
        snprintf(buf, n, "%s", kvp_format_name(p->f));
    if (p->kind == KVP_PARAM_WORD)
        snprintf(buf, n, "%s", p->word);
    /* the shortest text that reads back the same */
    for (int digits = 1; p->kind == KVP_PARAM_RATIO && digits <= 17; digits++) {
        snprintf(buf, n, "%.*g", digits, p->r);
        if (strtod(buf, NULL) == p->r)
            break;
    }
}

static bool is_excluded(const struct technique *t, const struct kvp_spec *s, const char *key)
{
    for (uint32_t i = 0; i < t->n_params; i++)
        if (t->params[i].excludes && s->params[i].given && strcmp(t->params[i].excludes, key) == 0)
            return true;
    return false;
}

void kvp_spec_text(const struct kvp_spec *s, char *buf, size_t n)
{
    const struct technique *t = technique_find(s->name, strlen(s->name));
    char sep = ':', value[64];
    size_t used;

    if (n)
        snprintf(buf, n, "%s", s->name);
    for (uint32_t i = 0; n && t && i < t->n_params; i++) {
        const struct tech_param *p = &t->params[i];

        if ((p->no_default && !s->params[i].given) || is_excluded(t, s, p->key))
            continue;
        value_text(&s->params[i], value, sizeof(value));
        used = strlen(buf);
        if (p->positional && sep == ':')
            snprintf(buf + used, n - used, ":%s", value);
        else
            snprintf(buf + used, n - used, "%c%s=%s", sep, p->key, value);
        sep = ',';
    }
}

void kvp_stack_text(const struct kvp_stack *s, char *buf, size_t n)
{
    const struct technique *t = technique_at(0);
    size_t used = 0;

    if (n)
        snprintf(buf, n, "%s", s->n ? "" : t->info.name);
    for (uint32_t i = 0; n && i < s->n; i++) {
        snprintf(buf + used, n - used, "%s", i ? " " : "");
        used = strlen(buf);
        kvp_spec_text(&s->spec[i], buf + used, n - used);
        used = strlen(buf);
    }
}
