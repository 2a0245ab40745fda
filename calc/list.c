/* list.c - `kvproof list`: what there is to choose from. */
#include "calc/print.h"
#include "calc/table.h"
#include "calc/tensors.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static kvp_err list_techniques(struct table *t, struct kvp_error *e)
{
    const struct kvp_technique_info *x;

    (void)e;
    *t = (struct table){.columns = 5, .head = {"name", "axis", "parameters", "summary", "source"}};
    for (uint32_t i = 0; (x = kvp_technique_at(i)); i++)
        table_row(t, x->name, kvp_axis_name(x->axis), x->params, x->summary, x->source);
    return KVP_OK;
}

static kvp_err list_pairs(struct table *t, struct kvp_error *e)
{
    const struct kvp_pair *x;

    (void)e;
    *t = (struct table){.columns = 4, .head = {"a", "b", "composes", "reason"}};
    for (uint32_t i = 0; (x = kvp_pair_at(i)); i++)
        table_row(t, x->a, x->b, x->allowed ? "yes" : "no", x->reason);
    return KVP_OK;
}

/* Bits of a number as stored, what its block holds beside it included: "4.5". */
static const char *bits_text(char *buf, size_t n, enum kvp_format f)
{
    bool over = false;
    const uint32_t block = format_block(f);

    if (block == 1)
        snprintf(buf, n, "%" PRIu32, format_bits(f));
    else
        snprintf(buf, n, "%g", 8.0 * (double)format_bytes(&over, f, block) / block);
    return buf;
}

/* Every number's format, then the ways of storing a matrix that are more than that. */
static kvp_err list_formats(struct table *t, struct kvp_error *e)
{
#define GGML "blocks of llama.cpp: weights (-t w:NAME)"
    static const struct {
        enum kvp_format f;
        const char *use;
    } rows[] = {
        {KVP_F32, "weights, cache, activations, scores"}, {KVP_F16, "weights, cache, scores"}, {KVP_BF16, "weights, cache"},
        {KVP_FP8, "weights (-t w:fp8), cache (-t kv:fp8), scales beside them"},
        {KVP_INT8, "weights (-t w:int8, w:w8a8, smoothquant), cache (-t kv:int8), scales beside them"},
        {KVP_INT4, "cache (-t kv:int4, kivi), eight in a 32-bit word, scales beside them"},
        {KVP_INT2, "cache (-t kivi), sixteen in a 32-bit word, scales beside them"},
        {KVP_NVFP4, "weights (-t w:nvfp4), cache (-t kv:nvfp4), an fp8 scale for 16"},
        {KVP_MXFP4, "weights (-t w:mxfp4), cache (-t kv:mxfp4), an e8m0 scale for 32"},
        {KVP_MXFP8, "cache (-t kv:mxfp8), an e8m0 scale for 32"},
        {KVP_Q8_0, GGML ", cache"}, {KVP_Q5_1, GGML ", cache"}, {KVP_Q5_0, GGML ", cache"}, {KVP_Q4_1, GGML ", cache"},
        {KVP_Q4_0, GGML ", cache"}, {KVP_IQ4_NL, GGML ", cache"}, {KVP_IQ4_XS, GGML}, {KVP_Q6_K, GGML}, {KVP_Q5_K, GGML},
        {KVP_Q4_K, GGML}, {KVP_Q3_K, GGML}, {KVP_Q2_K, GGML}, {KVP_I32, "tables, token ids"}, {KVP_I64, "shapes"}, {KVP_U8, "codes, e8m0 scales"},
    };
    static const char *const matrices[][3] = {
        {"nf4", "4", "weights (-t w:nf4), a scale for 64"},
        {"fp4", "4", "weights (-t w:fp4), a scale for 64"},
        {"gptq", "4", "weights (-t w:gptq, bits=), scales and zeros for a group"},
        {"awq", "4", "weights (-t w:awq), scales and zeros for a group"},
        {"mlx", "4", "weights (-t w:mlx, bits=), scales and biases for a group"},
        {"w8a8", "8", "weights (-t w:w8a8), a scale a row or a tensor"},
    };
    char bits[16];

    (void)e;
    *t = (struct table){.columns = 3, .head = {"name", "bits", "where"}, .right = {[1] = true}, .number = {[1] = true}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        table_row(t, kvp_format_name(rows[i].f), bits_text(bits, sizeof(bits), rows[i].f), rows[i].use);
    for (size_t i = 0; i < sizeof(matrices) / sizeof(matrices[0]); i++)
        table_row(t, matrices[i][0], matrices[i][1], matrices[i][2]);
    return KVP_OK;
}

/* ---- what lies in data/ --------------------------------------------------------------------------- */

static int is_json(const struct dirent *d)
{
    const size_t n = strlen(d->d_name);

    return n > 5 && d->d_name[0] != '.' && strcmp(d->d_name + n - 5, ".json") == 0;
}

/* Call `each` with the name (without .json) of every file of data/FOLDER, in order. */
static kvp_err each_file(const char *folder, struct table *t, kvp_err (*each)(struct table *, const char *, struct kvp_error *),
                         struct kvp_error *e)
{
    struct dirent **files = NULL;
    char *path = NULL;
    kvp_err rc = KVP_OK;
    int n;

    if (asprintf(&path, "%s/%s", kvp_data_dir(), folder) < 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory");
    n = scandir(path, &files, is_json, alphasort);
    if (n < 0)
        rc = kvp_fail(e, KVP_EINPUT, "%s: %s", path, strerror(errno));
    for (int i = 0; i < n; i++) {
        files[i]->d_name[strlen(files[i]->d_name) - 5] = '\0';
        if (rc == KVP_OK)
            rc = each(t, files[i]->d_name, e);
        free(files[i]);
    }
    free(files);
    free(path);
    return rc;
}

/* Of the first layer that keeps rows; "latent R + P" where that is what it keeps. */
static void kv_text(char *buf, size_t n, const struct kvp_model *m)
{
    snprintf(buf, n, "none");
    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];

        if (c->mixer == KVP_MIX_NONE)
            continue;
        if (c->mixer == KVP_MIX_MLA)
            snprintf(buf, n, "latent %u + %u", c->kv_rank, c->rope_dim);
        else
            snprintf(buf, n, "%u of %u x %u", c->kv_heads, c->heads, c->head_dim);
        return;
    }
}

static kvp_err model_row(struct table *t, const char *name, struct kvp_error *e)
{
    struct kvp_model m;
    char layers[16], kv[64], context[32];

    KVP_TRY(kvp_model_load(&m, name, e));
    snprintf(layers, sizeof(layers), "%u", m.layers);
    kv_text(kv, sizeof(kv), &m);
    snprintf(context, sizeof(context), "%" PRIu64, m.max_positions);
    table_row(t, name, m.model_type, layers, kv, context, kvp_format_name(m.dtype));
    kvp_model_free(&m);
    return KVP_OK;
}

static kvp_err list_models(struct table *t, struct kvp_error *e)
{
    *t = (struct table){.columns = 6, .head = {"name", "model_type", "layers", "kv_heads", "max_context", "dtype"},
                        .right = {[2] = true, [4] = true}, .number = {[2] = true, [4] = true}};
    return each_file("models", t, model_row, e);
}

static kvp_err device_row(struct table *t, const char *name, struct kvp_error *e)
{
    struct kvp_device d;
    char memory[32], bandwidth[32], f16[32];

    KVP_TRY(kvp_device_load(&d, name, e));
    snprintf(memory, sizeof(memory), "%" PRIu64, d.memory_bytes);
    snprintf(bandwidth, sizeof(bandwidth), "%.0f", d.bandwidth * 1e-9);
    snprintf(f16, sizeof(f16), "%.1f", d.flops_f16 * 1e-12);
    table_row(t, name, d.name, memory, bandwidth, f16, d.source, d.memory_source);
    return KVP_OK;
}

static kvp_err list_devices(struct table *t, struct kvp_error *e)
{
    *t = (struct table){.columns = 7, .head = {"name", "device", "memory_bytes", "GB/s", "f16_TFLOP/s", "source", "memory_source"},
                        .right = {[2] = true, [3] = true, [4] = true}, .number = {[2] = true, [3] = true}};
    return each_file("devices", t, device_row, e);
}

kvp_err kvp_list_print(FILE *f, const char *what, const char *format, struct kvp_error *e)
{
    static const struct {
        const char *name;
        kvp_err (*fill)(struct table *t, struct kvp_error *e);
    } lists[] = {{"techniques", list_techniques}, {"models", list_models}, {"devices", list_devices}, {"formats", list_formats},
                 {"pairs", list_pairs}};
    struct table t = {0};
    kvp_err rc;

    KVP_TRY(table_format_check(format, e));
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        if (strcmp(lists[i].name, what) != 0)
            continue;
        rc = lists[i].fill(&t, e);
        if (rc == KVP_OK)
            rc = table_print(f, format, &t, e);
        table_free(&t);
        return rc;
    }
    return kvp_fail(e, KVP_EINPUT, "list %s: expected techniques, models, devices, formats, pairs or charts", what);
}
