/* Charts: what stands in the program, what gnuplot makes of it, and what is left when something fails. */
#include "plots/charts/chart.h"
#include "plots/plot.h"

#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define N(a) ((int)(sizeof(a) / sizeof((a)[0])))

static char dir[] = "/tmp/kvproof-plot.XXXXXX";
static char path[4][512]; /* files in dir: see at() */
static char home[512], search[4096];

static const char *at(int slot, const char *name)
{
    snprintf(path[slot], sizeof(path[slot]), "%s/%s", dir, name);
    return path[slot];
}

static void setup(void)
{
    ck_assert_ptr_nonnull(getcwd(home, sizeof(home)));
    snprintf(search, sizeof(search), "%s", getenv("PATH"));
    memcpy(dir + strlen(dir) - 6, "XXXXXX", 6);
    ck_assert_ptr_nonnull(mkdtemp(dir));
    signal(SIGPIPE, SIG_IGN);
}

/* How many files are in dir. */
static int files(void)
{
    DIR *d = opendir(dir);
    int n = 0;

    ck_assert_ptr_nonnull(d);
    for (struct dirent *f; (f = readdir(d)) != NULL;)
        n += f->d_name[0] != '.';
    closedir(d);
    return n;
}

static void teardown(void)
{
    DIR *d = opendir(dir);

    ck_assert_int_eq(chdir(home), 0); /* for CK_FORK=no, under valgrind */
    setenv("PATH", search, 1);
    for (struct dirent *f; d && (f = readdir(d)) != NULL;)
        unlink(at(3, f->d_name));
    if (d)
        closedir(d);
    rmdir(dir);
}

static const char *put(int slot, const char *name, const char *text)
{
    FILE *f = fopen(at(slot, name), "w");

    ck_assert_ptr_nonnull(f);
    fputs(text, f);
    ck_assert_int_eq(fclose(f), 0);
    return path[slot];
}

/* The caller frees. */
static char *get(const char *file, size_t *size)
{
    FILE *f = fopen(file, "r");
    enum { MOST = 1 << 20 };
    char *text = calloc(1, MOST);

    ck_assert_msg(f != NULL, "%s: %s", file, strerror(errno));
    ck_assert_ptr_nonnull(text);
    *size = fread(text, 1, MOST - 1, f);
    fclose(f);
    ck_assert_uint_gt(*size, 0);
    return text;
}

static const char *data(int slot, const char *name)
{
    snprintf(path[slot], sizeof(path[slot]), "%s/plots/data/%s", getenv("KVPROOF_TESTS"), name);
    return path[slot];
}

/* ---- the program ------------------------------------------------------------------------------------ */

/* tests/plots/data/validate.jsonl was written by hand: 512 B a token, 256 tokens = 131072 B = 128 KiB;
 * paged:48 measures ceil(256/48) * 48 * 512 = 147456 B, and "predicts" 24 B too many. */
static const struct {
    const char *chart, *input, *text;
    bool there;
} programs[] = {
    /* row, rest metadata peak weights state activation workspace total: predicted, then measured */
    {"memory", "validate.jsonl", "0 131072 0 131072 4000000 0 2097152 1048576 7276800 131072 0 131072 4000000 0 1572864 65536 5769472\n", true},
    {"memory", "validate.jsonl", "1 147480 24 147480 4000000 0 2097152 1048576 7293208 147456 0 147456 4000000 0 1572864 65536 5785856\n", true},
    {"memory", "validate.jsonl", "'128.00 KiB, equal to the byte'", true},
    {"memory", "validate.jsonl", "'144.00 KiB, DIFFERS by -24 B'", true},
    {"memory", "validate.jsonl", "5769472\n2 ", false}, /* the one that did not run is no bar ... */
    {"memory", "validate.jsonl", "\"not drawn: h2o + kivi (kivi + h2o: cannot evict inside a group)\"", true}, /* ... but said */
    {"memory", "validate.jsonl", "\"block=48\"", true},
    {"memory", "validate.jsonl", "\"toy_2l: memory by technique, predicted and measured\"", true},
    {"memory", "validate.jsonl", "batch 1, prompt 248 + 8 generated = context 256 · weights f32, cache f16\"", true},
    {"memory", "validate.jsonl", "\"measured on cpu: Hand Made CPU, 2 threads, random weights\"", true},
    {"memory", "validate.jsonl", "set xlabel 'cache [KiB]'", true},
    {"memory", "validate.jsonl", "set xlabel 'memory [MiB]'", true},
    /* peak of the cache = 131072 + 7309440 - 7276800 = 163712; nothing measured */
    {"memory", "estimate.json", "0 131072 0 163712 4000000 0 2097152 1048576 7309440 -1 -1 -1 -1 -1 -1 -1 -1\n", true},
    {"memory", "estimate.json", "measured on", false},
    {"memory", "estimate.json", "equal to the byte", false},
    {"memory", "estimate.json", "\"toy_2l: memory by technique, predicted\"", true},
    {"predicted-vs-measured", "validate.jsonl", "$equal << EOD\n4000000 4000000 ", true},
    {"predicted-vs-measured", "validate.jsonl", "1572864 2097152 ", true}, /* measured, predicted */
    {"predicted-vs-measured", "validate.jsonl", "7e-05 2e-05 ", true},
    {"predicted-vs-measured", "validate.jsonl", "0.06 0.05 ", true},
    {"predicted-vs-measured", "validate.jsonl", "nan", false},
    /* Rows with both sides: dense weights, rest, peak + 3 bounds, paged the same: 12, of which rest and
     * peak of paged do not hold. metadata and state of dense, state of paged: 0. metadata 24 against 0 is
     * without a place. Time: dense 4, paged 3 (one unmeasured); only 20 us against 70 us is over a factor 2. */
    {"predicted-vs-measured", "validate.jsonl", "bytes: 10 of 12 rows hold; 3 more are 0 on both sides", true},
    {"predicted-vs-measured", "validate.jsonl", "; rows without a counterpart are left out\"", true},
    {"predicted-vs-measured", "validate.jsonl", "time: 6 of 7 ops and steps within a factor of 2; ops without a counterpart are left out; basis: probed roofline | median\"", true},
    {"predicted-vs-measured", "validate.jsonl", "'1 ms' 1e-3", true},
    {"predicted-vs-measured", "validate.jsonl", "\"not drawn: h2o + kivi (kivi + h2o: cannot evict inside a group)\"", true},
};

START_TEST(program_text)
{
    const char *const input[] = {data(0, programs[_i].input)};
    struct kvp_error e = {0};
    size_t size;
    char *text;

    ck_assert_msg(kvp_plot(programs[_i].chart, input, 1, NULL, at(1, "p.gp"), &e) == KVP_OK, "%s", e.text);
    text = get(path[1], &size);
    ck_assert_msg((strstr(text, programs[_i].text) != NULL) == programs[_i].there, "%s: '%s' %s", programs[_i].chart,
                  programs[_i].text, programs[_i].there ? "is not in the program" : "is in the program");
    free(text);
    ck_assert_int_eq(files(), 1);
}
END_TEST

/* The same program, run by hand, writes the file it names. */
START_TEST(script_stands_alone)
{
    const char *const input[] = {data(0, "validate.jsonl")};
    struct kvp_error e = {0};
    char command[700];

    ck_assert_int_eq(kvp_plot("memory", input, 1, at(1, "it's here.png"), at(2, "p.gp"), &e), KVP_OK);
    ck_assert_int_eq(files(), 1);
    snprintf(command, sizeof(command), "gnuplot '%s'", path[2]);
    ck_assert_int_eq(system(command), 0);
    ck_assert_int_eq(access(path[1], R_OK), 0);
}
END_TEST

/* ---- names that mean something to gnuplot --------------------------------------------------------------- */

static const struct {
    const char *json, *quoted, *svg; /* as in JSON, in the program, and as SVG shows it */
} names[] = {
    {"it's", "\"it\\047s: ", "it's: "},
    {"a_b^c{d}", "\"a_b^c{d}: ", "a_b^c{d}: "},
    {"back\\\\nslash", "\"back\\134nslash: ", "back\\nslash: "},
    {"say \\\"hi\\\"", "\"say \\042hi\\042: ", "say \"hi\": "},
    {"a<b>&c", "\"a<b>&c: ", "a&lt;b>&amp;c: "},
    {"two\\nlines", "\"two lines: ", "two lines: "},
    {"'; set output 'x", "\"\\047; set output \\047x: ", "'; set output 'x: "},
    {"`touch pwned`", "\"\\140touch pwned\\140: ", "`touch pwned`: "},
    {"@u $bars %s", "\"\\100u \\044bars %s: ", "@u $bars %s: "},
    {"naïve", "\"naïve: ", "naïve: "},
};

static const char *with_name(int slot, const char *json)
{
    char text[2048];

    snprintf(text, sizeof(text),
             "{\"model\":{\"name\":\"%s\",\"layers\":2},\"workload\":{\"context\":8,\"prompt\":8,\"generate\":0,\"batch\":1},"
             "\"techniques\":[\"%s\"],\"memory\":{\"weights_bytes\":9,\"cache_bytes\":8,\"metadata_bytes\":1,\"state_bytes\":0,"
             "\"activation_bytes\":3,\"workspace_bytes\":2,\"total_bytes\":22,\"peak_bytes\":22}}\n", json, json);
    return put(slot, "named.jsonl", text);
}

START_TEST(escaping)
{
    const char *const input[] = {with_name(0, names[_i].json)};
    struct kvp_error e = {0};
    size_t size;
    char *text;

    ck_assert_msg(kvp_plot("memory", input, 1, NULL, at(1, "p.gp"), &e) == KVP_OK, "%s", e.text);
    text = get(path[1], &size);
    ck_assert_msg(strstr(text, names[_i].quoted) != NULL, "%s is not in the program", names[_i].quoted);
    free(text);
    ck_assert_int_eq(chdir(dir), 0);
    ck_assert_msg(kvp_plot("memory", input, 1, at(1, "p.svg"), NULL, &e) == KVP_OK, "%s", e.text);
    text = get(path[1], &size);
    ck_assert_msg(strstr(text, names[_i].svg) != NULL, "%s is not in the picture", names[_i].svg);
    free(text);
    ck_assert_int_eq(files(), 3); /* input, program, picture: nothing was touched */
}
END_TEST

/* ---- pictures ------------------------------------------------------------------------------------------- */

static const struct {
    const char *chart, *file, *magic;
    size_t n;
} pictures[] = {
    {"memory", "a.png", "\x89PNG\r\n\x1a\n", 8},
    {"memory", "a.svg", "<?xml", 5},
    {"predicted-vs-measured", "a.png", "\x89PNG\r\n\x1a\n", 8},
    {"predicted-vs-measured", "a.svg", "<?xml", 5},
};

START_TEST(picture)
{
    const char *const input[] = {data(0, "validate.jsonl")};
    struct kvp_error e = {0};
    size_t size;
    char *got;

    ck_assert_msg(kvp_plot(pictures[_i].chart, input, 1, at(1, pictures[_i].file), NULL, &e) == KVP_OK, "%s", e.text);
    got = get(path[1], &size);
    ck_assert_msg(size > 2000 && memcmp(got, pictures[_i].magic, pictures[_i].n) == 0, "%zu bytes, wrong magic", size);
    free(got);
    ck_assert_int_eq(files(), 1);
}
END_TEST

/* ---- what is refused -------------------------------------------------------------------------------------- */

#define HEAD "{\"schema\":\"kvproof-validate/1\",\"model\":{\"name\":\"m\",\"layers\":1},\"workload\":{\"context\":8,\"prompt\":8,\"generate\":0,\"batch\":1},\"techniques\":[],\"formats\":{\"weights\":\"f32\",\"kv\":\"f32\"},\"backend\":{\"name\":\"cpu\"},\"weights_from\":\"random\",\"rows\":["
#define ROW(name, kind, p, m) "{\"row\":\"" name "\",\"kind\":\"" kind "\",\"predicted\":" p ",\"measured\":" m ",\"error\":null,\"how\":\"x\"}"
#define NOTHING HEAD "],\"not_applicable\":\"why\"}\n"

static const struct {
    const char *chart, *out, *input, *says; /* input NULL: no such file */
} refused[] = {
    {"no-such-chart", "a.png", NOTHING, "unknown chart 'no-such-chart', see `kvproof list charts`"},
    {"memory", "a.pdf", NOTHING, "expected FILE.png or FILE.svg"},
    {"memory", "png", NOTHING, "expected FILE.png or FILE.svg"},
    {"memory", "a.png", NULL, "in.jsonl: cannot read: No such file"},
    {"memory", "a.png", "\n\n", "in.jsonl: no results in it"},
    {"memory", "a.png", NOTHING "{\"schema\": oops}\n", "in.jsonl:2: not JSON"},
    {"memory", "a.png", NOTHING "\n" NOTHING "garbage\n", "in.jsonl:4: not JSON"},
    {"memory", "a.png", "{\n\"schema\": 1,\n\"schema\": }\n", "in.jsonl:3: not JSON"},
    {"memory", "a.png", NOTHING "[17]\n", "in.jsonl:2: expected a result of `kvproof validate -o jsonl` or `kvproof estimate"},
    {"memory", "a.png", "{\"schema\":\"kvproof-validate/9\"}\n", "in.jsonl:1: expected a result of"},
    {"predicted-vs-measured", "a.png", "{\"memory\":{}}\n", "in.jsonl:1: expected a result of `kvproof validate -o jsonl`"},
    {"memory", "a.png", "{\"memory\":{}}\n", "in.jsonl:1: model is missing, expected an object"},
    {"memory", "a.png", HEAD "{}]}\n", "in.jsonl:1: rows[0].row: expected a string"},
    {"memory", "a.png", HEAD ROW("x", "apples", "1", "1") "]}\n", "in.jsonl:1: rows[0].kind 'apples': expected bytes, bound, count, share, flops or time"},
    {"memory", "a.png", HEAD ROW("x", "bytes", "\"1\"", "1") "]}\n", "in.jsonl:1: rows[0].predicted: expected a number or null"},
    {"memory", "a.png", HEAD ROW("weights", "bytes", "1", "1") "]}\n", "in.jsonl:1: no row 'cache at rest' with a predicted number"},
    {"memory", "a.png", NOTHING, "memory: nothing to draw, none of the 1 results has rows"},
    {"predicted-vs-measured", "a.png", HEAD ROW("x", "time", "1", "null") "]}\n", "predicted-vs-measured: nothing to draw"},
};

START_TEST(refuses)
{
    const char *const input[] = {at(0, "in.jsonl")};
    struct kvp_error e = {0};

    if (refused[_i].input)
        put(0, "in.jsonl", refused[_i].input);
    ck_assert_int_eq(kvp_plot(refused[_i].chart, input, 1, at(1, refused[_i].out), NULL, &e), KVP_EINPUT);
    ck_assert_msg(strstr(e.text, refused[_i].says) != NULL, "said '%s', expected '%s'", e.text, refused[_i].says);
    ck_assert_msg(!strchr(e.text, '\n'), "more than one line");
    ck_assert_int_eq(files(), refused[_i].input != NULL);
}
END_TEST

START_TEST(refuses_no_target)
{
    const char *const input[] = {data(0, "validate.jsonl")};
    struct kvp_error e = {0};

    ck_assert_int_eq(kvp_plot("memory", input, 1, NULL, NULL, &e), KVP_EINPUT);
}
END_TEST

/* ---- when gnuplot is the one that fails ------------------------------------------------------------------- */

static const struct {
    const char *gnuplot, *says; /* a script in its place, NULL: none */
} broken[] = {
    {NULL, "gnuplot does not start"},
    {"#!/bin/sh\nwhile read -r x; do :; done\nprintf '\\n   ^\\nline 3: no such terminal\\nmore\\n' >&2\nexit 1\n", "gnuplot refused the chart: line 3: no such terminal"},
    {"#!/bin/sh\nexit 1\n", "gnuplot refused the chart: it said nothing"},
    {"#!/bin/sh\nwhile read -r x; do :; done\necho half a picture\nkill -9 $$\n", "gnuplot refused the chart"},
};

START_TEST(gnuplot_fails)
{
    const char *const input[] = {data(0, "validate.jsonl")};
    struct kvp_error e = {0};
    size_t size;
    char *old;

    put(1, "a.png", "the old picture");
    if (broken[_i].gnuplot)
        ck_assert_int_eq(chmod(put(2, "gnuplot", broken[_i].gnuplot), 0755), 0);
    setenv("PATH", dir, 1);
    ck_assert_int_eq(kvp_plot("memory", input, 1, path[1], NULL, &e), KVP_ESYS);
    ck_assert_msg(strstr(e.text, broken[_i].says) != NULL, "said '%s', expected '%s'", e.text, broken[_i].says);
    old = get(path[1], &size);
    ck_assert_str_eq(old, "the old picture");
    free(old);
    ck_assert_int_eq(files(), 1 + (broken[_i].gnuplot != NULL));
}
END_TEST

START_TEST(nowhere_to_write)
{
    const char *const input[] = {data(0, "validate.jsonl")};
    struct kvp_error e = {0};

    ck_assert_int_eq(kvp_plot("memory", input, 1, at(1, "none/a.png"), NULL, &e), KVP_ESYS);
    ck_assert_ptr_nonnull(strstr(e.text, "none/a.png"));
    ck_assert_int_eq(files(), 0);
}
END_TEST

/* ---- the tables -------------------------------------------------------------------------------------------- */

START_TEST(chart_table)
{
    const char *row[3];
    uint32_t i = 0;

    for (const struct chart *const *c = kvp_charts; *c; c++) {
        ck_assert(kvp_chart_at(i++, row));
        ck_assert_str_eq(row[0], (*c)->name);
        ck_assert_str_eq(row[1], (*c)->reads);
        ck_assert_str_eq(row[2], (*c)->summary);
        ck_assert_msg((*c)->kinds && (*c)->draw, "%s: nothing to read or no way to draw", (*c)->name);
        for (const struct chart *const *d = kvp_charts; d != c; d++)
            ck_assert_str_ne((*c)->name, (*d)->name);
    }
    ck_assert(!kvp_chart_at(i, row));
}
END_TEST

static const struct {
    double bytes;
    const char *text;
} sizes[] = {{0, "0 B"}, {1023, "1023 B"}, {1024, "1.00 KiB"}, {0x1p20 - 1024, "1023.00 KiB"}, {0x1p31, "2.00 GiB"},
             {1.5 * 0x1p20, "1.50 MiB"}};

START_TEST(byte_text)
{
    char buf[32];

    gp_bytes(sizes[_i].bytes, buf, sizeof(buf));
    ck_assert_str_eq(buf, sizes[_i].text);
}
END_TEST

/* `-o json` of several results is one list over many lines; of one, an object. Both are read. */
START_TEST(reads_json_and_lines)
{
    const char *const inputs[] = {data(0, "validate.jsonl"), data(1, "estimate.json"),
                                  put(2, "list.json", "[\n" NOTHING ",\n" NOTHING "]\n")};
    struct kvp_error e = {0};
    struct results r;
    char name[64];

    ck_assert_msg(results_load(&r, inputs, N(inputs), RESULTS_VALIDATE | RESULTS_ESTIMATE, &e) == KVP_OK, "%s", e.text);
    ck_assert_uint_eq(r.n, 3 + 1 + 2);
    result_techniques(json_array_get(r.array, 0), false, name, sizeof(name));
    ck_assert_str_eq(name, "dense");
    result_techniques(json_array_get(r.array, 2), false, name, sizeof(name));
    ck_assert_str_eq(name, "h2o:heavy=4,recent=4 + kivi:bits=2,group=32,residual=128");
    result_techniques(json_array_get(r.array, 2), true, name, sizeof(name));
    ck_assert_str_eq(name, "h2o + kivi");
    ck_assert(result_number(result_row(json_array_get(r.array, 1), "cache at rest"), "measured") == 147456);
    ck_assert(result_number(result_row(json_array_get(r.array, 1), "decode attention"), "measured") == -1);
    ck_assert_ptr_null(result_row(json_array_get(r.array, 1), "no such row"));
    ck_assert_int_eq(result_kind(json_array_get(r.array, 3)), RESULTS_ESTIMATE);
    results_free(&r);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("plots");
    TCase *tc = tcase_create("charts");
    SRunner *sr = srunner_create(s);
    int failures;

    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, program_text, 0, N(programs));
    tcase_add_test(tc, script_stands_alone);
    tcase_add_loop_test(tc, escaping, 0, N(names));
    tcase_add_loop_test(tc, picture, 0, N(pictures));
    tcase_add_loop_test(tc, refuses, 0, N(refused));
    tcase_add_test(tc, refuses_no_target);
    tcase_add_loop_test(tc, gnuplot_fails, 0, N(broken));
    tcase_add_test(tc, nowhere_to_write);
    tcase_add_test(tc, chart_table);
    tcase_add_loop_test(tc, byte_text, 0, N(sizes));
    tcase_add_test(tc, reads_json_and_lines);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failures = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failures != 0;
}
