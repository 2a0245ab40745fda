#include "calc/json.h"
#include "calc/num.h"

#include <kvproof/kvproof.h>

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

enum { DEVICE_BYTES, DEVICE_RATE, DEVICE_FLOPS, DEVICE_TIME, DEVICE_FRACTION };

static const struct {
    int kind;
    const char *name;
    double scale;
} units[] = {
    {DEVICE_BYTES, "B", 1},          {DEVICE_BYTES, "kB", 1e3},          {DEVICE_BYTES, "MB", 1e6},
    {DEVICE_BYTES, "GB", 1e9},       {DEVICE_BYTES, "TB", 1e12},         {DEVICE_BYTES, "KiB", 0x1p10},
    {DEVICE_BYTES, "MiB", 0x1p20},   {DEVICE_BYTES, "GiB", 0x1p30},      {DEVICE_BYTES, "TiB", 0x1p40},
    {DEVICE_RATE, "B/s", 1},         {DEVICE_RATE, "MB/s", 1e6},         {DEVICE_RATE, "GB/s", 1e9},
    {DEVICE_RATE, "TB/s", 1e12},     {DEVICE_FLOPS, "FLOP/s", 1},        {DEVICE_FLOPS, "GFLOP/s", 1e9},
    {DEVICE_FLOPS, "TFLOP/s", 1e12}, {DEVICE_FLOPS, "PFLOP/s", 1e15},    {DEVICE_TIME, "s", 1},
    {DEVICE_TIME, "ms", 1e-3},       {DEVICE_TIME, "us", 1e-6},          {DEVICE_TIME, "ns", 1e-9},
    {DEVICE_FRACTION, "fraction", 1},
};

static const struct field {
    const char *key;
    int kind;
    bool may_be_zero;
} fields[] = {
    {"memory", DEVICE_BYTES, false},   {"bandwidth", DEVICE_RATE, false}, {"flops_f32", DEVICE_FLOPS, false},
    {"flops_f16", DEVICE_FLOPS, false}, {"launch", DEVICE_TIME, true},    {"context", DEVICE_BYTES, true},
    {"interval_low", DEVICE_FRACTION, true}, {"interval_high", DEVICE_FRACTION, true},
};
enum { F_MEMORY, F_BANDWIDTH, F_F32, F_F16, F_LAUNCH, F_CONTEXT, F_LOW, F_HIGH, N_FIELDS };

static kvp_err find_unit(const struct kvp_json *j, int kind, const char *unit, double *scale)
{
    char expected[128] = "";

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        const size_t used = strlen(expected);

        if (units[i].kind != kind)
            continue;
        if (unit && strcmp(units[i].name, unit) == 0) {
            *scale = units[i].scale;
            return KVP_OK;
        }
        snprintf(expected + used, sizeof(expected) - used, "%s%s", used ? ", " : "", units[i].name);
    }
    return kvp_fail(j->e, KVP_EINPUT, "%s: expected a unit, one of %s", j->origin, expected);
}

static kvp_err read_number(const struct kvp_json *j, const struct field *f, double *out)
{
    const json_t *value = json_object_get(j->object, "value");
    const char *unit = NULL, *source = NULL;
    double scale = 0;

    KVP_TRY(kvp_json_text(j, "unit", &unit, NULL));
    KVP_TRY(kvp_json_text(j, "source", &source, NULL));
    if (!json_is_number(value))
        return kvp_fail(j->e, KVP_EINPUT, "%s: expected a number under 'value'", j->origin);
    KVP_TRY(find_unit(j, f->kind, unit, &scale));
    if (!source || !*source)
        return kvp_fail(j->e, KVP_EINPUT, "%s: a number needs a source, in words", j->origin);
    *out = json_number_value(value) * scale;
    if (!isfinite(*out) || *out < 0 || (*out == 0 && !f->may_be_zero) || (f->kind == DEVICE_BYTES && *out >= (double)NUM_MAX))
        return kvp_fail(j->e, KVP_EINPUT, "%s: expected a number %s", j->origin, f->may_be_zero ? "of at least 0" : "above 0");
    return KVP_OK;
}

static kvp_err read_field(const struct kvp_json *j, const struct field *f, double *out)
{
    const json_t *object = json_object_get(j->object, f->key);
    char origin[320];

    snprintf(origin, sizeof(origin), "%s: %s", j->origin, f->key);
    if (!json_is_object(object))
        return kvp_fail(j->e, KVP_EINPUT, "%s: expected {\"value\", \"unit\", \"source\"}", origin);
    return read_number(&(struct kvp_json){object, origin, j->e}, f, out);
}

static bool is_known(const char *key)
{
    for (size_t i = 0; i < N_FIELDS; i++)
        if (strcmp(fields[i].key, key) == 0)
            return true;
    return strcmp(key, "name") == 0 || strcmp(key, "basis") == 0;
}

static kvp_err check_keys(const struct kvp_json *j)
{
    const char *key;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)j->object, key, value) {
        char word[64];

        kvp_json_word(word, sizeof(word), key);
        if (!is_known(key))
            return kvp_fail(j->e, KVP_EINPUT, "%s: unknown key '%s', see data/devices/README.md", j->origin, word);
    }
    return KVP_OK;
}

static kvp_err fill(struct kvp_device *out, const struct kvp_json *j)
{
    const char *name = NULL, *basis = NULL, *source = NULL;
    double v[N_FIELDS];

    KVP_TRY(check_keys(j));
    KVP_TRY(kvp_json_text(j, "name", &name, NULL));
    KVP_TRY(kvp_json_text(j, "basis", &basis, NULL));
    if (!name || !basis)
        return kvp_fail(j->e, KVP_EINPUT, "%s: expected the texts 'name' and 'basis'", j->origin);
    for (size_t i = 0; i < N_FIELDS; i++)
        KVP_TRY(read_field(j, &fields[i], &v[i]));
    if (v[F_LOW] > 1)
        return kvp_fail(j->e, KVP_EINPUT, "%s: interval_low: expected a fraction from 0 to 1", j->origin);
    source = json_string_value(json_object_get(json_object_get(j->object, "bandwidth"), "source"));
    *out = (struct kvp_device){.memory_bytes = (uint64_t)v[F_MEMORY], .bandwidth = v[F_BANDWIDTH], .flops_f32 = v[F_F32],
                               .flops_f16 = v[F_F16], .launch_s = v[F_LAUNCH], .context_bytes = (uint64_t)v[F_CONTEXT],
                               .interval = v[F_LOW], .interval_high = v[F_HIGH]};
    kvp_json_word(out->name, sizeof(out->name), name);
    kvp_json_word(out->basis, sizeof(out->basis), basis);
    kvp_json_word(out->source, sizeof(out->source), source);
    source = json_string_value(json_object_get(json_object_get(j->object, "memory"), "source"));
    kvp_json_word(out->memory_source, sizeof(out->memory_source), source);
    return KVP_OK;
}

static kvp_err load(struct kvp_device *out, const char *path, struct kvp_error *e)
{
    char *text = NULL, origin[256];
    size_t len = 0;
    json_t *root = NULL;
    kvp_err rc;

    kvp_json_word(origin, sizeof(origin), path);
    KVP_TRY(kvp_json_read_file(&text, &len, path, e));
    rc = kvp_json_parse(&root, text, len, origin, e);
    free(text);
    if (rc == KVP_OK)
        rc = fill(out, &(struct kvp_json){root, origin, e});
    json_decref(root);
    return rc;
}

kvp_err kvp_device_load(struct kvp_device *out, const char *path_or_name, struct kvp_error *e)
{
    char *path = NULL, word[96];
    kvp_err rc;

    *out = (struct kvp_device){0};
    kvp_json_word(word, sizeof(word), path_or_name);
    if (strchr(path_or_name, '/') || access(path_or_name, F_OK) == 0)
        return load(out, path_or_name, e);
    if (asprintf(&path, "%s/devices/%s.json", kvp_data_dir(), path_or_name) < 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory");
    rc = access(path, F_OK) == 0 ? load(out, path, e)
                                 : kvp_fail(e, KVP_EINPUT, "unknown device '%s': not a file, and not in `kvproof list devices`", word);
    free(path);
    return rc;
}
