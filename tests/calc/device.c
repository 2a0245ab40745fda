/* device.c - device files: all of ours load and say where their numbers are from; a number without a unit
 * or a source is refused; and time is the roofline that can be worked out by hand. */
#include "tests/calc/calc_test.h"

#include <dirent.h>
#include <math.h>
#include <unistd.h>

START_TEST(ours_load)
{
    char path[512];
    struct dirent *d;
    DIR *dir;
    int n = 0;

    snprintf(path, sizeof(path), "%s/devices", kvp_data_dir());
    dir = opendir(path);
    ck_assert_ptr_nonnull(dir);
    while ((d = readdir(dir))) {
        const size_t len = strlen(d->d_name);
        struct kvp_device dev;
        struct kvp_error e = {0};
        char name[256];

        if (len < 6 || strcmp(d->d_name + len - 5, ".json") != 0)
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)(len - 5), d->d_name);
        ck_assert_msg(kvp_device_load(&dev, name, &e) == KVP_OK, "%s", e.text);
        ck_assert(*dev.name && *dev.source && *dev.basis);
        ck_assert_msg(strncmp(dev.memory_source, "memory.total", 12) == 0 || strncmp(dev.memory_source, "VRAM Total", 10) == 0 ||
                          strncmp(dev.memory_source, "nominal: ", 9) == 0 || strncmp(dev.memory_source, "assumed: ", 9) == 0,
                      "%s: whose word is its memory? %s", name, dev.memory_source);
        ck_assert(dev.memory_bytes > 1ULL << 30 && dev.bandwidth > 1e9 && dev.flops_f32 > 1e12 && dev.flops_f16 >= dev.flops_f32);
        ck_assert(dev.launch_s > 1e-7 && dev.launch_s < 1e-4 && dev.interval >= 0 && dev.interval_high >= dev.interval);
        n++;
    }
    closedir(dir);
    ck_assert_int_ge(n, 25);
}
END_TEST

START_TEST(values)
{
    struct kvp_device d;
    struct kvp_error e = {0};

    ck_assert_int_eq(kvp_device_load(&d, "h200", &e), KVP_OK);
    ck_assert_uint_eq(d.memory_bytes, 143771ULL << 20);
    ck_assert_double_eq_tol(d.bandwidth, 4.8e12, 1);
    ck_assert_double_eq_tol(d.flops_f16, 989.5e12, 1e3);
    ck_assert_double_eq_tol(d.launch_s, 3e-6, 1e-12);
    ck_assert_uint_eq(d.context_bytes, 430ULL << 20);
}
END_TEST

#define NUMBER(value, unit) "{\"value\": " value ", \"unit\": \"" unit "\", \"source\": \"made up\"}"
#define HEAD "{\"name\": \"toy\", \"basis\": \"toy roofline\", "
#define REST "\"flops_f32\": " NUMBER("1", "TFLOP/s") ", \"flops_f16\": " NUMBER("2", "TFLOP/s") ", \"launch\": " NUMBER("10", "us") \
    ", \"context\": " NUMBER("0", "B") ", \"interval_low\": " NUMBER("0.25", "fraction") ", \"interval_high\": " NUMBER("1", "fraction") "}"
#define BANDWIDTH "\"bandwidth\": " NUMBER("100", "GB/s") ", "

static const struct {
    const char *text, *says;
} files[] = {
    {HEAD "\"memory\": " NUMBER("1", "GiB") ", " BANDWIDTH REST, NULL},
    {HEAD "\"memory\": " NUMBER("1", "GiB") ", " REST, "bandwidth: expected {"},
    {HEAD "\"memory\": 5, " BANDWIDTH REST, "memory: expected {"},
    {HEAD "\"memory\": {\"value\": 1, \"source\": \"x\"}, " BANDWIDTH REST, "memory: expected a unit, one of B, kB"},
    {HEAD "\"memory\": {\"value\": 1, \"unit\": \"GiB\"}, " BANDWIDTH REST, "memory: a number needs a source"},
    {HEAD "\"memory\": {\"value\": 1, \"unit\": \"GiB\", \"source\": \"\"}, " BANDWIDTH REST, "memory: a number needs a source"},
    {HEAD "\"memory\": " NUMBER("100", "GB/s") ", " BANDWIDTH REST, "memory: expected a unit"},
    {HEAD "\"memory\": " NUMBER("\"1\"", "GB") ", " BANDWIDTH REST, "expected a number under 'value'"},
    {HEAD "\"memory\": " NUMBER("0", "GB") ", " BANDWIDTH REST, "above 0"},
    {HEAD "\"memory\": " NUMBER("-1", "GB") ", " BANDWIDTH REST, "above 0"},
    {HEAD "\"memory\": " NUMBER("1e300", "TB") ", " BANDWIDTH REST, "above 0"},
    {HEAD "\"colour\": 5, \"memory\": " NUMBER("1", "GB") ", " BANDWIDTH REST, "unknown key 'colour'"},
    {"{\"basis\": \"x\", \"memory\": " NUMBER("1", "GB") ", " BANDWIDTH REST, "expected the texts 'name' and 'basis'"},
    {"[1]", ""},
    {"{", ""},
    {"", ""},
};

static kvp_err load_text(struct kvp_device *d, const char *text, struct kvp_error *e)
{
    char path[] = "/tmp/kvproof-device-XXXXXX";
    const int fd = mkstemp(path);
    kvp_err rc;

    ck_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    rc = kvp_device_load(d, path, e);
    unlink(path);
    return rc;
}

START_TEST(file)
{
    struct kvp_device d;
    struct kvp_error e = {0};
    const kvp_err rc = load_text(&d, files[_i].text, &e);

    ck_assert_msg(rc == (files[_i].says ? KVP_EINPUT : KVP_OK), "%d: %s", rc, e.text);
    if (files[_i].says)
        ck_assert_msg(strstr(e.text, files[_i].says) != NULL && *e.text && !strchr(e.text, '\n'), "says: %s", e.text);
}
END_TEST

START_TEST(unknown_name)
{
    struct kvp_device d;
    struct kvp_error e = {0};

    ck_assert_int_eq(kvp_device_load(&d, "no-such-device", &e), KVP_EINPUT);
    ck_assert_ptr_nonnull(strstr(e.text, "no-such-device"));
}
END_TEST

/* The devices that the field asks for, each with its capacity as the driver reports it, or with a word that it is not. */
START_TEST(asked_for)
{
    static const struct {
        const char *name;
        bool driver; /* a source has what the driver says */
    } names[] = {{"h200", true},      {"h100-sxm", true},  {"h100-pcie", false},     {"a100-40g", true}, {"a100-80g", true}, {"l40s", true}, {"l4", true},
                 {"t4", true},        {"v100-sxm2-16g", false}, {"v100-sxm2-32g", false}, {"b200", true}, {"gb200", false},   {"rtx-3090", true},
                 {"rtx-4090", true},  {"rtx-5090", true},  {"rtx-pro-6000", false},  {"mi300x", true},   {"epyc-9654", false}, {"xeon-8480plus", false}};

    for (size_t i = 0; i < COUNT(names); i++) {
        struct kvp_device d;
        struct kvp_error e = {0};
        bool driver;

        ck_assert_msg(kvp_device_load(&d, names[i].name, &e) == KVP_OK, "%s", e.text);
        driver = strncmp(d.memory_source, "memory.total of nvidia-smi", 26) == 0 || strncmp(d.memory_source, "VRAM Total Memory of rocm-smi", 29) == 0;
        ck_assert_msg(driver == names[i].driver, "%s: %s", names[i].name, d.memory_source);
        ck_assert_msg(driver || strncmp(d.memory_source, "nominal: ", 9) == 0 || strncmp(d.memory_source, "assumed: ", 9) == 0, "%s: %s", names[i].name,
                      d.memory_source);
    }
}
END_TEST

/* Every op: calls * 10 us + the larger of FLOPs / peak and bytes / (100 GB/s); and the sums. */
START_TEST(roofline)
{
    struct kvp_device d;
    struct kvp_error e = {0};
    struct kvp_model m = load("llama-3.2-1b");
    struct kvp_estimate est;
    double sum[KVP_PHASES] = {0};
    bool flops_bound = false, bytes_bound = false;

    ck_assert_int_eq(load_text(&d, files[0].text, &e), KVP_OK);
    ck_assert_int_eq(try_estimate(&est, &m, "", (struct kvp_workload){.prompt = 4096, .generate = 1, .batch = 2},
                                  (struct kvp_options){.kv_given = true, .kv = KVP_F32}, &d), KVP_OK);
    for (uint32_t i = 0; i < est.n_ops; i++) {
        const struct kvp_op_cost *x = &est.ops[i];
        const bool half = x->op == KVP_OP_QKV || x->op == KVP_OP_O_PROJ || x->op == KVP_OP_MLP_UP || x->op == KVP_OP_MLP_DOWN || x->op == KVP_OP_HEAD;
        const double f = (double)x->flops / (half ? 2e12 : 1e12), b = (double)(x->read_bytes + x->written_bytes) / 1e11;

        flops_bound = flops_bound || f > b;
        bytes_bound = bytes_bound || b > f;
        ck_assert_double_eq_tol(x->seconds, 1e-5 * (double)x->calls + (f > b ? f : b), 1e-9);
        sum[x->phase] += x->seconds;
    }
    ck_assert(flops_bound && bytes_bound);
    ck_assert_double_eq_tol(est.ttft_s, sum[KVP_PREFILL], 1e-9);
    ck_assert_double_eq_tol(est.tpot_s, sum[KVP_DECODE], 1e-9);
    ck_assert_double_eq_tol(est.tokens_per_s, 2 / est.tpot_s, 1e-9);
    ck_assert_double_eq_tol(est.ttft_lo, 0.75 * est.ttft_s, 1e-9);
    ck_assert_double_eq_tol(est.tpot_hi, 2 * est.tpot_s, 1e-9);
    ck_assert_str_eq(est.basis, "toy roofline");
    kvp_estimate_free(&est);
    kvp_model_free(&m);
}
END_TEST

START_TEST(no_device_no_time)
{
    struct kvp_model m = tiny(false);
    struct kvp_estimate est = estimate_of(&m, "", (struct kvp_workload){.context = 3}, (struct kvp_options){0});

    ck_assert(isnan(est.ttft_s) && isnan(est.tpot_s) && isnan(est.tokens_per_s));
    ck_assert_str_eq(est.basis, "none");
    ck_assert_uint_eq(est.memory.device_context_bytes, 0);
    kvp_estimate_free(&est);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("device");

    tcase_add_test(t, ours_load);
    tcase_add_test(t, asked_for);
    tcase_add_test(t, values);
    tcase_add_loop_test(t, file, 0, (int)COUNT(files));
    tcase_add_test(t, unknown_name);
    tcase_add_test(t, roofline);
    tcase_add_test(t, no_device_no_time);
    return run("calc: devices and time", &t, 1);
}
