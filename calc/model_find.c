/* model_find.c - kvp_model_load: a file (JSON or GGUF), a directory with a config.json, or a
 * built-in name. */
#include <kvproof/kvproof.h>

#include "calc/checkpoint.h"
#include "calc/json.h"
#include "calc/quant.h"

#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_dir(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool exists(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0;
}

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);

    return n >= k && strcmp(s + n - k, end) == 0;
}

/* "DIR/NAME" in buf; KVP_EINPUT when that is longer than a path may be. */
static kvp_err join(char *buf, size_t n, const char *dir, const char *name, struct kvp_error *e)
{
    int w = snprintf(buf, n, "%s/%s", dir, name);

    return w > 0 && (size_t)w < n ? KVP_OK : kvp_fail(e, KVP_EINPUT, "%.200s...: the path is too long", dir);
}

static kvp_err load_file(struct kvp_model *out, const char *path, struct kvp_error *e)
{
    char *text = NULL;
    size_t len = 0;
    kvp_err rc;

    KVP_TRY(kvp_json_read_file(&text, &len, path, e));
    rc = kvp_model_parse(out, text, len, path, e);
    free(text);
    return rc;
}

static kvp_err read_side(struct kvp_model *m, const char *path, struct kvp_error *e)
{
    struct kvp_json j = {NULL, path, e};
    char *text = NULL;
    size_t len = 0;
    json_t *root = NULL;
    kvp_err rc;

    KVP_TRY(kvp_json_read_file(&text, &len, path, e));
    rc = kvp_json_parse(&root, text, len, path, e);
    free(text);
    if (rc != KVP_OK)
        return rc;
    j.object = root;
    rc = json_is_object(root) ? kvp_quant_side(m, &j) : kvp_fail(e, KVP_EINPUT, "%s: expected a JSON object", path);
    json_decref(root);
    return rc;
}

/* Safetensors say how many bytes the weights take, and must be of the config beside them. */
static kvp_err load_headers(struct kvp_model *m, const char *path, struct kvp_error *e)
{
    struct checkpoint c;
    kvp_err rc;

    KVP_TRY(ckpt_open(&c, path, e));
    rc = ckpt_describe(m, &c, path, e);
    ckpt_free(&c);
    return rc;
}

static kvp_err load_gguf(struct kvp_model *out, const char *path, struct kvp_error *e)
{
    struct checkpoint c;
    kvp_err rc;

    KVP_TRY(ckpt_open(&c, path, e));
    rc = ckpt_gguf_model(out, &c, path, e);
    ckpt_free(&c);
    return rc;
}

/* A config.json may be silent about quantization that a file beside it declares. */
static kvp_err load_dir(struct kvp_model *out, const char *dir, const char *tensors, struct kvp_error *e)
{
    static const char *const side_files[] = {"quantize_config.json", "hf_quant_config.json"};
    char path[PATH_MAX];
    kvp_err rc;

    KVP_TRY(join(path, sizeof(path), dir, "config.json", e));
    if (!exists(path))
        return kvp_fail(e, KVP_EINPUT, "%s: a directory without a config.json", dir);
    KVP_TRY(load_file(out, path, e));
    for (size_t i = 0; i < sizeof(side_files) / sizeof(side_files[0]) && out->quant.format == KVP_WF_PLAIN; i++) {
        rc = join(path, sizeof(path), dir, side_files[i], e);
        if (rc == KVP_OK && exists(path))
            rc = read_side(out, path, e);
        if (rc != KVP_OK) {
            kvp_model_free(out);
            return rc;
        }
    }
    rc = tensors ? load_headers(out, tensors, e) : ckpt_in_dir(dir) ? load_headers(out, dir, e) : KVP_OK;
    if (rc != KVP_OK)
        kvp_model_free(out);
    return rc;
}

/* One file of tensors: the config is beside it. */
static kvp_err load_safetensors(struct kvp_model *out, const char *path, struct kvp_error *e)
{
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX];
    int n;

    n = slash ? snprintf(dir, sizeof(dir), "%.*s", (int)(slash > path ? slash - path : 1), path) : snprintf(dir, sizeof(dir), ".");
    if (n < 0 || (size_t)n >= sizeof(dir))
        return kvp_fail(e, KVP_EINPUT, "%.200s...: the path is too long", path);
    return load_dir(out, dir, path, e);
}

/* ---- built-in names ---------------------------------------------------------------------------------- */

/* Cut "-WORD" out of `name` wherever it stands as a whole word. */
static void drop_word(char *name, const char *word)
{
    size_t n = strlen(word);

    for (char *at = name; (at = strstr(at, word)) != NULL;) {
        if (at[n] == '-' || !at[n])
            memmove(at, at + n, strlen(at + n) + 1);
        else
            at += n;
    }
}

/* "meta-llama/Meta-Llama-3-8B-Instruct" -> "llama-3-8b": sizes do not differ between a base model and
 * what was tuned from it. False: not the spelling of a name. */
static bool builtin_name(char *buf, size_t n, const char *text)
{
    static const char *const words[] = {"-hf", "-instruct", "-chat", "-it"};
    const char *slash = strchr(text, '/'), *base = slash ? slash + 1 : text;
    size_t len = strlen(base);

    if (!len || len >= n || strchr(base, '/') || text[0] == '/' || text[0] == '.' || base[0] == '.')
        return false;
    for (size_t i = 0; i <= len; i++) {
        unsigned char c = (unsigned char)base[i];

        if (c && !isalnum(c) && !strchr("-._", c))
            return false;
        buf[i] = (char)tolower(c);
    }
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        drop_word(buf, words[i]);
    if (strncmp(buf, "meta-", 5) == 0)
        memmove(buf, buf + 5, strlen(buf + 5) + 1);
    return *buf != 0;
}

static kvp_err load_builtin(struct kvp_model *out, const char *text, struct kvp_error *e)
{
    char name[sizeof(out->name)], file[sizeof(name) + 16], path[PATH_MAX], shown[120];

    kvp_json_word(shown, sizeof(shown), text);
    if (builtin_name(name, sizeof(name), text)) {
        snprintf(file, sizeof(file), "models/%s.json", name);
        KVP_TRY(join(path, sizeof(path), kvp_data_dir(), file, e));
        if (exists(path))
            return load_file(out, path, e);
    }
    return kvp_fail(
        e, KVP_EINPUT,
        "no model \"%s\": neither a path nor a name in %.200s/models; `kvproof list models` shows the names",
        shown, kvp_data_dir());
}

kvp_err kvp_model_load(struct kvp_model *out, const char *path_or_name, struct kvp_error *e)
{
    memset(out, 0, sizeof(*out));
    if (!*path_or_name)
        return kvp_fail(e, KVP_EINPUT,
                        "the model is an empty string; expected a path or a name from `kvproof list models`");
    if (is_dir(path_or_name))
        return load_dir(out, path_or_name, NULL, e);
    if (ckpt_is_gguf(path_or_name))
        return load_gguf(out, path_or_name, e);
    if (exists(path_or_name) && ends_with(path_or_name, ".gguf"))
        return kvp_fail(e, KVP_EINPUT, "%s: the file does not begin with GGUF", path_or_name);
    if (exists(path_or_name) && ends_with(path_or_name, ".safetensors"))
        return load_safetensors(out, path_or_name, e);
    if (exists(path_or_name))
        return load_file(out, path_or_name, e);
    return load_builtin(out, path_or_name, e);
}
