#include "plots/results.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What a result must have. object NULL: the key is at the top. */
struct field {
    int kinds;
    const char *object, *key;
    json_type type;
};

#define ALL (RESULTS_VALIDATE | RESULTS_ESTIMATE | RESULTS_SERVE)
#define BOTH (RESULTS_VALIDATE | RESULTS_ESTIMATE)
#define RAN (RESULTS_VALIDATE | RESULTS_SERVE)
static const struct field fields[] = {
    {ALL, NULL, "model", JSON_OBJECT},
    {ALL, "model", "name", JSON_STRING},
    {BOTH, NULL, "workload", JSON_OBJECT},
    {BOTH, "workload", "context", JSON_INTEGER},
    {BOTH, "workload", "prompt", JSON_INTEGER},
    {BOTH, "workload", "generate", JSON_INTEGER},
    {BOTH, "workload", "batch", JSON_INTEGER},
    {ALL, NULL, "techniques", JSON_ARRAY},
    {RAN, NULL, "formats", JSON_OBJECT},
    {RAN, "formats", "weights", JSON_STRING},
    {RAN, "formats", "kv", JSON_STRING},
    {RAN, NULL, "backend", JSON_OBJECT},
    {RAN, "backend", "name", JSON_STRING},
    {RAN, NULL, "weights_from", JSON_STRING},
    {RAN, NULL, "rows", JSON_ARRAY},
    {RESULTS_SERVE, NULL, "trace", JSON_OBJECT},
    {RESULTS_SERVE, "trace", "name", JSON_STRING},
    {RESULTS_SERVE, "trace", "requests", JSON_INTEGER},
    {RESULTS_SERVE, "trace", "blocks", JSON_INTEGER},
    {RESULTS_SERVE, "trace", "step_s", JSON_REAL},
    {RESULTS_ESTIMATE, NULL, "memory", JSON_OBJECT},
    {RESULTS_ESTIMATE, "memory", "weights_bytes", JSON_INTEGER},
    {RESULTS_ESTIMATE, "memory", "cache_bytes", JSON_INTEGER},
    {RESULTS_ESTIMATE, "memory", "metadata_bytes", JSON_INTEGER},
    {RESULTS_ESTIMATE, "memory", "state_bytes", JSON_INTEGER},
    {RESULTS_ESTIMATE, "memory", "activation_bytes", JSON_INTEGER},
    {RESULTS_ESTIMATE, "memory", "workspace_bytes", JSON_INTEGER},
    {RESULTS_ESTIMATE, "memory", "total_bytes", JSON_INTEGER},
    {RESULTS_ESTIMATE, "memory", "peak_bytes", JSON_INTEGER},
};

static const char *const type_names[] = {
    [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "a list",    [JSON_STRING] = "a string",
    [JSON_INTEGER] = "an integer", [JSON_REAL] = "a number",   [JSON_TRUE] = "true",
    [JSON_FALSE] = "false",        [JSON_NULL] = "null",
};

static const char *const kind_names[] = {
    [RESULTS_VALIDATE] = "a result of `kvproof validate -o jsonl`",
    [RESULTS_ESTIMATE] = "a result of `kvproof estimate -o json`",
    [RESULTS_SERVE] = "a result of `kvproof serve -o jsonl`",
    [RAN] = "a result of `kvproof validate -o jsonl` or `kvproof serve -o jsonl`",
    [BOTH] = "a result of `kvproof validate -o jsonl` or `kvproof estimate -o json`",
    [ALL] = "a result of `kvproof validate`, `serve` or `estimate` as json",
};

int result_kind(const json_t *result)
{
    const char *schema = json_string_value(json_object_get(result, "schema"));

    if (schema && strcmp(schema, "kvproof-validate/1") == 0)
        return RESULTS_VALIDATE;
    if (schema && strcmp(schema, "kvproof-serve/1") == 0)
        return RESULTS_SERVE;
    return json_object_get(result, "memory") ? RESULTS_ESTIMATE : 0;
}

/* ---- checks -------------------------------------------------------------------------------------- */

static kvp_err check_field(const json_t *res, const struct field *f, const char *origin, struct kvp_error *e)
{
    const json_t *at = f->object ? json_object_get(res, f->object) : res;
    const json_t *v = json_object_get(at, f->key);

    if (v && json_typeof(v) == f->type)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "%s: %s%s%s is %s, expected %s", origin, f->object ? f->object : "",
                    f->object ? "." : "", f->key, v ? type_names[json_typeof(v)] : "missing", type_names[f->type]);
}

/* Bytes and other counts are integers; shares and seconds need not be. */
static kvp_err check_kind(const json_t *row, size_t i, const char *origin, struct kvp_error *e)
{
    static const struct {
        const char *kind;
        bool real;
    } kinds[] = {{"bytes", false}, {"bound", false}, {"count", false}, {"flops", false}, {"share", true}, {"time", true}};
    const char *kind = json_string_value(json_object_get(row, "kind"));
    size_t k = 0;

    while (k < sizeof(kinds) / sizeof(kinds[0]) && strcmp(kinds[k].kind, kind) != 0)
        k++;
    if (k == sizeof(kinds) / sizeof(kinds[0]))
        return kvp_fail(e, KVP_EINPUT, "%s: rows[%zu].kind '%.40s': expected bytes, bound, count, share, flops or time", origin, i, kind);
    if (!kinds[k].real && (json_is_real(json_object_get(row, "predicted")) || json_is_real(json_object_get(row, "measured"))))
        return kvp_fail(e, KVP_EINPUT, "%s: rows[%zu]: %s are integers", origin, i, kind);
    return KVP_OK;
}

static kvp_err check_row(const json_t *row, size_t i, const char *origin, struct kvp_error *e)
{
    static const char *const strings[] = {"row", "kind", "how"};
    static const char *const numbers[] = {"predicted", "measured", "error"};

    for (size_t k = 0; k < sizeof(strings) / sizeof(strings[0]); k++)
        if (!json_is_string(json_object_get(row, strings[k])))
            return kvp_fail(e, KVP_EINPUT, "%s: rows[%zu].%s: expected a string", origin, i, strings[k]);
    for (size_t k = 0; k < sizeof(numbers) / sizeof(numbers[0]); k++) {
        const json_t *v = json_object_get(row, numbers[k]);

        if (!json_is_number(v) && !json_is_null(v))
            return kvp_fail(e, KVP_EINPUT, "%s: rows[%zu].%s: expected a number or null", origin, i, numbers[k]);
    }
    return check_kind(row, i, origin, e);
}

static kvp_err check_result(const json_t *res, int kinds, const char *origin, struct kvp_error *e)
{
    const int kind = json_is_object(res) ? result_kind(res) : 0;
    const json_t *v, *why = json_object_get(res, "not_applicable");
    size_t i;

    if (!(kind & kinds))
        return kvp_fail(e, KVP_EINPUT, "%s: expected %s", origin, kind_names[kinds]);
    for (i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        if (fields[i].kinds & kind)
            KVP_TRY(check_field(res, &fields[i], origin, e));
    json_array_foreach(json_object_get(res, "techniques"), i, v)
        if (!json_is_string(v))
            return kvp_fail(e, KVP_EINPUT, "%s: techniques[%zu]: expected a string", origin, i);
    json_array_foreach(json_object_get(res, "rows"), i, v)
        KVP_TRY(check_row(v, i, origin, e));
    if (why && !json_is_string(why))
        return kvp_fail(e, KVP_EINPUT, "%s: not_applicable: expected a string", origin);
    return KVP_OK;
}

/* ---- files --------------------------------------------------------------------------------------- */

static kvp_err add(struct results *r, json_t *res, int kinds, const char *path, size_t line, struct kvp_error *e)
{
    char **grown = realloc(r->origin, (r->n + 1) * sizeof(*grown));

    if (!grown)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for results");
    r->origin = grown;
    if (asprintf(&r->origin[r->n], "%s:%zu", path, line) < 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for results");
    r->n++;
    KVP_TRY(check_result(res, kinds, r->origin[r->n - 1], e));
    return json_array_append(r->array, res) == 0 ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "out of memory for results");
}

/* One result, or a list of them as `-o json` prints several. */
static kvp_err add_value(struct results *r, json_t *v, int kinds, const char *path, size_t line, struct kvp_error *e)
{
    size_t i;
    json_t *res;

    if (!json_is_array(v))
        return add(r, v, kinds, path, line, e);
    json_array_foreach(v, i, res)
        KVP_TRY(add(r, res, kinds, path, line, e));
    return KVP_OK;
}

static kvp_err bad_json(const char *path, size_t line, const json_error_t *je, struct kvp_error *e)
{
    return kvp_fail(e, KVP_EINPUT, "%s:%zu: not JSON: %s", path, line, je->text);
}

static bool is_blank(const char *s)
{
    return s[strspn(s, " \t\r\n")] == '\0';
}

static kvp_err load_lines(struct results *r, FILE *f, const char *path, int kinds, struct kvp_error *e)
{
    char *text = NULL;
    size_t cap = 0, line = 0;
    kvp_err rc = KVP_OK;

    while (rc == KVP_OK && getline(&text, &cap, f) > 0) {
        json_error_t je;
        json_t *v;

        line++;
        if (is_blank(text))
            continue;
        v = json_loads(text, JSON_REJECT_DUPLICATES, &je);
        rc = v ? add_value(r, v, kinds, path, line, e) : bad_json(path, line, &je, e);
        json_decref(v);
    }
    free(text);
    return rc;
}

/* `-o json` spreads a value over many lines, and begins with a bracket that is alone on its line. */
static bool begins_with_bracket(FILE *f)
{
    char line[8] = "";

    rewind(f);
    while (fgets(line, sizeof(line), f) && is_blank(line))
        continue;
    return strchr("{[", line[0]) && is_blank(line + 1);
}

static kvp_err load_file(struct results *r, const char *path, int kinds, struct kvp_error *e)
{
    FILE *f = fopen(path, "r");
    json_error_t je;
    json_t *whole;
    kvp_err rc;

    if (!f)
        return kvp_fail(e, KVP_EINPUT, "%s: cannot read: %s", path, strerror(errno));
    whole = json_loadf(f, JSON_REJECT_DUPLICATES, &je);
    if (whole) {
        rc = add_value(r, whole, kinds, path, 1, e);
        json_decref(whole);
    } else if (begins_with_bracket(f)) {
        rc = bad_json(path, je.line > 0 ? (size_t)je.line : 1, &je, e);
    } else {
        rewind(f);
        rc = load_lines(r, f, path, kinds, e);
    }
    if (rc == KVP_OK && ferror(f))
        rc = kvp_fail(e, KVP_EINPUT, "%s: cannot read: %s", path, strerror(errno));
    fclose(f);
    return rc;
}

kvp_err results_load(struct results *r, const char *const *paths, int n, int kinds, struct kvp_error *e)
{
    kvp_err rc = KVP_OK;

    *r = (struct results){.array = json_array()};
    if (!r->array)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for results");
    for (int i = 0; rc == KVP_OK && i < n; i++) {
        const size_t before = r->n;

        rc = load_file(r, paths[i], kinds, e);
        if (rc == KVP_OK && r->n == before)
            rc = kvp_fail(e, KVP_EINPUT, "%s: no results in it", paths[i]);
    }
    if (rc != KVP_OK)
        results_free(r);
    return rc;
}

void results_free(struct results *r)
{
    for (size_t i = 0; i < r->n; i++)
        free(r->origin[i]);
    free(r->origin);
    json_decref(r->array);
    *r = (struct results){0};
}

/* ---- what charts ask ------------------------------------------------------------------------------ */

void result_techniques(const json_t *result, bool names_only, char *buf, size_t n)
{
    size_t i, used = 0;
    json_t *t;

    snprintf(buf, n, "dense");
    json_array_foreach(json_object_get(result, "techniques"), i, t) {
        const char *text = json_string_value(t);
        const int whole = (int)(names_only ? strcspn(text, ":,") : strlen(text));
        const int len = snprintf(buf + used, n - used, "%s%.*s", i ? " + " : "", whole, text);

        if (len < 0 || (size_t)len >= n - used)
            return;
        used += (size_t)len;
    }
}

const json_t *result_row(const json_t *result, const char *name)
{
    size_t i;
    json_t *row;

    json_array_foreach(json_object_get(result, "rows"), i, row)
        if (strcmp(json_string_value(json_object_get(row, "row")), name) == 0)
            return row;
    return NULL;
}

double result_number(const json_t *row, const char *field)
{
    const json_t *v = json_object_get(row, field);

    return json_is_number(v) ? json_number_value(v) : -1;
}

const char *result_not_applicable(const json_t *result)
{
    return json_string_value(json_object_get(result, "not_applicable"));
}
