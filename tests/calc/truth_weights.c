/* truth_weights.c - tests/truth/weights.csv: what other people's checkpoints hold, against the config. Rows whose
 * config is not supported yet are counted and skipped; so are rows with also_stored, which need a by-hand sum. */
#include "tests/calc/calc_test.h"

#include <stdio.h>

enum { COLUMNS = 6 };

static void split(char *line, char *col[COLUMNS])
{
    for (int i = 0; i < COLUMNS; i++) {
        col[i] = line;
        line += strcspn(line, ",\n");
        if (*line)
            *line++ = 0;
    }
}

static int wrong;

/* 1 checked, 0 skipped; every row that differs is printed before the test fails. */
static int check_row(char *col[COLUMNS])
{
    const bool params = strcmp(col[2], "params") == 0, bytes = strcmp(col[2], "total_size") == 0;
    struct kvp_options o = {.weights_given = *col[4] != 0, .with_mtp = true, .with_vision = true};
    const uint64_t want = strtoull(col[3], NULL, 10);
    struct kvp_estimate est;
    struct kvp_error e = {0};
    struct kvp_model m;
    char path[512];
    uint64_t got;

    if ((!params && !bytes) || *col[5])
        return 0;
    o.weights = strcmp(col[4], "float32") == 0 ? KVP_F32 : strcmp(col[4], "float16") == 0 ? KVP_F16 : KVP_BF16;
    snprintf(path, sizeof(path), "%s/configs/%s", getenv("KVPROOF_TESTS"), col[0]);
    if (kvp_model_load(&m, path, &e) != KVP_OK)
        return 0;
    est = estimate_of(&m, "", (struct kvp_workload){.context = 1}, o);
    got = params ? est.parameters : est.memory.weights_bytes;
    if (got != want) {
        printf("%s: %s %" PRIu64 ", the checkpoint has %" PRIu64 "\n", col[0], col[2], got, want);
        wrong++;
    }
    kvp_estimate_free(&est);
    kvp_model_free(&m);
    return 1;
}

START_TEST(checkpoints)
{
    char path[512], line[4096], *col[COLUMNS];
    int checked = 0, rows = 0;
    FILE *f;

    snprintf(path, sizeof(path), "%s/truth/weights.csv", getenv("KVPROOF_TESTS"));
    f = fopen(path, "r");
    ck_assert_msg(f != NULL, "%s: cannot be opened", path);
    ck_assert(fgets(line, sizeof(line), f) != NULL);
    while (fgets(line, sizeof(line), f)) {
        split(line, col);
        rows++;
        checked += check_row(col);
    }
    fclose(f);
    printf("weights.csv: %d of %d rows checked\n", checked, rows);
    fflush(stdout);
    ck_assert_int_gt(checked, 0);
    ck_assert_msg(wrong == 0, "%d of %d rows differ", wrong, checked);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("truth_weights");

    tcase_add_test(t, checkpoints);
    return run("truth_weights", (TCase *const[]){t}, 1);
}
