/* The documentation is held to the program: every option in the man page, every technique on a page of its
 * own with its parameters, and every worked number what the program says. */
#include <kvproof/kvproof.h>

#include <check.h>
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *root(const char *file)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/../%s", getenv("KVPROOF_TESTS"), file);
    return path;
}

/* All of a stream; the caller frees. */
static char *slurp(FILE *f, const char *what)
{
    enum { MOST = 1 << 18 };
    char *text = calloc(1, MOST);

    ck_assert_msg(f != NULL, "%s: cannot read", what);
    ck_assert_ptr_nonnull(text);
    ck_assert_msg(fread(text, 1, MOST - 1, f) > 0, "%s: empty", what);
    return text;
}

static char *file_text(const char *file)
{
    FILE *f = fopen(root(file), "r");
    char *text = slurp(f, file);

    fclose(f);
    return text;
}

static char *output(const char *arguments)
{
    char command[1024];
    FILE *f;
    char *text;

    snprintf(command, sizeof(command), "'%s' %s", getenv("KVPROOF"), arguments);
    f = popen(command, "r");
    text = slurp(f, arguments);
    ck_assert_msg(pclose(f) == 0, "kvproof %s failed", arguments);
    return text;
}

/* Is `word` in text, not as the beginning of a longer one? */
static bool has_word(const char *text, const char *word)
{
    const size_t n = strlen(word);

    for (const char *p = text; (p = strstr(p, word)) != NULL; p += n)
        if (!isalnum((unsigned char)p[n]) && p[n] != '-' && p[n] != '_')
            return true;
    return false;
}

static const char *const commands[] = {"estimate", "validate", "serve", "sweep", "fit", "compare", "calibrate", "predict-ops", "show", "plot", "list"};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

/* "--context TOKENS ...", then perhaps "also: max-model-len ctx-size". */
START_TEST(options_in_man_page)
{
    char arguments[64], word[64] = "-";
    char *man = file_text("docs/kvproof.1"), *help, *line, *rest;
    int options = 0;

    snprintf(arguments, sizeof(arguments), "%s --help", commands[_i]);
    help = output(arguments);
    ck_assert_msg(has_word(man, commands[_i]), "%s is not in the man page", commands[_i]);
    for (line = strtok_r(help, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        const char *also = strstr(line, " also: "), *option = strncmp(line, "  ", 2) == 0 ? strstr(line, "--") : NULL;

        if (also) {
            char *end, *names = strdup(also + 7);

            for (char *name = strtok_r(names, " ", &end); name; name = strtok_r(NULL, " ", &end)) {
                snprintf(word + 1, sizeof(word) - 1, "%s", name);
                ck_assert_msg(has_word(man, word), "--%s is not in the man page", name);
            }
            free(names);
        } else if (option && option < line + 9) {
            snprintf(word + 1, sizeof(word) - 1, "%.*s", (int)strcspn(option + 2, " ="), option + 2);
            ck_assert_msg(has_word(man, word), "-%s is not in the man page", word);
            options++;
        }
    }
    ck_assert_int_ge(options, 2); /* at least --help and one more: the help was understood */
    free(help);
    free(man);
}
END_TEST

/* And the other way around: what the man page calls an option (after Fl, until Ar, Cm or No) some command has. */
START_TEST(man_page_in_options)
{
    enum { MOST = 1 << 18 };
    char *man = file_text("docs/kvproof.1"), *helps = calloc(1, MOST), *line, *rest, arguments[64];
    int options = 0;

    for (int i = 0; i < N_COMMANDS; i++) {
        char *help;

        snprintf(arguments, sizeof(arguments), "%s --help", commands[i]);
        help = output(arguments);
        ck_assert(strlen(helps) + strlen(help) < MOST);
        strcat(helps, help);
        free(help);
    }
    for (line = strtok_r(man, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *end, *at = strstr(line, "Fl ");

        for (char *word = at ? strtok_r(at + 3, " ", &end) : NULL; word; word = strtok_r(NULL, " ", &end)) {
            char option[64];

            if (strcmp(word, "Ar") == 0 || strcmp(word, "Cm") == 0 || strcmp(word, "No") == 0)
                break;
            if (!isalnum((unsigned char)word[strspn(word, "-")]))
                continue;
            snprintf(option, sizeof(option), "-%s", word);
            ck_assert_msg(has_word(helps, option) || has_word(helps, word + 1), "%s is in the man page, and no command has it", option);
            options++;
        }
    }
    ck_assert_int_gt(options, 60);
    free(helps);
    free(man);
}
END_TEST

/* Every path in backquotes below "## Files" is there; names without a folder follow one that has it. */
static void files_exist(const char *name, const char *page)
{
    const char *p = strstr(page, "## Files");

    while (p && (p = strchr(p, '`')) != NULL) {
        const size_t n = strcspn(++p, "`");
        char file[128];

        snprintf(file, sizeof(file), "%.*s", (int)n, p);
        p += n + (p[n] == '`');
        if (strchr(file, '/'))
            ck_assert_msg(access(root(file), R_OK) == 0, "%s: there is no %s", name, file);
    }
}

/* What `serve` prints is explained, row by row, and so is what its traces may have. */
START_TEST(serving_page)
{
    static const char *const columns[] = {"timestamp", "input_length", "output_length", "hash_ids", "hash_block", "arrival", "prompt", "output",
                                          "prefix", "prefix_id", "TIMESTAMP", "ContextTokens", "GeneratedTokens", "requests", "rate",
                                          "prefixes", "zipf"};
    char *page = file_text("docs/serving.md"), *csv, *rest, arguments[640];
    int rows = 0;

    for (size_t i = 0; i < sizeof(columns) / sizeof(columns[0]); i++)
        ck_assert_msg(has_word(page, columns[i]), "docs/serving.md: no %s", columns[i]);
    snprintf(arguments, sizeof(arguments), "serve '%s' --synthetic requests=2,prompt=4,output=2 -o csv", root("tests/golden/llama-gqa"));
    csv = output(arguments);
    strtok_r(csv, "\n", &rest); /* the header */
    for (char *line = strtok_r(NULL, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest), rows++) {
        char *row = strstr(line, "\","), *end;

        for (int k = 0; k < 3; k++) /* after the stack: context, batch */
            row = strchr(row, ',') + 1;
        end = strchr(row, ',');
        *end = '\0';
        ck_assert_msg(strstr(page, row) != NULL, "docs/serving.md: no row '%s'", row);
    }
    ck_assert_int_eq(rows, 18);
    free(csv);
    free(page);
}
END_TEST

START_TEST(technique_pages)
{
    char *man = file_text("docs/kvproof.1"), *readme = file_text("README.md");
    const struct kvp_technique_info *t;
    uint32_t i;

    for (i = 0; (t = kvp_technique_at(i)); i++) {
        static const char *const headings[] = {"## Stored",        "### To the byte", "## Steps",
                                               "## Composes with", "## Sources",      "## Pitfalls", "## Files"};
        char name[128], *page, *keys = strdup(t->params), *rest;

        snprintf(name, sizeof(name), "docs/techniques/%s.md", t->name);
        page = file_text(name);
        for (size_t k = 0; k < sizeof(headings) / sizeof(headings[0]); k++)
            ck_assert_msg(strstr(page, headings[k]) != NULL, "%s: no '%s'", name, headings[k]);
        files_exist(name, page);
        ck_assert_msg(strstr(readme, name) != NULL, "README.md: %s is not linked", name);
        ck_assert_msg(has_word(man, t->name), "%s is not in the man page", t->name);
        for (char *key = strtok_r(keys, ",", &rest); key; key = strtok_r(NULL, ",", &rest)) {
            key[strcspn(key, "=")] = '\0';
            ck_assert_msg(has_word(page, key), "%s: parameter %s is missing", name, key);
            ck_assert_msg(has_word(man, key), "%s's parameter %s is not in the man page", t->name, key);
        }
        free(keys);
        free(page);
    }
    ck_assert_uint_ge(i, 7);
    free(readme);
    free(man);
}
END_TEST

/* Lines "| `estimate MODEL ...` ... | arithmetic | CACHE BYTES |". */
static int check_examples(char *page)
{
    char *line, *rest;
    int n = 0;

    for (line = strtok_r(page, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char arguments[512], expected[64];
        const char *number = strrchr(line, '|');
        char *json;

        if (strncmp(line, "| `estimate ", 12) != 0)
            continue;
        while (number > line && !isdigit((unsigned char)*number))
            number--;
        while (number > line && isdigit((unsigned char)number[-1]))
            number--;
        snprintf(arguments, sizeof(arguments), "%.*s -o json", (int)strcspn(line + 3, "`"), line + 3);
        snprintf(expected, sizeof(expected), "\"cache_bytes\": %.*s,", (int)strspn(number, "0123456789"), number);
        json = output(arguments);
        ck_assert_msg(strstr(json, expected) != NULL, "kvproof %s: not %s", arguments, expected);
        free(json);
        n++;
    }
    return n;
}

START_TEST(worked_numbers)
{
    const struct kvp_technique_info *t;
    int n = 0;

    for (uint32_t i = 0; (t = kvp_technique_at(i)); i++) {
        char name[128], *page;

        snprintf(name, sizeof(name), "docs/techniques/%s.md", t->name);
        page = file_text(name);
        n += check_examples(page);
        free(page);
    }
    ck_assert_int_ge(n, 12); /* the tables were found */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("docs");
    TCase *tc = tcase_create("docs");
    SRunner *sr = srunner_create(s);
    int failures;

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, options_in_man_page, 0, N_COMMANDS);
    tcase_add_test(tc, man_page_in_options);
    tcase_add_test(tc, serving_page);
    tcase_add_test(tc, technique_pages);
    tcase_add_test(tc, worked_numbers);
    suite_add_tcase(s, tc);
    srunner_run_all(sr, CK_NORMAL);
    failures = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failures != 0;
}
