#include "calc/optime/optime.h"

#include "calc/json.h"
#include "calc/optime/fit.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char schema[] = "kvproof-optime/1";
static const char *const names[FIT_PARAMS] = {"log_fixed_ms", "log_item_ms", "log_tile_ms", "log_ms_per_byte", "log_ms_per_flop", "overlap_logit"};
static const char *const simple_names[2] = {"log_fixed_ms", "log_ms_per_byte"};

/* ---- writing -------------------------------------------------------------------------------------- */

static json_t *reals(const double *v, size_t n)
{
    json_t *list = json_array();

    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, json_real(v[i]));
    return list;
}

static json_t *class_json(const char *name, const struct optime_fit *f)
{
    json_t *o = json_object(), *params = json_array(), *points = json_array();
    const int n = f->simple ? 2 : FIT_PARAMS;

    for (int i = 0; i < n; i++)
        json_array_append_new(params, json_pack("{s:s, s:f, s:f}", "name", (f->simple ? simple_names : names)[i], "value", f->x[i], "sd", f->sd[i]));
    for (uint32_t i = 0; i < f->n; i++) {
        json_t *point = reals(f->at + OPTIME_COORDS * (size_t)i, OPTIME_COORDS);

        json_array_append_new(point, json_real(f->residual[i]));
        json_array_append_new(points, point);
    }
    json_object_set_new(o, "class", json_string(name));
    json_object_set_new(o, "form", json_string(f->simple ? "fixed + bandwidth" : "fixed + p-norm"));
    if (f->simple)
        json_object_set_new(o, "why", json_string(f->why));
    json_object_set_new(o, "parameters", params);
    json_object_set_new(o, "reach", reals(f->reach, OPTIME_COORDS));
    json_object_set_new(o, "amplitude", json_real(f->amplitude));
    json_object_set_new(o, "noise", json_real(f->noise));
    json_object_set_new(o, "points", points);
    return o;
}

static kvp_err fit_class(json_t *list, const struct optime_file *file, uint32_t cls, struct kvp_error *e)
{
    const struct optime_row **row = malloc(file->n * sizeof(*row));
    struct optime_fit fit;
    uint32_t n = 0;
    kvp_err rc;

    if (!row)
        return kvp_fail(e, KVP_ENOMEM, "out of memory");
    for (uint32_t i = 0; i < file->n; i++)
        if (file->row[i].cls == cls)
            row[n++] = &file->row[i];
    rc = optime_fit(&fit, file->kind, row, n, e);
    free(row);
    KVP_TRY(rc);
    json_array_append_new(list, class_json(file->cls[cls], &fit));
    optime_fit_free(&fit);
    return KVP_OK;
}

static kvp_err fit_file(json_t *ops, const char *path, struct kvp_error *e)
{
    struct optime_file file;
    json_t *classes = json_array();
    kvp_err rc = optime_open(&file, path, true, e);

    for (uint32_t c = 0; rc == KVP_OK && c < file.n_classes; c++)
        rc = fit_class(classes, &file, c, e);
    if (rc == KVP_OK) {
        json_array_append_new(ops, json_pack("{s:s, s:s, s:O}", "op", file.kind->name, "from", path, "classes", classes));
        optime_close(&file);
    }
    json_decref(classes);
    return rc;
}

kvp_err kvp_optime_calibrate(FILE *f, const char *const *rows, uint32_t n, struct kvp_error *e)
{
    json_t *root = json_object(), *ops = json_array();
    kvp_err rc = KVP_OK;

    for (uint32_t i = 0; rc == KVP_OK && i < n; i++)
        rc = fit_file(ops, rows[i], e);
    json_object_set_new(root, "schema", json_string(schema));
    json_object_set_new(root, "ops", ops);
    if (rc == KVP_OK && json_dumpf(root, f, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) != 0)
        rc = kvp_fail(e, KVP_ESYS, "could not write the model");
    if (rc == KVP_OK)
        fputc('\n', f);
    json_decref(root);
    return rc;
}

/* ---- reading -------------------------------------------------------------------------------------- */

static bool read_reals(const json_t *list, double *out, size_t n)
{
    if (json_array_size(list) != n)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!json_is_number(json_array_get(list, i)))
            return false;
        out[i] = json_number_value(json_array_get(list, i));
    }
    return true;
}

static bool read_points(struct optime_fit *f, const json_t *points)
{
    const size_t n = json_array_size(points);

    f->n = (uint32_t)n;
    f->at = calloc(n ? n : 1, OPTIME_COORDS * sizeof(*f->at));
    f->residual = calloc(n ? n : 1, sizeof(*f->residual));
    for (size_t i = 0; f->at && f->residual && i < n; i++) {
        double v[OPTIME_COORDS + 1];

        if (!read_reals(json_array_get(points, i), v, OPTIME_COORDS + 1))
            return false;
        memcpy(f->at + OPTIME_COORDS * i, v, OPTIME_COORDS * sizeof(*v));
        f->residual[i] = v[OPTIME_COORDS];
    }
    return f->at && f->residual;
}

static bool read_class(struct optime_fit *f, const json_t *o)
{
    const json_t *params = json_object_get(o, "parameters");
    const size_t n = json_array_size(params);

    *f = (struct optime_fit){.simple = n == 2};
    if (n != 2 && n != FIT_PARAMS)
        return false;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_object_get(json_array_get(params, i), "value");

        if (!json_is_number(v))
            return false;
        f->x[i] = json_number_value(v);
    }
    f->amplitude = json_number_value(json_object_get(o, "amplitude"));
    f->noise = json_number_value(json_object_get(o, "noise"));
    if (!read_reals(json_object_get(o, "reach"), f->reach, OPTIME_COORDS) || !(f->amplitude > 0) || !(f->noise > 0))
        return false;
    for (int i = 0; i < OPTIME_COORDS; i++)
        if (!(f->reach[i] > 0))
            return false;
    return read_points(f, json_object_get(o, "points"));
}

/* Words in common, place by place, of two class names. */
static int in_common(const char *a, const char *b)
{
    int n = 0;

    while (*a && *b) {
        const size_t la = strcspn(a, "/"), lb = strcspn(b, "/");

        n += la == lb && memcmp(a, b, la) == 0;
        a += la + (a[la] == '/');
        b += lb + (b[lb] == '/');
    }
    return n;
}

/* The model's class for each class of the file; `own`: it is the same one. */
static kvp_err match(const struct optime_file *file, const json_t *classes, const char *model, struct optime_fit *fit, bool *own, struct kvp_error *e)
{
    for (uint32_t c = 0; c < file->n_classes; c++) {
        const json_t *best = NULL;
        int most = -1;

        for (size_t i = 0; i < json_array_size(classes); i++) {
            const json_t *o = json_array_get(classes, i);
            const char *name = json_string_value(json_object_get(o, "class"));
            const int same = name && strcmp(name, file->cls[c]) == 0, n = name ? in_common(name, file->cls[c]) + 1000 * same : -1;

            if (n > most) {
                most = n;
                best = o;
                own[c] = same;
            }
        }
        if (!best || !read_class(&fit[c], best))
            return kvp_fail(e, KVP_EINPUT, "%s: not a readable op model for %s (%s)", model, file->kind->name, schema);
    }
    return KVP_OK;
}

static void print_rows(FILE *f, const struct optime_file *file, const struct optime_fit *fit, const bool *own)
{
    fprintf(f, "%.*s,predicted_ms,low_ms,high_ms,basis\n", (int)file->header_len, file->header);
    for (uint32_t i = 0; i < file->n; i++) {
        const struct optime_row *r = &file->row[i];
        struct optime_prediction p;

        optime_predict(&fit[r->cls], r, true, &p);
        fprintf(f, "%.*s,%.9g,%.9g,%.9g,%s\n", (int)r->len, r->line, p.ms, p.low, p.high,
                !own[r->cls] ? "transferred" : p.extrapolates ? "extrapolated" : "interpolated");
    }
}

static kvp_err find_op(const json_t *root, const char *kind, const char *model, const json_t **classes, struct kvp_error *e)
{
    const json_t *ops = json_object_get(root, "ops");
    const char *s = json_string_value(json_object_get(root, "schema"));

    if (!s || strcmp(s, schema) != 0)
        return kvp_fail(e, KVP_EINPUT, "%s: expected schema %s, as `kvproof calibrate --from` writes", model, schema);
    for (size_t i = 0; i < json_array_size(ops); i++) {
        const char *op = json_string_value(json_object_get(json_array_get(ops, i), "op"));

        if (op && strcmp(op, kind) == 0) {
            *classes = json_object_get(json_array_get(ops, i), "classes");
            return KVP_OK;
        }
    }
    return kvp_fail(e, KVP_EINPUT, "%s: knows no op %s", model, kind);
}

static kvp_err predict_file(FILE *f, const struct optime_file *file, const json_t *root, const char *model, struct kvp_error *e)
{
    struct optime_fit *fit = calloc(file->n_classes, sizeof(*fit));
    bool *own = calloc(file->n_classes, sizeof(*own));
    const json_t *classes = NULL;
    kvp_err rc = fit && own ? find_op(root, file->kind->name, model, &classes, e) : kvp_fail(e, KVP_ENOMEM, "out of memory");

    if (rc == KVP_OK)
        rc = match(file, classes, model, fit, own, e);
    if (rc == KVP_OK)
        print_rows(f, file, fit, own);
    for (uint32_t c = 0; fit && c < file->n_classes; c++)
        optime_fit_free(&fit[c]);
    free(fit);
    free(own);
    return rc;
}

kvp_err kvp_optime_predict(FILE *f, const char *rows, const char *model, struct kvp_error *e)
{
    struct optime_file file;
    json_t *root = NULL;
    char *text = NULL;
    size_t len = 0;
    kvp_err rc;

    KVP_TRY(kvp_json_read_file(&text, &len, model, e));
    rc = kvp_json_parse(&root, text, len, model, e);
    free(text);
    KVP_TRY(rc);
    rc = optime_open(&file, rows, false, e);
    if (rc == KVP_OK) {
        rc = predict_file(f, &file, root, model, e);
        optime_close(&file);
    }
    json_decref(root);
    return rc;
}
