/* truth_transformers.c - tests/truth/transformers.csv: the elements that transformers' own class makes of a config,
 * against ours: every row.
 *
 * A row is the class of architectures[0] (else the auto class of the model_type) built from the config under
 * torch.device("meta"), which allocates nothing: named_parameters() and the buffers that a checkpoint holds, each once
 * when tied. parameters leaves out what stands under a tower's or a projector's name, which is `tower` (blank: the
 * class fills in a tower that the config does not describe). quantization_config was taken away there and is here.
 * read_with: keys that this class spells otherwise, or that the copy of the file leaves out. stored: what the
 * checkpoint holds where it is not what the class makes, with the reason in remark. */
#include "tests/calc/calc_test.h"

#include "calc/json.h"

enum { COLUMNS = 8, ROWS = 405 };
enum { FILE_NAME, CLASS, PARAMETERS, TOWER, VERSION, READ_WITH, STORED, REMARK };

static void split(char *line, char *col[COLUMNS])
{
    for (int i = 0; i < COLUMNS; i++) {
        const bool quoted = *line == '"';
        char *end;

        line += quoted;
        col[i] = line;
        end = line + strcspn(line, quoted ? "\"" : ",\n");
        line = end + quoted + (end[quoted] == ',');
        *end = 0;
    }
}

static void as_plain(json_t *part)
{
    const char *key;
    json_t *v;

    json_object_del(part, "quantization_config");
    json_object_del(part, "quantization");
    json_object_foreach(part, key, v)
        if (json_is_object(v))
            as_plain(v);
}

/* tests/... and data/... are where the environment says. */
static void load_plain(struct kvp_model *m, const char *file)
{
    const bool data = strncmp(file, "data/", 5) == 0;
    const char *root = getenv(data ? "KVPROOF_DATA" : "KVPROOF_TESTS");
    struct kvp_error e = {0};
    char path[512], *text = NULL;
    json_t *config;
    size_t len;

    snprintf(path, sizeof(path), "%s/%s", root ? root : data ? "data" : "tests", strchr(file, '/') + 1);
    ck_assert_msg(kvp_json_read_file(&text, &len, path, &e) == KVP_OK && kvp_json_parse(&config, text, len, path, &e) == KVP_OK, "%s", e.text);
    free(text);
    as_plain(config);
    text = json_dumps(config, 0);
    ck_assert_msg(kvp_model_parse(m, text, strlen(text), file, &e) == KVP_OK, "%s", e.text);
    free(text);
    json_decref(config);
}

static uint64_t count(const struct kvp_model *m, bool vision)
{
    struct kvp_estimate est = estimate_of(m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){.with_vision = vision});
    const uint64_t n = est.parameters;

    kvp_estimate_free(&est);
    return n;
}

static int wrong;

static void agree(const char *file, const char *what, uint64_t ours, uint64_t theirs)
{
    if (ours == theirs)
        return;
    printf("%s: %s %" PRIu64 ", transformers %" PRIu64 "\n", file, what, ours, theirs);
    wrong++;
}

static void check_row(char *const *col)
{
    const uint64_t text = strtoull(col[*col[STORED] ? STORED : PARAMETERS], NULL, 10);
    struct kvp_model m;

    ck_assert_msg(!*col[STORED] || *col[REMARK], "%s: stored without a reason", col[FILE_NAME]);
    load_plain(&m, col[FILE_NAME]);
    agree(col[FILE_NAME], "parameters", count(&m, false), text);
    if (*col[TOWER])
        agree(col[FILE_NAME], "with its tower", count(&m, true), text + strtoull(col[TOWER], NULL, 10));
    kvp_model_free(&m);
}

START_TEST(every_row)
{
    char path[512], line[4096];
    const char *tests = getenv("KVPROOF_TESTS");
    int rows = 0;
    FILE *f;

    snprintf(path, sizeof(path), "%s/truth/transformers.csv", tests ? tests : "tests");
    f = fopen(path, "r");
    ck_assert_msg(f != NULL, "%s: cannot be opened", path);
    ck_assert(fgets(line, sizeof(line), f) != NULL);
    while (fgets(line, sizeof(line), f)) {
        char *col[COLUMNS];

        split(line, col);
        check_row(col);
        rows++;
    }
    fclose(f);
    fflush(stdout);
    ck_assert_int_eq(rows, ROWS);
    ck_assert_msg(wrong == 0, "%d of %d rows differ", wrong, rows);
}
END_TEST

/* A tower that a config does not describe is refused by name, not counted as nothing. */
START_TEST(unknown_towers)
{
    static const char *const files[] = {"tests/configs/unsure/llama4/meta-llama__Llama-4-Scout-17B-16E-Instruct.json",
                                        "tests/configs/unsure/step/stepfun-ai__Step-3.7-Flash.json"};

    for (size_t i = 0; i < COUNT(files); i++) {
        struct kvp_estimate est;
        struct kvp_model m;

        load_plain(&m, files[i]);
        ck_assert_int_eq(try_estimate(&est, &m, "", (struct kvp_workload){.context = 1}, (struct kvp_options){.with_vision = true}, NULL), KVP_ENOTSUP);
        ck_assert_msg(strstr(test_error.text, "--with-vision") != NULL, "%s", test_error.text);
        kvp_model_free(&m);
    }
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("counts of transformers' classes");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_row);
    tcase_add_test(t, unknown_towers);
    return run("calc: counts of transformers' classes", (TCase *const[]){t}, 1);
}
