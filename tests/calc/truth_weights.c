/* truth_weights.c - tests/truth/weights.csv: what other people's checkpoints hold, against the config: every row.
 *
 * Elements and bytes must be equal. A file is more than its tensors by their names and places, so there what is left must
 * be so many bytes a tensor; rounded figures must agree to the tolerance that the row states. Prediction layers
 * and towers are counted where they can be, unless also_stored takes them away ("-mtp."). */
#include "tests/calc/calc_test.h"

#include "calc/json.h"

#include <math.h>

enum { COLUMNS = 8, MAX_TERMS = 4 };
enum { FILE_NAME, MODEL, KIND, VALUE, DTYPE, ALSO, SOURCE, REMARK };

struct row {
    char *col[COLUMNS];
    struct kvp_model m;
    struct kvp_estimate est;
    uint64_t dtype; /* bytes of an element */
    json_t *config;
};

static void split(char *line, char *col[COLUMNS])
{
    for (int i = 0; i < COLUMNS; i++) {
        const bool quoted = *line == '"';
        char *end;

        line += quoted;
        col[i] = line;
        end = line + (quoted ? strcspn(line, "\"") : i == COLUMNS - 1 ? strcspn(line, "\n") : strcspn(line, ",\n"));
        while (quoted && *end && end[1] == '"')
            end += 2 + strcspn(end + 2, "\"");
        line = end + quoted + (end[quoted] == ',');
        *end = 0;
    }
}

static uint64_t size_of_dtype(const char *word)
{
    return strncmp(word, "float32", 7) == 0 ? 4 : strncmp(word, "uint8", 5) == 0 ? 1 : 2;
}

/* ---- what a checkpoint stores beside its weights ---------------------------------------------------- */

static double config_real(const struct row *r, const char *key, double absent)
{
    const json_t *v = json_object_get(r->config, key);

    return json_is_number(v) ? json_number_value(v) : absent;
}

/* Rotary frequencies: half of what rotates. ChatGLM rotates half of a head. */
static uint64_t frequencies(const struct row *r)
{
    const double part = strcmp(r->m.model_type, "chatglm") == 0 ? 0.5 : config_real(r, "rotary_pct", 1);

    return (uint64_t)(r->m.cls[0].head_dim * part) / 2;
}

static double router_biases(const struct kvp_model *m)
{
    double n = 0;

    for (uint32_t i = 0; i < m->classes; i++)
        n += m->cls[i].router_bias ? (double)m->cls[i].count * m->cls[i].experts : 0;
    return n;
}

/* "NAME:DTYPE:COUNT" or "NAME:DTYPE:AxB" after "add:". */
static double added(const char *term, uint64_t *size)
{
    const char *dtype = strrchr(term, ':');
    char *end;
    double n = strtod(dtype + 1, &end);

    if (*end == 'x')
        n *= strtod(end + 1, NULL);
    while (dtype > term && dtype[-1] != ':')
        dtype--;
    *size = size_of_dtype(dtype);
    return n;
}

/* Elements, and in *bytes their bytes, of one term of also_stored. */
static double also(const struct row *r, const char *term, double *bytes)
{
    const double L = r->m.layers, context = (double)r->m.max_positions;
    const char *dtype = strrchr(term, ':');
    uint64_t size = dtype ? size_of_dtype(dtype + 1) : r->dtype;
    double n;

    if (strncmp(term, "tied_head", 9) == 0)
        n = (double)r->m.vocab * r->m.width;
    else if (strncmp(term, "inv_freq_once", 13) == 0)
        n = (double)frequencies(r);
    else if (strncmp(term, "inv_freq", 8) == 0)
        n = L * (double)frequencies(r);
    else if (strncmp(term, "masked_bias", 11) == 0)
        n = L;
    else if (strncmp(term, "causal_mask", 11) == 0)
        n = L * context * context;
    else if (strncmp(term, "add:", 4) == 0)
        n = added(term, &size);
    else if (strcmp(term, "-*e_score_correction_bias") == 0)
        n = -router_biases(&r->m);
    else
        ck_abort_msg("%s: also_stored '%s' is not understood", r->col[FILE_NAME], term);
    *bytes = dtype && strcmp(dtype, ":bit") == 0 ? n / 8 : n * (double)size;
    return n;
}

/* ---- a row ------------------------------------------------------------------------------------------ */

static double weight_elements(const struct kvp_estimate *est)
{
    double sum = 0;

    for (uint32_t i = 0; i < est->n_tensors; i++) {
        double n = (double)est->tensors[i].count;

        for (uint32_t k = 0; k < est->tensors[i].dims; k++)
            n *= (double)est->tensors[i].shape[k];
        sum += est->tensors[i].tag == KVP_TAG_WEIGHTS ? n : 0;
    }
    return sum;
}

/* Most bytes of a container for a tensor's name, type, shape and place: of JSON and msgpack, pickles in a zip, HDF5's objects. */
static double container_bytes(const struct row *r)
{
    double tensors = 0;

    for (uint32_t i = 0; i < r->est.n_tensors; i++)
        tensors += r->est.tensors[i].tag == KVP_TAG_WEIGHTS ? (double)r->est.tensors[i].count : 0;
    return tensors * (strstr(r->col[REMARK], "container=h5") ? 1100 : strstr(r->col[REMARK], "container=torch") ? 330 : 130);
}

static double tolerance(const struct row *r)
{
    const char *t = strstr(r->col[REMARK], "tol=");

    return t ? strtod(t + 4, NULL) : 0;
}

static bool agrees(const struct row *r, double elements, double bytes, double *ours)
{
    const char *kind = r->col[KIND];
    const double want = strtod(r->col[VALUE], NULL);

    if (strcmp(kind, "params") == 0)
        return (*ours = (double)r->est.parameters + elements) == want;
    if (strcmp(kind, "total_size") == 0)
        return (*ours = (double)r->est.memory.weights_bytes + bytes) == want;
    if (strcmp(kind, "stored_elements") == 0)
        return (*ours = weight_elements(&r->est) + elements) == want;
    if (strcmp(kind, "params_rounded") == 0)
        return fabs((*ours = (double)r->est.parameters + elements) - want) <= tolerance(r);
    if (strcmp(kind, "stored_elements_rounded") == 0)
        return fabs((*ours = weight_elements(&r->est) + elements) - want) <= tolerance(r);
    if (strcmp(kind, "gib_rounded") == 0)
        return fabs((*ours = (double)r->est.memory.weights_bytes / 1073741824) - want) <= tolerance(r);
    ck_assert_msg(strcmp(kind, "safetensors_file") == 0 || strcmp(kind, "file_bytes") == 0, "%s: kind '%s'", r->col[FILE_NAME], kind);
    *ours = (double)r->est.memory.weights_bytes + bytes;
    return *ours < want && want - *ours < container_bytes(r);
}

static int wrong;

static void check_row(struct row *r)
{
    char *save = NULL, path[512], *text = NULL, terms[256];
    struct kvp_options o = {.weights_given = *r->col[DTYPE] != 0};
    double elements = 0, bytes = 0, ours;
    struct kvp_error e = {0};
    size_t len = 0;

    o.weights = strcmp(r->col[DTYPE], "float32") == 0 ? KVP_F32 : strcmp(r->col[DTYPE], "float16") == 0 ? KVP_F16 : KVP_BF16;
    snprintf(path, sizeof(path), "%s/configs/%s", getenv("KVPROOF_TESTS"), r->col[FILE_NAME]);
    ck_assert_msg(kvp_model_load(&r->m, path, &e) == KVP_OK, "%s", e.text);
    o.with_mtp = !r->m.mtp_unknown && !strstr(r->col[ALSO], "-mtp.") && !strstr(r->col[ALSO], "-model.layers");
    o.with_vision = !r->m.tower_unknown;
    ck_assert_int_eq(kvp_json_read_file(&text, &len, path, &e), KVP_OK);
    ck_assert_int_eq(kvp_json_parse(&r->config, text, len, path, &e), KVP_OK);
    r->est = estimate_of(&r->m, "", (struct kvp_workload){.context = 1}, o);
    r->dtype = r->est.weights == KVP_F32 ? 4 : 2;
    snprintf(terms, sizeof(terms), "%s", r->col[ALSO]);
    for (char *t = strtok_r(terms, "+", &save); t; t = strtok_r(NULL, "+", &save)) {
        double b = 0;

        if (strcmp(t, "-mtp.") == 0 || strncmp(t, "-model.layers", 13) == 0)
            continue;
        elements += also(r, t, &b);
        bytes += b;
    }
    if (!agrees(r, elements, bytes, &ours)) {
        printf("%s: %s %.15g, the checkpoint has %s\n", r->col[FILE_NAME], r->col[KIND], ours, r->col[VALUE]);
        wrong++;
    }
    kvp_estimate_free(&r->est);
    kvp_model_free(&r->m);
    json_decref(r->config);
    free(text);
}

START_TEST(every_row)
{
    char path[512], line[4096];
    int rows = 0;
    FILE *f;

    snprintf(path, sizeof(path), "%s/truth/weights.csv", getenv("KVPROOF_TESTS"));
    f = fopen(path, "r");
    ck_assert_msg(f != NULL, "%s: cannot be opened", path);
    ck_assert(fgets(line, sizeof(line), f) != NULL);
    while (fgets(line, sizeof(line), f)) {
        struct row r = {0};

        split(line, r.col);
        check_row(&r);
        rows++;
    }
    fclose(f);
    fflush(stdout);
    ck_assert_int_eq(rows, 131);
    ck_assert_msg(wrong == 0, "%d of %d rows differ", wrong, rows);
}
END_TEST

int main(void)
{
    TCase *t = tcase_create("weights of checkpoints");

    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_row);
    return run("calc: weights of checkpoints", (TCase *const[]){t}, 1);
}
