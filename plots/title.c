/* What a chart says about itself: which model, which workload, on what. */
#include "plots/charts/chart.h"

#include <inttypes.h>
#include <string.h>

static json_int_t workload(const json_t *res, const char *key)
{
    return json_integer_value(json_object_get(json_object_get(res, "workload"), key));
}

static const char *text(const json_t *res, const char *object, const char *key)
{
    const char *s = json_string_value(json_object_get(json_object_get(res, object), key));

    return s ? s : "";
}

bool chart_one_workload(const struct results *r)
{
    const json_t *first = json_array_get(r->array, 0);
    size_t i;
    json_t *res;

    json_array_foreach(r->array, i, res)
        if (strcmp(text(res, "model", "name"), text(first, "model", "name")) != 0 ||
            !json_equal(json_object_get(res, "workload"), json_object_get(first, "workload")) ||
            !json_equal(json_object_get(json_object_get(res, "model"), "layers"),
                        json_object_get(json_object_get(first, "model"), "layers")))
            return false;
    return true;
}

/* The first result that ran says more (device, probe) than one that did not. */
static const json_t *most_telling(const struct results *r)
{
    size_t i;
    json_t *res;

    json_array_foreach(r->array, i, res)
        if (!result_not_applicable(res))
            return res;
    return json_array_get(r->array, 0);
}

static bool same_text(const struct results *r, const char *object, const char *key)
{
    const json_t *first = most_telling(r);
    size_t i;
    json_t *res;

    json_array_foreach(r->array, i, res)
        if (!result_not_applicable(res) && strcmp(text(res, object, key), text(first, object, key)) != 0)
            return false;
    return true;
}

static void machine_line(char *buf, size_t n, const struct results *r)
{
    const json_t *res = most_telling(r);
    const json_t *be = json_object_get(res, "backend");
    const char *from = json_string_value(json_object_get(res, "weights_from"));
    const json_int_t threads = json_integer_value(json_object_get(be, "threads"));
    char cores[32] = "";

    buf[0] = '\0';
    if (!be)
        return;
    if (!same_text(r, "backend", "device") || !same_text(r, "backend", "name")) {
        snprintf(buf, n, "measured on several machines");
        return;
    }
    if (threads > 0)
        snprintf(cores, sizeof(cores), ", %" JSON_INTEGER_FORMAT " threads", threads);
    snprintf(buf, n, "measured on %s: %s%s, %s weights", text(res, "backend", "name"),
             *text(res, "backend", "device") ? text(res, "backend", "device") : "?", cores,
             from && strcmp(from, "random") == 0 ? "random" : "real");
}

static void workload_line(char *buf, size_t n, const struct results *r)
{
    const json_t *res = most_telling(r);
    char formats[64] = "";

    if (!chart_one_workload(r)) {
        snprintf(buf, n, "several models or workloads");
        return;
    }
    if (*text(res, "formats", "kv") && same_text(r, "formats", "kv") && same_text(r, "formats", "weights"))
        snprintf(formats, sizeof(formats), " · weights %.16s, cache %.16s", text(res, "formats", "weights"),
                 text(res, "formats", "kv"));
    snprintf(buf, n,
             "%" JSON_INTEGER_FORMAT " layers · batch %" JSON_INTEGER_FORMAT ", prompt %" JSON_INTEGER_FORMAT
             " + %" JSON_INTEGER_FORMAT " generated = context %" JSON_INTEGER_FORMAT "%s",
             json_integer_value(json_object_get(json_object_get(res, "model"), "layers")), workload(res, "batch"),
             workload(res, "prompt"), workload(res, "generate"), workload(res, "context"), formats);
}

void chart_title(struct gp *g, const struct results *r, const char *what)
{
    const json_t *res = most_telling(r);
    char first[240], second[320];

    workload_line(first, sizeof(first), r);
    machine_line(second, sizeof(second), r);
    gp_label(g, 24, 26, "left font 'sans-serif,16'", "%s: %s",
             same_text(r, "model", "name") ? text(res, "model", "name") : "several models", what);
    gp_label(g, 24, 50, "left font 'sans-serif,10' textcolor rgb '#555555'", "%s", first);
    gp_label(g, 24, 68, "left font 'sans-serif,10' textcolor rgb '#555555'", "%s", second);
}
