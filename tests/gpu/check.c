/* check.c - every CUDA kernel against the plain reference, on fresh random operands
 *
 * check [--rounds N] [--seed N] [--tiny] [--quiet] [KERNEL...]
 * check --logits GOT WANT
 * One JSON object a case on stdout (--quiet: only cases that fail), then "N passed, N failed". Exit 0, 1
 * when a case fails, 77 when there is no CUDA device. The seed is in every line: --seed repeats a run.
 * --logits: two files of f32 values; prints the largest difference over the largest magnitude of WANT, exit 1
 * when it is 1e-3 or more, or when they have not the same length. */
#include "tests/gpu/cases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct options {
    uint64_t rounds, seed;
    bool tiny, quiet;
    char **kernels;
    int n_kernels;
};

static const struct {
    const char *name;
    void (*run)(struct lab *l);
} cases[] = {
#define KB_X(sym, name) {#name, case_##name},
    KB_DEVICE_KERNEL_MAP(KB_X)
#undef KB_X
};

static unsigned passed, failed;

static void report(const struct options *o, const struct lab *l, const char *name)
{
    const bool ok = !l->fault[0];

    passed += ok;
    failed += !ok;
    if (!ok || !o->quiet)
        printf("{\"kernel\": \"%s\", \"shape\": \"%s\", \"seed\": %llu, \"error_of_tolerance\": %.3g, \"ok\": %s%s%s%s}\n", name,
               l->shape, (unsigned long long)o->seed, l->worst > 1e300 ? 1e300 : l->worst, ok ? "true" : "false",
               ok ? "" : ", \"fault\": \"", l->fault, ok ? "" : "\"");
}

/* ---- the device itself -------------------------------------------------------------------------- */

static const char *check_memory(struct lab *l)
{
    const struct lab_device *d = &l->dev;
    struct kb_buf *huge = NULL;
    struct kvp_error e = {0};
    uint8_t in[300], out[300];
    kvp_err rc;

    for (size_t i = 0; i < sizeof(in); i++)
        in[i] = (uint8_t)lab_below(l, 256);
    if (d->be->write(d->dev, (struct kb_span){d->buf, 77}, in, sizeof(in), &e) != KVP_OK ||
        d->be->copy(d->dev, (struct kb_span){d->buf, 1001}, (struct kb_span){d->buf, 77}, sizeof(in), &e) != KVP_OK ||
        d->be->fill(d->dev, (struct kb_span){d->buf, 1001}, 0x5a, 10, &e) != KVP_OK ||
        d->be->read(d->dev, (struct kb_span){d->buf, 1001}, out, sizeof(out), &e) != KVP_OK)
        return "write, copy, fill or read failed";
    memset(in, 0x5a, 10);
    if (memcmp(in, out, sizeof(in)) != 0)
        return "write, copy, fill and read give other bytes";
    rc = d->be->alloc(d->dev, (uint64_t)1 << 46, &huge, &e);
    if (rc != KVP_ENOMEM)
        return "64 TiB are not answered with KVP_ENOMEM";
    e = (struct kvp_error){0};
    if (d->be->sync(d->dev, &e) != KVP_OK)
        return "a failed allocation stays behind as an error";
    return "";
}

static const char *check_clock(struct lab *l)
{
    const struct lab_device *d = &l->dev;
    struct kvp_error e = {0};
    uint64_t last = 0;

    for (int i = 0; i < 20; i++) {
        uint64_t now = 0;

        if (d->be->fill(d->dev, (struct kb_span){d->buf, 0}, i, 1 << 20, &e) != KVP_OK || d->be->now(d->dev, &now, &e) != KVP_OK)
            return "now failed";
        if (now < last || (i > 0 && now == last))
            return "the clock does not move over a fill of 1 MiB";
        last = now;
    }
    return "";
}

/* A captured step must run when replayed, and only then. */
static const char *check_graph(struct lab *l)
{
    const struct lab_device *d = &l->dev;
    const struct kb_act a = {.rows = 1, .width = 4, .kind = KB_ACT_RELU, .in_stride = 4, .out_stride = 4,
                             .in = {d->buf, 0}, .out = {d->buf, 64}};
    const float in[4] = {-1, 2, -3, 4}, want[4] = {0, 2, 0, 4}, before[4] = {9, 9, 9, 9};
    float out[4];
    struct kvp_error e = {0};

    if (!d->be->graph_begin)
        return "";
    if (d->be->write(d->dev, a.in, in, sizeof(in), &e) != KVP_OK || d->be->write(d->dev, a.out, before, sizeof(before), &e) != KVP_OK ||
        d->be->graph_begin(d->dev, &e) != KVP_OK || d->be->run(d->dev, KB_ACT, &a, &e) != KVP_OK ||
        d->be->graph_end(d->dev, &e) != KVP_OK || d->be->read(d->dev, a.out, out, sizeof(out), &e) != KVP_OK)
        return "capture failed";
    if (memcmp(out, before, sizeof(out)) != 0)
        return "a captured kernel ran before it was replayed";
    if (d->be->graph_replay(d->dev, &e) != KVP_OK || d->be->read(d->dev, a.out, out, sizeof(out), &e) != KVP_OK)
        return "replay failed";
    return memcmp(out, want, sizeof(out)) == 0 ? "" : "a replayed kernel gives other values";
}

static const struct {
    const char *name;
    const char *(*run)(struct lab *l);
} device_checks[] = {{"memory", check_memory}, {"clock", check_clock}, {"graph", check_graph}};

/* ---- logits ------------------------------------------------------------------------------------- */

static int compare_logits(const char *got, const char *want)
{
    FILE *a = fopen(got, "rb"), *b = fopen(want, "rb");
    double largest = 0, worst = 0;
    float x, y;
    size_t n = 0, m = 0;

    while (a && b) {
        n += fread(&x, sizeof(x), 1, a);
        m += fread(&y, sizeof(y), 1, b);
        if (n != m || feof(a) || feof(b) || ferror(a) || ferror(b))
            break;
        const double off = fabs((double)x - (double)y);

        largest = fmax(largest, fabs((double)y));
        worst = isnan(worst) || off <= worst ? worst : off; /* a NaN is kept */
    }
    if (!a || !b || n != m || n == 0) {
        printf("%s and %s have not the same number of values\n", got, want);
        worst = NAN;
    } else {
        printf("%.2e\n", worst / largest);
    }
    if (a)
        fclose(a);
    if (b)
        fclose(b);
    return worst / largest < 1e-3 ? 0 : 1;
}

/* ---- main --------------------------------------------------------------------------------------- */

static bool chosen(const struct options *o, const char *name)
{
    for (int i = 0; i < o->n_kernels; i++)
        if (strcmp(o->kernels[i], name) == 0)
            return true;
    return o->n_kernels == 0;
}

static void run_all(const struct options *o, struct lab *l)
{
    for (size_t i = 0; i < sizeof(device_checks) / sizeof(device_checks[0]); i++)
        if (chosen(o, device_checks[i].name)) {
            lab_begin(l);
            snprintf(l->fault, sizeof(l->fault), "%s", device_checks[i].run(l));
            report(o, l, device_checks[i].name);
        }
    for (uint64_t round = 0; round < o->rounds; round++)
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
            if (chosen(o, cases[i].name)) {
                lab_begin(l);
                cases[i].run(l);
                report(o, l, cases[i].name);
            }
}

static bool parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){.rounds = 20, .seed = (uint64_t)time(NULL)};
    for (int i = 1; i < argc; i++) {
        uint64_t *number = strcmp(argv[i], "--rounds") == 0 ? &o->rounds : strcmp(argv[i], "--seed") == 0 ? &o->seed : NULL;

        if (number && i + 1 < argc)
            *number = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--tiny") == 0)
            o->tiny = true;
        else if (strcmp(argv[i], "--quiet") == 0)
            o->quiet = true;
        else if (argv[i][0] == '-')
            return false;
        else {
            o->kernels = argv + i;
            o->n_kernels = argc - i;
            return true;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    struct kvp_error e = {0};
    struct options o;
    struct lab l;
    kvp_err rc;

    if (argc == 4 && strcmp(argv[1], "--logits") == 0)
        return compare_logits(argv[2], argv[3]);
    if (!parse(&o, argc, argv)) {
        fprintf(stderr, "usage: check [--rounds N] [--seed N] [--tiny] [--quiet] [KERNEL...] | --logits GOT WANT\n");
        return 2;
    }
    rc = lab_open(&l, "cuda", o.seed, &e);
    l.tiny = o.tiny;
    if (rc == KVP_OK)
        run_all(&o, &l);
    lab_close(&l);
    if (rc != KVP_OK) {
        fprintf(stderr, "skipped: %s\n", e.text);
        return rc == KVP_ENOTSUP ? 77 : 1;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed != 0;
}
