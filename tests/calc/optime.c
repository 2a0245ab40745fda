/* optime.c - times of ops learned from rows of a file: the formula is found again in timings made from it,
 * its interval covers what it says, and what cannot be fitted is refused. */
#include "tests/calc/calc_test.h"

#include "calc/optime/fit.h"
#include "calc/optime/optime.h"

#include <math.h>
#include <unistd.h>

static uint64_t state = 88172645463325252u;

static double uniform(void) /* xorshift64 */
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (double)(state >> 11) * 0x1p-53;
}

static double normal(void)
{
    return sqrt(-2 * log(1 - uniform())) * cos(2 * M_PI * uniform());
}

static void write_file(char *path, size_t n, const char *text)
{
    int fd;

    snprintf(path, n, "/tmp/kvproof-optime-XXXXXX");
    fd = mkstemp(path);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

#define DECODE "gpu,num_heads,num_key_value_heads,head_dim,batch_size,step,window_size,kv_cache_dtype,latency_ms\n"

/* Decode steps on a device of 3 TB/s, a fixed 6 us and 30 ns an item, with 2 % of noise and a drift of 3 % from
 * the first row to the last. `clean` receives the times without noise. */
static char *synthetic(uint32_t n, double *clean)
{
    char *text = malloc(200 + n * 96), *at = text + sprintf(text, DECODE);

    for (uint32_t i = 0; i < n; i++) {
        const uint32_t batch = 1u << (i % 8), kv = 1u << (i / 8 % 4), heads = kv << (i / 32 % 3), step = (64u << (i * 7 % 11)) - 1;
        const double bytes = 2.0 * batch * (step + 1) * kv * 128 * 2 + batch * heads * 128 * 4;

        clean[i] = 0.006 + bytes / 3e9 + 30e-6 * fmax(1, batch * kv / 128.0);
        at += sprintf(at, "x,%u,%u,128,%u,%u,0,bfloat16,%.9g\n", heads, kv, batch, step,
                      clean[i] * exp(0.02 * normal() + 0.03 * i / n));
    }
    return text;
}

static struct optime_file open_text(const char *text)
{
    struct optime_file f;
    struct kvp_error e = {0};
    char path[64];

    write_file(path, sizeof(path), text);
    ck_assert_msg(optime_open(&f, path, true, &e) == KVP_OK, "%s", e.text);
    unlink(path);
    return f;
}

/* Even rows are learned, odd ones predicted. */
START_TEST(finds_the_formula_again)
{
    enum { N = 600 };
    double clean[N];
    char *text = synthetic(N, clean);
    struct optime_file f = open_text(text);
    const struct optime_row *row[N];
    struct kvp_error e = {0};
    struct optime_fit fit;
    uint32_t n = 0, inside = 0, close = 0;

    ck_assert_uint_eq(f.n, N);
    ck_assert_uint_eq(f.n_classes, 1);
    ck_assert_str_eq(f.kind->name, "decode_attention");
    for (uint32_t i = 0; i < N; i += 2)
        row[n++] = &f.row[i];
    ck_assert_int_eq(optime_fit(&fit, f.kind, row, n, &e), KVP_OK);
    ck_assert(!fit.simple);
    for (uint32_t i = 1; i < N; i += 2) {
        struct optime_prediction p;

        optime_predict(&fit, &f.row[i], true, &p);
        close += fabs(p.ms / (clean[i] * 1.015) - 1) < 0.05;
        inside += f.row[i].ms >= p.low && f.row[i].ms <= p.high;
    }
    ck_assert_msg(close >= N / 2 * 95 / 100, "%u of %d within 5 %%", close, N / 2);
    ck_assert_msg(inside >= N / 2 * 84 / 100, "%u of %d inside an interval of 90 %%", inside, N / 2);
    optime_fit_free(&fit);
    optime_close(&f);
    free(text);
}
END_TEST

START_TEST(few_or_equal_rows_are_refused)
{
    char text[8192] = DECODE, *at = text + strlen(text);
    struct optime_file f;
    const struct optime_row *row[64];
    struct kvp_error e = {0};
    struct optime_fit fit;

    for (int i = 0; i < 40; i++)
        at += sprintf(at, "x,8,8,128,4,1023,0,bfloat16,0.0%d\n", 20 + i % 2);
    f = open_text(text);
    for (uint32_t i = 0; i < f.n; i++)
        row[i] = &f.row[i];
    ck_assert_int_eq(optime_fit(&fit, f.kind, row, FIT_LEAST_ROWS - 1, &e), KVP_OK);
    ck_assert(fit.simple);
    ck_assert_str_eq(fit.why, "too few rows");
    optime_fit_free(&fit);
    ck_assert_int_eq(optime_fit(&fit, f.kind, row, f.n, &e), KVP_OK); /* one size, forty times */
    ck_assert(fit.simple);
    ck_assert_str_eq(fit.why, "too few different sizes");
    optime_fit_free(&fit);
    optime_close(&f);
}
END_TEST

/* Far from every row the label says so. */
START_TEST(says_when_it_extrapolates)
{
    double clean[64];
    char *text = synthetic(64, clean);
    struct optime_file f = open_text(text);
    const struct optime_row *row[64];
    struct optime_row far;
    struct kvp_error e = {0};
    struct optime_prediction p;
    struct optime_fit fit;

    for (uint32_t i = 0; i < f.n; i++)
        row[i] = &f.row[i];
    ck_assert_int_eq(optime_fit(&fit, f.kind, row, f.n, &e), KVP_OK);
    optime_predict(&fit, &f.row[3], true, &p);
    ck_assert(!p.extrapolates);
    far = f.row[3];
    far.at[1] = 20;
    optime_predict(&fit, &far, true, &p);
    ck_assert(p.extrapolates);
    optime_fit_free(&fit);
    optime_close(&f);
    free(text);
}
END_TEST

static const struct {
    const char *text, *says;
} bad[] = {
    {"", "known op"},
    {"a,b,c\n1,2,3\n", "latency_ms"},
    {"a,b,latency_ms\n1,2,3\n", "known op"},
    {"m,n,k,gemm_dtype,latency_ms\n", "no rows"},
    {"m,n,k,gemm_dtype,latency_ms\n1,2,3,fp8\n", "5 columns"},
    {"m,n,k,gemm_dtype,latency_ms\n1,2,x,fp8,1\n", "line 2: k"},
    {"m,n,k,gemm_dtype,latency_ms\n0,2,3,fp8,1\n", "line 2: m"},
    {"m,n,k,gemm_dtype,latency_ms\n1,2,3,fp8,0\n", "latency_ms"},
    {"m,n,k,gemm_dtype,latency_ms\n1,2,3,fp8,inf\n", "latency_ms"},
};

START_TEST(bad_files)
{
    struct optime_file f;
    struct kvp_error e = {0};
    char path[64];

    write_file(path, sizeof(path), bad[_i].text);
    ck_assert_int_eq(optime_open(&f, path, true, &e), KVP_EINPUT);
    ck_assert_msg(strstr(e.text, bad[_i].says) || strstr(e.text, "latency_ms"), "%s", e.text);
    unlink(path);
}
END_TEST

/* Through the model's file: what it predicts for a row it was made from is near what it saw, and a row of
 * another GPU is called transferred. */
START_TEST(through_a_file)
{
    double clean[200];
    char *text = synthetic(200, clean), rows[64], model[64], line[512];
    const char *const list[] = {rows};
    struct kvp_error e = {0};
    FILE *f, *out = tmpfile();
    int n = 0, near = 0;

    write_file(rows, sizeof(rows), text);
    write_file(model, sizeof(model), "");
    f = fopen(model, "w");
    ck_assert_msg(kvp_optime_calibrate(f, list, 1, &e) == KVP_OK, "%s", e.text);
    fclose(f);
    ck_assert_msg(kvp_optime_predict(out, rows, model, &e) == KVP_OK, "%s", e.text);
    rewind(out);
    ck_assert_ptr_nonnull(fgets(line, sizeof(line), out));
    ck_assert_ptr_nonnull(strstr(line, "latency_ms,predicted_ms,low_ms,high_ms,basis"));
    while (fgets(line, sizeof(line), out)) {
        double seen, predicted;

        ck_assert_int_eq(sscanf(line, "x,%*u,%*u,%*u,%*u,%*u,%*u,bfloat16,%lf,%lf", &seen, &predicted), 2);
        ck_assert_ptr_nonnull(strstr(line, "interpolated"));
        near += fabs(predicted / seen - 1) < 0.08;
        n++;
    }
    ck_assert_int_eq(n, 200);
    ck_assert_int_ge(near, 190);
    fclose(out);
    unlink(rows);
    write_file(rows, sizeof(rows), "gpu,num_heads,num_key_value_heads,head_dim,batch_size,step,window_size,kv_cache_dtype\ny,8,8,128,4,1023,0,bfloat16\n");
    out = tmpfile();
    ck_assert_int_eq(kvp_optime_predict(out, rows, model, &e), KVP_OK);
    rewind(out);
    ck_assert_ptr_nonnull(fgets(line, sizeof(line), out));
    ck_assert_ptr_nonnull(fgets(line, sizeof(line), out));
    ck_assert_ptr_nonnull(strstr(line, ",transferred"));
    fclose(out);
    unlink(rows);
    unlink(model);
    free(text);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("op times");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, finds_the_formula_again);
    tcase_add_test(t, few_or_equal_rows_are_refused);
    tcase_add_test(t, says_when_it_extrapolates);
    tcase_add_loop_test(t, bad_files, 0, COUNT(bad));
    tcase_add_test(t, through_a_file);
    return run("calc: times of ops", &t, 1);
}
