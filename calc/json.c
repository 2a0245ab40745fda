/* json.c - see json.h. */
#include "calc/json.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FILE = 16 << 20, LONGEST_INTEGER = 18 /* digits that always fit in json_int_t */ };

/* Bytes of the UTF-8 character that begins here; 0 when none does. */
static size_t utf8_length(const char *text)
{
    for (size_t n = 1; n <= 4 && text[n - 1]; n++) {
        json_t *s = json_stringn(text, n);

        json_decref(s);
        if (s)
            return n;
    }
    return 0;
}

void kvp_json_word(char *buf, size_t n, const char *text)
{
    size_t i = 0;

    if (!n)
        return;
    while (*text) {
        size_t len = utf8_length(text);

        if (i + (len ? len : 1) >= n)
            break;
        if (!len || (len == 1 && ((unsigned char)*text < ' ' || *text == 127)))
            buf[i] = '?';
        else
            memcpy(buf + i, text, len);
        i += len ? len : 1;
        text += len ? len : 1;
    }
    buf[i] = 0;
}

/* ---- what Python writes and JSON forbids ------------------------------------------------------------ */

struct text {
    char *to;
    const char *from, *end;
};

static void keep(struct text *t, size_t n)
{
    memcpy(t->to, t->from, n);
    t->to += n;
    t->from += n;
}

static void put(struct text *t, const char *s)
{
    size_t n = strlen(s);

    memcpy(t->to, s, n);
    t->to += n;
}

static void keep_string(struct text *t)
{
    keep(t, 1);
    while (t->from < t->end && *t->from != '"')
        keep(t, *t->from == '\\' && t->end - t->from > 1 ? 2 : 1);
    if (t->from < t->end)
        keep(t, 1);
}

/* A bare word becomes a string, so that it loads where nobody asks and is a type error where one does. */
static bool keep_bare_word(struct text *t)
{
    static const char *const words[] = {"-Infinity", "Infinity", "NaN"};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        size_t n = strlen(words[i]);

        if ((size_t)(t->end - t->from) >= n && memcmp(t->from, words[i], n) == 0) {
            put(t, "\"");
            keep(t, n);
            put(t, "\"");
            return true;
        }
    }
    return false;
}

static bool is_number_part(char c)
{
    return (c >= '0' && c <= '9') || c == '.' || c == 'e' || c == 'E' || c == '+' || c == '-';
}

/* An integer that 64 bits may not hold becomes a real. */
static void keep_number(struct text *t)
{
    size_t n = 0, digits = 0;

    while (t->from + n < t->end && is_number_part(t->from[n])) {
        digits += t->from[n] >= '0' && t->from[n] <= '9';
        n++;
    }
    bool whole = digits + (t->from[0] == '-') == n;

    keep(t, n);
    if (whole && digits > LONGEST_INTEGER)
        put(t, ".0");
}

/* A copy that a strict parser takes. Every rewrite adds two bytes to at least three. */
static char *strict_copy(const char *json, size_t len, size_t *out_len)
{
    char *copy = malloc(2 * len + 1);
    struct text t = {copy, json, json + len};

    if (!copy)
        return NULL;
    while (t.from < t.end) {
        if (*t.from == '"')
            keep_string(&t);
        else if (keep_bare_word(&t))
            continue;
        else if (is_number_part(*t.from))
            keep_number(&t);
        else
            keep(&t, 1);
    }
    *out_len = (size_t)(t.to - copy);
    return copy;
}

kvp_err kvp_json_parse(json_t **out, const char *text, size_t len, const char *origin, struct kvp_error *e)
{
    json_error_t err;
    size_t n = 0;
    char *copy, why[JSON_ERROR_TEXT_LENGTH];

    if (len > MAX_FILE)
        return kvp_fail(e, KVP_EINPUT, "%s: larger than %d MiB, so not a configuration", origin,
                        MAX_FILE >> 20);
    copy = strict_copy(text, len, &n);
    if (!copy)
        return kvp_fail(e, KVP_ENOMEM, "%s: out of memory", origin);
    *out = json_loadb(copy, n, JSON_REJECT_DUPLICATES, &err);
    free(copy);
    if (*out)
        return KVP_OK;
    kvp_json_word(why, sizeof(why), err.text);
    return kvp_fail(e, KVP_EINPUT, "%s: line %d: not valid JSON: %s", origin, err.line > 0 ? err.line : 1,
                    why);
}

kvp_err kvp_json_read_file(char **text, size_t *len, const char *path, struct kvp_error *e)
{
    FILE *fp = fopen(path, "rb");
    char *buf;
    size_t n;
    kvp_err rc = KVP_OK;

    if (!fp)
        return kvp_fail(e, KVP_EINPUT, "%s: %s", path, strerror(errno));
    buf = malloc((size_t)MAX_FILE + 2);
    if (!buf) {
        fclose(fp);
        return kvp_fail(e, KVP_ENOMEM, "%s: out of memory", path);
    }
    n = fread(buf, 1, (size_t)MAX_FILE + 1, fp);
    if (ferror(fp))
        rc = kvp_fail(e, KVP_ESYS, "%s: %s", path, strerror(errno));
    else if (n > MAX_FILE)
        rc = kvp_fail(e, KVP_EINPUT, "%s: larger than %d MiB, so not a configuration", path, MAX_FILE >> 20);
    fclose(fp);
    if (rc != KVP_OK) {
        free(buf);
        return rc;
    }
    buf[n] = 0;
    *text = buf;
    *len = n;
    return KVP_OK;
}

/* ---- typed values ------------------------------------------------------------------------------------ */

const json_t *kvp_json_get(const struct kvp_json *j, const char *key)
{
    const json_t *v = json_object_get(j->object, key);

    return v && !json_is_null(v) ? v : NULL;
}

/* The value of `key`, *found set; NULL when there is none. */
static const json_t *find(const struct kvp_json *j, const char *key, bool *found)
{
    const json_t *v = kvp_json_get(j, key);

    if (found)
        *found = v != NULL;
    return v;
}

kvp_err kvp_json_u64(const struct kvp_json *j, const char *key, uint64_t least, uint64_t most, uint64_t *out,
                     bool *found)
{
    const json_t *v = find(j, key, found);
    double r;

    if (!v)
        return KVP_OK;
    r = json_is_number(v) ? json_number_value(v) : NAN;
    if (r != floor(r)) /* NAN too */
        return kvp_fail(j->e, KVP_EINPUT, "%s: %s: expected an integer", j->origin, key);
    if (r < (double)least || r > (double)most)
        return kvp_fail(j->e, KVP_EINPUT, "%s: %s: %.17g is out of range, expected %" PRIu64 " to %" PRIu64,
                        j->origin, key, r, least, most);
    *out = json_is_integer(v) ? (uint64_t)json_integer_value(v) : (uint64_t)r;
    return KVP_OK;
}

kvp_err kvp_json_real(const struct kvp_json *j, const char *key, double *out, bool *found)
{
    const json_t *v = find(j, key, found);
    double r;

    if (!v)
        return KVP_OK;
    r = json_is_number(v) ? json_number_value(v) : NAN;
    if (!(isfinite(r) && r > 0))
        return kvp_fail(j->e, KVP_EINPUT, "%s: %s: expected a number above 0", j->origin, key);
    *out = r;
    return KVP_OK;
}

kvp_err kvp_json_bool(const struct kvp_json *j, const char *key, bool *out, bool *found)
{
    const json_t *v = find(j, key, found);

    if (!v)
        return KVP_OK;
    if (json_is_integer(v) && (json_integer_value(v) == 0 || json_integer_value(v) == 1))
        *out = json_integer_value(v) == 1;
    else if (json_is_boolean(v))
        *out = json_is_true(v);
    else
        return kvp_fail(j->e, KVP_EINPUT, "%s: %s: expected true or false", j->origin, key);
    return KVP_OK;
}

kvp_err kvp_json_text(const struct kvp_json *j, const char *key, const char **out, bool *found)
{
    const json_t *v = find(j, key, found);

    if (!v)
        return KVP_OK;
    if (!json_is_string(v))
        return kvp_fail(j->e, KVP_EINPUT, "%s: %s: expected a string", j->origin, key);
    *out = json_string_value(v);
    return KVP_OK;
}
