/* fuzz_result.c - any bytes as a file of results: refused in one line, or results that print in every form, that are the
 * same results when they are read again, and that charts draw or refuse. */
#include "tests/fuzz/fuzz.h"

#include "plots/charts/chart.h"
#include "validate/result.h"

#include <sys/mman.h>
#include <unistd.h>

enum { ANY = RESULTS_VALIDATE | RESULTS_ESTIMATE | RESULTS_SERVE };

/* Readers take names of files; this one has no place on a disk. */
static kvp_err load(struct results *r, const void *data, size_t size, int kinds, struct kvp_error *e)
{
    char path[32];
    const char *const paths[] = {path};
    const int fd = memfd_create("result", 0);
    kvp_err rc;

    FUZZ_HOLDS(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    rc = results_load(r, paths, 1, kinds, e);
    close(fd);
    return rc;
}

static void print(const struct results *r, const char *format, char **text, size_t *size)
{
    struct kvp_error e = {0};
    FILE *f = open_memstream(text, size);

    FUZZ_HOLDS(f != NULL);
    FUZZ_HOLDS(res_print(f, format, r->array, &e) == KVP_OK);
    fclose(f);
}

/* Numbers are printed with all their digits: the same results come back. */
static void check_prints(const struct results *r)
{
    static const char *const formats[] = {"table", "md", "csv", "json", "jsonl"};

    for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        char *text = NULL;
        size_t size = 0;
        struct results again;
        struct kvp_error e = {0};

        print(r, formats[i], &text, &size);
        if (strncmp(formats[i], "json", 4) == 0) {
            FUZZ_HOLDS(load(&again, text, size, RESULTS_VALIDATE | RESULTS_SERVE, &e) == KVP_OK);
            FUZZ_HOLDS(json_equal(again.array, r->array));
            results_free(&again);
        }
        free(text);
    }
    for (size_t i = 0; i < r->n; i++) {
        (void)res_bytes_agree(json_array_get(r->array, i));
        (void)res_time_error(json_array_get(r->array, i));
    }
}

static void check_chart(const struct chart *c, const uint8_t *data, size_t size)
{
    static const struct gp_target target = {.terminal = "svg", .mark = 1, .file = "a.svg"};
    struct kvp_error e = {0};
    struct results r;
    char *text = NULL;
    size_t n = 0;
    struct gp g = {.target = &target};
    kvp_err rc;

    if (load(&r, data, size, c->kinds, &e) != KVP_OK)
        return;
    g.f = open_memstream(&text, &n);
    FUZZ_HOLDS(g.f != NULL);
    rc = c->draw(&g, &r, &e);
    fclose(g.f);
    if (rc != KVP_OK)
        fuzz_check_error(rc, &e);
    else
        FUZZ_HOLDS(n > 0 && strlen(text) == n);
    free(text);
    results_free(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvp_error e = {0};
    struct results r;
    kvp_err rc = load(&r, data, size, ANY, &e);

    if (rc != KVP_OK) {
        fuzz_check_error(rc, &e);
        return 0;
    }
    FUZZ_HOLDS(r.n == json_array_size(r.array) && r.n > 0);
    results_free(&r);
    for (const struct chart *const *c = kvp_charts; *c; c++)
        check_chart(*c, data, size);
    if (load(&r, data, size, RESULTS_VALIDATE | RESULTS_SERVE, &e) == KVP_OK) {
        check_prints(&r);
        results_free(&r);
    }
    return 0;
}
