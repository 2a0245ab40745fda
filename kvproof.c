/* kvproof.c - the front door: a table of commands, a table of options, and nothing that computes. */
#include <kvproof/kvproof.h>

#include "calc/compare.h"
#include "calc/fit.h"
#include "calc/optime/optime.h"
#include "calc/print.h"
#include "calc/sweep.h"
#include "calc/table.h"
#include "plots/plot.h"
#include "plots/results.h"
#include "validate/compare.h"
#include "validate/result.h"
#include "validate/serving.h"
#include "validate/tokens.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_TECHNIQUES = 32, MAX_STACKS = 64, MAX_OPERANDS = 64, MAX_DERIVED = 4, MAX_OPTIONS = 80 };

/* Everything a command line can say. */
struct args {
    const char *operand[MAX_OPERANDS];
    int n_operands;
    const char *technique[MAX_TECHNIQUES];
    int n_techniques;
    struct kvp_workload w;
    const char *lengths;
    const char *contexts, *prompts, *generates, *batches; /* sweep: lists */
    struct kvp_options formats;
    const char *cache_type, *cache_type_k, *cache_type_v, *quantization; /* options that stand for a technique */
    uint64_t block, chunk;
    char derived[MAX_DERIVED][128];
    uint64_t layers, seed, threads, repeat;
    uint64_t tp, pp, ep;
    double budget_s, max_time_error, memory_share;
    bool expert_parallel;
    bool detail, all, help, generate_given, quiet;
    const char *device, *format, *out, *script, *weights, *tokens, *from;
    const char *dump_logits, *dump_kept, *dump_cache;
    const char *said[MAX_OPTIONS]; /* what each option of the table was given, NULL: not yet */
    const char *trace, *synthetic, *write_trace;
    uint64_t blocks, limit;
    double step_s;
};

/* ---- options ------------------------------------------------------------------------------------ */

enum { ESTIMATE = 1, VALIDATE = 2, LIST = 4, PLOT = 8, SHOW = 16, SWEEP = 32, FIT = 64, COMPARE = 128, CALIBRATE = 256, PREDICT_OPS = 512, SERVE = 1024 };
enum { ONE = ESTIMATE | FIT | COMPARE, ANSWERS = ONE | SWEEP, MODELS = ANSWERS | VALIDATE | SERVE, RUNS = VALIDATE | SERVE };
enum kind { COUNT, COUNT0, RANKS, FORMAT, COLUMNS, STRING, OPERAND, TECHNIQUE, SECONDS, PERCENT, SHARE, FLAG };

struct option {
    const char *letters; /* after one dash: "c", or more of them, as in "tp" */
    const char *name, *aliases; /* aliases: more long names, space-separated */
    enum kind kind;
    int commands;
    size_t offset; /* into struct args */
    const char *arg, *help;
};

#define AT(field) offsetof(struct args, field)
static const struct option options[] = {
    {"m hf", "model", "model-path hf-repo", OPERAND, MODELS, 0, "MODEL", "the same as MODEL without an option"},
    {"t", "technique", "", TECHNIQUE, MODELS, 0, "SPEC", "NAME[:value][,key=value...]; may be repeated, techniques compose"},
    {"c", "context", "max-model-len ctx-size max-seq-len", COUNT, ONE | VALIDATE, AT(w.context), "TOKENS", "prompt + generated tokens (default: the model's; validate: at most 512)"},
    {"p", "prompt", "input-len n-prompt isl", COUNT, ONE | VALIDATE, AT(w.prompt), "TOKENS", "prompt tokens"},
    {"n", "generate", "output-len n-gen osl", COUNT0, ONE | VALIDATE, AT(w.generate), "TOKENS", "generated tokens (default: 0; validate: the context's last 8)"},
    {"b np", "batch", "max-num-seqs batch-size bs parallel", COUNT, ONE | VALIDATE, AT(w.batch), "SEQUENCES", "sequences in flight (default 1)"},
    {"", "lengths", "", STRING, ESTIMATE, AT(lengths), "LIST", "contexts of a batch of unequal sequences: 5,1000,33 (instead of -b, -c and -p)"},
    {"c", "context", "max-model-len ctx-size max-seq-len", STRING, SWEEP, AT(contexts), "LIST", "prompt + generated tokens: 1k,4k or 1k-128k*2 or 512-4096+512 (default: the model's)"},
    {"p", "prompt", "input-len n-prompt isl", STRING, SWEEP, AT(prompts), "LIST", "prompt tokens"},
    {"n", "generate", "output-len n-gen osl", STRING, SWEEP, AT(generates), "LIST", "generated tokens (default: 0)"},
    {"b np", "batch", "max-num-seqs batch-size bs parallel", STRING, SWEEP, AT(batches), "LIST", "sequences in flight (default 1)"},
    {"", "dtype", "", FORMAT, MODELS, AT(formats.weights), "FORMAT", "weights: f32, f16, bf16 (default, or auto: the config's)"},
    {"", "kv-cache-dtype", "kvcache-quant-mode", STRING, MODELS, AT(cache_type), "FORMAT", "cache: f32, f16, bf16; another is -t kv:FORMAT (default, or auto: as the checkpoint says, else as the weights)"},
    {"ctk", "cache-type-k", "", STRING, ANSWERS, AT(cache_type_k), "FORMAT", "of keys alone"},
    {"ctv", "cache-type-v", "", STRING, ANSWERS, AT(cache_type_v), "FORMAT", "of values alone"},
    {"q", "quantization", "gemm-quant-mode", STRING, ANSWERS, AT(quantization), "FORMAT", "weights, the same as -t w:FORMAT"},
    {"", "block-size", "", COUNT, MODELS, AT(block), "TOKENS", "pages, the same as -t paged:TOKENS"},
    {"ub", "max-num-batched-tokens", "ubatch-size ctx-tokens", COUNT, ANSWERS, AT(chunk), "TOKENS", "prompts in chunks, the same as -t chunked-prefill:TOKENS"},
    {"tp", "tensor-parallel-size", "tp-size", RANKS, ANSWERS, AT(tp), "RANKS", "heads, widths and vocabulary divided; memory is the worst rank's"},
    {"pp", "pipeline-parallel-size", "pp-size", RANKS, ANSWERS, AT(pp), "RANKS", "layers divided"},
    {"ep", "expert-parallel-size", "moe-ep-size", RANKS, ANSWERS, AT(ep), "RANKS", "whole experts divided"},
    {"", "enable-expert-parallel", "", FLAG, ANSWERS, AT(expert_parallel), NULL, "experts over the tensor parallel ranks"},
    {"", "encoder-tokens", "", COUNT, ANSWERS | VALIDATE, AT(formats.encoder_tokens), "TOKENS", "what cross-attention reads (default: the encoder's length)"},
    {"", "mamba-ssm-cache-dtype", "", FORMAT, ANSWERS, AT(formats.ssm), "FORMAT", "recurrent matrices (default: f32, or --mamba-cache-dtype)"},
    {"", "mamba-cache-dtype", "", FORMAT, ANSWERS, AT(formats.conv), "FORMAT", "recurrent state, columns of convolutions too (default: their columns as the weights)"},
    {"", "conv-columns", "", COLUMNS, ANSWERS, AT(formats.conv_full), "full|minus1", "columns kept of a convolution of d_conv: d_conv, or d_conv - 1 (default)"},
    {"", "with-vision", "", FLAG, ANSWERS, AT(formats.with_vision), NULL, "count the vision or audio tower's weights"},
    {"", "with-mtp", "", FLAG, ANSWERS, AT(formats.with_mtp), NULL, "count the extra prediction layers' weights"},
    {"", "from", "", STRING, CALIBRATE, AT(from), "ROWS.csv", "timings of ops made anywhere; more files may follow as operands"},
    {"d", "device", "", STRING, PREDICT_OPS, AT(device), "MODEL.json", "what `kvproof calibrate --from` wrote"},
    {"", "layers", "", COUNT, MODELS, AT(layers), "N", "only the model's first N layers"},
    {"d", "device", "", STRING, ANSWERS, AT(device), "NAME", "of `kvproof list devices`, or a file: times, and whether it fits"},
    {"d", "device", "", STRING, RUNS, AT(device), "NAME", "what runs: cpu (default), ref, cuda"},
    {"", "gpu-memory-utilization", "free-gpu-memory-fraction", SHARE, ANSWERS, AT(memory_share), "SHARE", "of the device's memory that may be used (default 0.92)"},
    {"", "detail", "", FLAG, ESTIMATE, AT(detail), NULL, "every tensor and every op"},
    {"", "trace", "", STRING, SERVE, AT(trace), "FILE", "requests: JSON lines (Mooncake's names or ours) or Azure's CSV"},
    {"", "synthetic", "", STRING, SERVE, AT(synthetic), "SPEC", "in place of a file: requests=32,rate=4,prompt=64,output=16,prefixes=4,prefix=32,zipf=1"},
    {"", "limit", "", COUNT, SERVE, AT(limit), "N", "only the trace's first N requests"},
    {"", "blocks", "num-gpu-blocks-override", COUNT, SERVE, AT(blocks), "N", "of the pool (default: room for all requests at once)"},
    {"", "step-time", "", SECONDS, SERVE, AT(step_s), "SECONDS", "of the trace's clock that a step takes (default 0.05)"},
    {"", "write-trace", "", STRING, SERVE, AT(write_trace), "FILE", "the requests that were served, as JSON lines"},
    {"", "all", "", FLAG, VALIDATE, AT(all), NULL, "every technique, one after the other"},
    {"", "weights", "", STRING, RUNS, AT(weights), "DIR", "safetensors; default: random weights"},
    {"", "seed", "", COUNT0, RUNS, AT(seed), "N", "of random weights, tokens and traces (default 1)"},
    {"", "threads", "", COUNT, RUNS, AT(threads), "N", "CPU threads (default: all)"},
    {"", "repeat", "", COUNT, VALIDATE, AT(repeat), "N", "timed runs (default 1)"},
    {"", "budget", "", SECONDS, VALIDATE, AT(budget_s), "SECONDS", "begin no technique after this long"},
    {"", "max-time-error", "", PERCENT, VALIDATE, AT(max_time_error), "PERCENT", "fail when prefill or a step is off by more"},
    {"", "tokens", "", STRING, VALIDATE, AT(tokens), "FILE", "token ids to run, teacher-forced"},
    {"", "dump-logits", "", STRING, VALIDATE, AT(dump_logits), "FILE", "float32 [tokens, vocab]"},
    {"", "dump-kept", "", STRING, VALIDATE, AT(dump_kept), "FILE", "JSON lines: which positions each head still sees"},
    {"", "dump-cache", "", STRING, VALIDATE, AT(dump_cache), "FILE", "JSON lines: codes and scales"},
    {"o", "output", "", STRING, MODELS | LIST | SHOW, AT(format), "FORMAT", "table (default), json, jsonl, csv, md"},
    {"o", "output", "", STRING, PREDICT_OPS, AT(format), "FORMAT", "csv (default): the rows, with what is predicted for them"},
    {"o", "output", "", STRING, CALIBRATE, AT(out), "FILE", "write the op model there instead of stdout"},
    {"", "out", "", STRING, CALIBRATE | PREDICT_OPS, AT(out), "FILE", "write there instead of stdout"},
    {"o", "output", "", STRING, PLOT, AT(out), "FILE", "the picture: FILE.png or FILE.svg"},
    {"", "out", "", STRING, ANSWERS | SHOW | SERVE, AT(out), "FILE", "write there instead of stdout"},
    {"", "out", "", STRING, VALIDATE, AT(out), "FILE", "write there instead of stdout; an interrupted run resumes"},
    {"", "script", "", STRING, PLOT, AT(script), "FILE", "write the gnuplot program, data inside, instead of running it"},
    {"q", "quiet", "", FLAG, VALIDATE, AT(quiet), NULL, "no progress line"},
    {"h", "help", "", FLAG, MODELS | LIST | PLOT | SHOW | CALIBRATE | PREDICT_OPS, AT(help), NULL, "this text"},
};
enum { N_OPTIONS = sizeof(options) / sizeof(options[0]) };
_Static_assert((int)N_OPTIONS <= (int)MAX_OPTIONS, "room for what each option says");

/* 4096, 32k, 1M, 2G: suffixes are powers of 1024. */
static kvp_err parse_count(const char *flag, const char *text, uint64_t least, uint64_t *out, struct kvp_error *e)
{
    char *end = NULL;
    unsigned shift = 0;
    unsigned long long v;

    errno = 0;
    v = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    if (end && *end) {
        static const char suffix[] = "kmg";
        const char *s = strchr(suffix, tolower((unsigned char)*end));

        shift = s ? 10 * (unsigned)(s - suffix + 1) : 0;
        end += s ? 1 : 0;
    }
    if (end && !*end && (errno || v > UINT64_MAX >> shift))
        return kvp_fail(e, KVP_EINPUT, "--%s %s: more than 64 bits hold", flag, text);
    if (!end || *end)
        return kvp_fail(e, KVP_EINPUT, "--%s %s: expected an integer, with k, M or G for powers of 1024", flag, text);
    *out = (uint64_t)v << shift;
    if (*out < least)
        return kvp_fail(e, KVP_EINPUT, "--%s %s: expected at least %llu", flag, text, (unsigned long long)least);
    return KVP_OK;
}

/* A format that rows can have as they are; false for any other word. */
static bool plain_format(const char *text, enum kvp_format *out)
{
    static const struct {
        const char *name;
        enum kvp_format format;
    } names[] = {{"f32", KVP_F32}, {"fp32", KVP_F32}, {"float32", KVP_F32}, {"float", KVP_F32},
                 {"f16", KVP_F16}, {"fp16", KVP_F16}, {"float16", KVP_F16}, {"half", KVP_F16},
                 {"bf16", KVP_BF16}, {"bfloat16", KVP_BF16}};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (strcmp(names[i].name, text) == 0) {
            *out = names[i].format;
            return true;
        }
    return false;
}

static kvp_err parse_format(const char *flag, const char *text, enum kvp_format *out, struct kvp_error *e)
{
    if (plain_format(text, out))
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "--%s %s: expected auto, f32, f16 or bf16", flag, text);
}

/* Which of the options' `given` flags goes with a format. */
static bool *given_flag(struct args *a, size_t offset)
{
    return offset == AT(formats.ssm) ? &a->formats.ssm_given : offset == AT(formats.conv) ? &a->formats.conv_given : &a->formats.weights_given;
}

static kvp_err parse_columns(const char *text, bool *full, struct kvp_error *e)
{
    *full = strcmp(text, "full") == 0;
    if (*full || strcmp(text, "minus1") == 0)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "--conv-columns %s: expected full or minus1", text);
}

static kvp_err parse_real(const char *flag, const char *text, double *out, struct kvp_error *e)
{
    char *end;

    errno = 0;
    *out = strtod(text, &end);
    if (end == text || *end || errno || !isfinite(*out) || *out < 0)
        return kvp_fail(e, KVP_EINPUT, "--%s %s: expected a number that is not negative", flag, text);
    return KVP_OK;
}

static kvp_err add_operand(struct args *a, const char *v, const char *word, struct kvp_error *e)
{
    if (a->n_operands == MAX_OPERANDS)
        return kvp_fail(e, KVP_EINPUT, "%s: more than %d operands", word, MAX_OPERANDS);
    a->operand[a->n_operands++] = v;
    return KVP_OK;
}

static kvp_err set_option(struct args *a, const struct option *o, const char *v, const char *word, struct kvp_error *e)
{
    void *field = (char *)a + o->offset;
    bool *given;

    switch (o->kind) {
    case COUNT:
    case COUNT0:
        a->generate_given = a->generate_given || o->offset == AT(w.generate);
        return parse_count(o->name, v, o->kind == COUNT, field, e);
    case RANKS:
        KVP_TRY(parse_count(o->name, v, 1, field, e));
        return *(uint64_t *)field <= 65536 ? KVP_OK : kvp_fail(e, KVP_EINPUT, "--%s %s: expected at most 65536", o->name, v);
    case FORMAT:
        given = given_flag(a, o->offset);
        *given = strcmp(v, "auto") != 0;
        return *given ? parse_format(o->name, v, field, e) : KVP_OK;
    case COLUMNS:
        return parse_columns(v, field, e);
    case STRING:
        *(const char **)field = v;
        return KVP_OK;
    case OPERAND:
        return add_operand(a, v, word, e);
    case TECHNIQUE:
        if (a->n_techniques == MAX_TECHNIQUES)
            return kvp_fail(e, KVP_EINPUT, "--technique: more than %d of them", MAX_TECHNIQUES);
        a->technique[a->n_techniques++] = v;
        return KVP_OK;
    case SECONDS:
        return parse_real(o->name, v, field, e);
    case PERCENT:
        KVP_TRY(parse_real(o->name, v, field, e));
        *(double *)field /= 100;
        return KVP_OK;
    case SHARE:
        KVP_TRY(parse_real(o->name, v, field, e));
        return *(double *)field > 0 && *(double *)field <= 1 ? KVP_OK : kvp_fail(e, KVP_EINPUT, "--%s %s: expected more than 0 and at most 1", o->name, v);
    case FLAG:
        *(bool *)field = true;
        return KVP_OK;
    }
    return KVP_OK;
}

/* Twice the same is once; twice something else contradicts itself. */
static kvp_err say_once(struct args *a, const struct option *o, const char *v, struct kvp_error *e)
{
    const char **said = &a->said[o - options];

    if (*said && o->kind != TECHNIQUE && o->kind != OPERAND && strcmp(*said, v) != 0)
        return kvp_fail(e, KVP_EINPUT, "--%s %s contradicts --%s %s", o->name, v, o->name, *said);
    *said = v;
    return KVP_OK;
}

static bool name_in(const char *list, const char *name, size_t n)
{
    for (const char *p = list; *p;) {
        size_t len = strcspn(p, " ");

        if (len == n && strncmp(p, name, n) == 0)
            return true;
        p += len + (p[len] == ' ');
    }
    return false;
}

static const struct option *find_option(const char *arg, int command, const char **value)
{
    const bool is_long = strncmp(arg, "--", 2) == 0;
    const char *name = arg + (is_long ? 2 : 1);
    const size_t n = strcspn(name, "=");

    *value = name[n] == '=' ? name + n + 1 : NULL;
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        const bool hit = is_long ? (strlen(o->name) == n && strncmp(o->name, name, n) == 0) || name_in(o->aliases, name, n)
                                 : name_in(o->letters, name, n);

        if (hit && (o->commands & command))
            return o;
    }
    return NULL;
}

static kvp_err parse_args(struct args *a, int argc, char **argv, int command, const char *word, struct kvp_error *e)
{
    bool only_operands = false;

    for (int i = 0; i < argc; i++) {
        const struct option *o;
        const char *value;

        if (only_operands || argv[i][0] != '-' || !argv[i][1]) {
            KVP_TRY(add_operand(a, argv[i], word, e));
            continue;
        }
        if (strcmp(argv[i], "--") == 0) {
            only_operands = true;
            continue;
        }
        o = find_option(argv[i], command, &value);
        if (!o)
            return kvp_fail(e, KVP_EINPUT, "%s: unknown option %s, see `kvproof %s --help`", word, argv[i], word);
        if (o->kind != FLAG && !value && i + 1 < argc)
            value = argv[++i];
        if (o->kind != FLAG && (!value || !*value))
            return kvp_fail(e, KVP_EINPUT, "--%s needs a value: %s", o->name, o->arg);
        if (o->kind == FLAG && value)
            return kvp_fail(e, KVP_EINPUT, "--%s takes no value", o->name);
        if (value)
            KVP_TRY(say_once(a, o, value, e));
        KVP_TRY(set_option(a, o, value, word, e));
    }
    return KVP_OK;
}

/* ---- commands ----------------------------------------------------------------------------------- */

struct command {
    const char *name;
    int id;
    const char *operands, *summary, *example;
    kvp_err (*run)(struct args *a, struct kvp_error *e);
};

static kvp_err one_operand(const struct args *a, const char *command, const char *what, struct kvp_error *e)
{
    if (a->n_operands == 1)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "%s: expected one %s, got %d", command, what, a->n_operands);
}

static kvp_err load_model(const struct args *a, const char *name, struct kvp_model *m, struct kvp_error *e)
{
    KVP_TRY(kvp_model_load(m, name, e));
    if (a->layers) {
        kvp_err rc = a->layers > UINT32_MAX ? kvp_fail(e, KVP_EINPUT, "--layers: too many")
                                            : kvp_model_truncate(m, (uint32_t)a->layers, e);

        if (rc != KVP_OK)
            kvp_model_free(m);
        return rc;
    }
    return KVP_OK;
}

/* How vLLM spells them; what is not here is called the same in `-t kv:`. */
static const char *cache_word(const char *word)
{
    static const char *const same[][2] = {{"fp8_e4m3", "fp8"}, {"fp8_e5m2", "fp8"}, {"fp8_inc", "fp8"},
                                          {"fp8_ds_mla", "fp8,layout=ds_mla"}, {"nvfp4_ds_mla", "nvfp4,layout=ds_mla"},
                                          {"int8_per_token_head", "int8,scale=token-head"}, {"fp8_per_token_head", "fp8,scale=token-head"}};

    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        if (strcmp(word, same[i][0]) == 0)
            return same[i][1];
    return word;
}

static bool is_auto(const char *word)
{
    return !word || strcmp(word, "auto") == 0;
}

/* --kv-cache-dtype and the types of keys and values: rows as they are, or the technique kv. */
static kvp_err cache_types(struct args *a, char *spec, size_t n, struct kvp_error *e)
{
    const char *k = is_auto(a->cache_type_k) ? a->cache_type : a->cache_type_k, *v = is_auto(a->cache_type_v) ? a->cache_type : a->cache_type_v;
    enum kvp_format fk = KVP_F16, fv = KVP_F16;
    bool plain_k, plain_v;

    if (!is_auto(a->cache_type) && (strcmp(k, a->cache_type) != 0 || strcmp(v, a->cache_type) != 0))
        return kvp_fail(e, KVP_EINPUT, "--kv-cache-dtype %s contradicts --cache-type-k %s, --cache-type-v %s", a->cache_type, k, v);
    if (is_auto(k) && is_auto(v))
        return KVP_OK;
    k = is_auto(k) ? "f16" : cache_word(k); /* llama.cpp's default */
    v = is_auto(v) ? "f16" : cache_word(v);
    plain_k = plain_format(k, &fk);
    plain_v = plain_format(v, &fv);
    k = plain_k ? kvp_format_name(fk) : k;
    v = plain_v ? kvp_format_name(fv) : v;
    a->formats.kv_given = plain_k && plain_v && fk == fv;
    a->formats.kv = fk;
    if (strcmp(k, v) != 0 && (strchr(k, ',') || strchr(v, ',')))
        return kvp_fail(e, KVP_EINPUT, "keys in kv:%s, values in kv:%s: expected both the same", k, v);
    if (!a->formats.kv_given)
        snprintf(spec, n, strcmp(k, v) == 0 ? "kv:%s" : "kv:k=%s,v=%s", k, v);
    return KVP_OK;
}

/* Options that are another way to ask for a technique. */
static kvp_err derive(struct args *a, struct kvp_error *e)
{
    KVP_TRY(cache_types(a, a->derived[0], sizeof(a->derived[0]), e));
    if (a->quantization)
        snprintf(a->derived[1], sizeof(a->derived[1]), "w:%s", a->quantization);
    if (a->block)
        snprintf(a->derived[2], sizeof(a->derived[2]), "paged:%" PRIu64, a->block);
    if (a->chunk)
        snprintf(a->derived[3], sizeof(a->derived[3]), "chunked-prefill:%" PRIu64, a->chunk);
    if (a->formats.conv_given && !a->formats.ssm_given) { /* as in vLLM: of the whole state, unless the matrices' own is said */
        a->formats.ssm = a->formats.conv;
        a->formats.ssm_given = true;
    }
    if (a->expert_parallel && !a->ep)
        a->ep = a->tp;
    a->formats.tp = (uint32_t)a->tp;
    a->formats.pp = (uint32_t)a->pp;
    a->formats.ep = (uint32_t)a->ep;
    return KVP_OK;
}

static bool asks_technique(const struct args *a)
{
    for (int i = 0; i < MAX_DERIVED; i++)
        if (a->derived[i][0])
            return true;
    return a->n_techniques > 0;
}

/* An option and a technique may ask for the same thing, not for different ones. */
static kvp_err add_derived(const struct args *a, int i, struct kvp_stack *s, struct kvp_error *e)
{
    static const char *const names[MAX_DERIVED] = {"--kv-cache-dtype, --cache-type-k or --cache-type-v", "--quantization", "--block-size",
                                                   "--max-num-batched-tokens"};
    const struct kvp_spec *has;
    struct kvp_stack own = {0};
    char asked[256], there[256];

    if (!a->derived[i][0])
        return KVP_OK;
    KVP_TRY(kvp_stack_add(&own, a->derived[i], e));
    has = own.n ? kvp_stack_on(s, own.spec[0].axis) : NULL;
    if (!has)
        return kvp_stack_add(s, a->derived[i], e);
    kvp_spec_text(has, there, sizeof(there));
    kvp_spec_text(&own.spec[0], asked, sizeof(asked));
    if (strcmp(there, asked) == 0)
        return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "%s asks for %s, -t for %s: both are on the axis '%s'", names[i], a->derived[i], there, kvp_axis_name(has->axis));
}

/* The checkpoint's own word on the cache (kv_cache_scheme, kv_cache_quant_algo), where nothing else is asked for. */
static kvp_err checkpoint_cache(const struct args *a, const struct kvp_model *m, struct kvp_stack *s, struct kvp_error *e)
{
    char spec[64];

    if (m->quant.kv == KVP_F32 || a->formats.kv_given || kvp_stack_on(s, KVP_AXIS_ENCODE))
        return KVP_OK;
    snprintf(spec, sizeof(spec), "kv:%s", kvp_format_name(m->quant.kv));
    return kvp_stack_add(s, spec, e);
}

/* What an option says of itself and a technique says otherwise, on no axis that both are on. */
static kvp_err contradictions(const struct args *a, const struct kvp_stack *s, struct kvp_error *e)
{
    const struct kvp_spec *encode = kvp_stack_on(s, KVP_AXIS_ENCODE), *batching = kvp_stack_on(s, KVP_AXIS_BATCHING);
    const struct kvp_param *budget = batching ? kvp_spec_param(batching, "max_num_batched_tokens") : NULL;

    if (a->formats.kv_given && encode && strcmp(encode->name, "kv") == 0)
        return kvp_fail(e, KVP_EINPUT, "--%s %s contradicts -t kv: both say how rows are stored", is_auto(a->cache_type) ? "cache-type-k" : "kv-cache-dtype",
                        kvp_format_name(a->formats.kv));
    if (a->chunk && budget && budget->i >= 0 && (uint64_t)budget->i != a->chunk)
        return kvp_fail(e, KVP_EINPUT, "--max-num-batched-tokens %" PRIu64 " contradicts %s with max_num_batched_tokens=%" PRId64, a->chunk, batching->name, budget->i);
    return KVP_OK;
}

static kvp_err read_stack(const struct args *a, const struct kvp_model *m, struct kvp_stack *s, struct kvp_error *e)
{
    for (int i = 0; i < a->n_techniques; i++)
        KVP_TRY(kvp_stack_add(s, a->technique[i], e));
    for (int i = 0; i < MAX_DERIVED; i++)
        KVP_TRY(add_derived(a, i, s, e));
    KVP_TRY(checkpoint_cache(a, m, s, e));
    return contradictions(a, s, e);
}

static void resolve_formats(struct args *a, const struct kvp_model *m)
{
    if (!a->formats.weights_given)
        a->formats.weights = m->dtype;
    if (!a->formats.kv_given)
        a->formats.kv = a->formats.weights;
    a->formats.weights_given = a->formats.kv_given = true;
}

static bool no_workload(const struct args *a)
{
    return !a->w.context && !a->w.prompt && !a->w.generate;
}

static kvp_err print_estimate(const struct args *a, const struct kvp_model *m, const struct kvp_stack *s,
                              const struct kvp_estimate *est, const struct kvp_device *dev, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    KVP_TRY(out_open(&o, a->out, e));
    rc = kvp_estimate_print(o.f, a->format, a->detail, m, s, est, dev, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

/* The device that was asked for, or NULL in *out. */
static kvp_err load_device(const struct args *a, struct kvp_device *d, const struct kvp_device **out, struct kvp_error *e)
{
    *out = NULL;
    if (!a->device)
        return KVP_OK;
    KVP_TRY(kvp_device_load(d, a->device, e));
    d->memory_share = a->memory_share;
    *out = d;
    return KVP_OK;
}

static kvp_err estimate_workload(struct args *a, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_device *dev,
                                 struct kvp_estimate *est, struct kvp_error *e)
{
    struct sweep_list l;
    kvp_err rc;

    if (a->lengths && (a->w.context || a->w.prompt || a->w.batch))
        return kvp_fail(e, KVP_EINPUT, "--lengths %s says the batch and every context: leave -b, -c and -p out", a->lengths);
    if (a->lengths) {
        KVP_TRY(sweep_list_parse(&l, "lengths", a->lengths, 1, e));
        rc = kvp_estimate_lengths(est, m, s, l.v, l.n, a->w.generate, &a->formats, dev, e);
        free(l.v);
        return rc;
    }
    if (no_workload(a))
        a->w.context = m->max_positions;
    return kvp_estimate(est, m, s, &a->w, &a->formats, dev, e);
}

static kvp_err estimate_model(struct args *a, const struct kvp_model *m, struct kvp_error *e)
{
    struct kvp_stack s = {0};
    struct kvp_device room;
    const struct kvp_device *dev;
    struct kvp_estimate est;
    kvp_err rc;

    KVP_TRY(read_stack(a, m, &s, e));
    KVP_TRY(load_device(a, &room, &dev, e));
    KVP_TRY(estimate_workload(a, m, &s, dev, &est, e));
    rc = print_estimate(a, m, &s, &est, dev, e);
    if (rc == KVP_OK && dev && !print_fits(&est, dev))
        rc = kvp_fail(e, KVP_NO, "%s does not fit: its peak is %" PRIu64 " bytes, more than %.2f of the %" PRIu64 " of %s", m->name,
                      est.memory.peak_bytes, print_share(dev), dev->memory_bytes, dev->name);
    kvp_estimate_free(&est);
    return rc;
}

static kvp_err with_model(struct args *a, const char *command, kvp_err (*run)(struct args *, const struct kvp_model *, struct kvp_error *),
                          struct kvp_error *e)
{
    struct kvp_model m = {0};
    kvp_err rc;

    KVP_TRY(one_operand(a, command, "MODEL (a config.json, a directory that holds one, or a name of `kvproof list models`)", e));
    KVP_TRY(load_model(a, a->operand[0], &m, e));
    rc = run(a, &m, e);
    kvp_model_free(&m);
    return rc;
}

static kvp_err cmd_estimate(struct args *a, struct kvp_error *e)
{
    return with_model(a, "estimate", estimate_model, e);
}

static kvp_err print_fit(const struct args *a, const struct fit *q, const struct fit_answer *x, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    KVP_TRY(out_open(&o, a->out, e));
    rc = fit_print(o.f, a->format, q, x, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static kvp_err answer_workload(struct args *a, const struct kvp_model *m, struct kvp_error *e)
{
    if (no_workload(a))
        a->w.context = m->max_positions;
    return kvp_workload_resolve(&a->w, e);
}

static kvp_err fit_model(struct args *a, const struct kvp_model *m, struct kvp_error *e)
{
    struct kvp_stack s = {0};
    struct kvp_device room;
    struct fit q = {.model = m, .stack = &s, .options = &a->formats};
    struct fit_answer x;
    kvp_err rc;

    if (!a->device)
        return kvp_fail(e, KVP_EINPUT, "fit: expected --device NAME, see `kvproof list devices`");
    KVP_TRY(read_stack(a, m, &s, e));
    KVP_TRY(load_device(a, &room, &q.device, e));
    KVP_TRY(answer_workload(a, m, e));
    q.workload = a->w;
    rc = fit_solve(&x, &q, e);
    if (rc == KVP_OK)
        rc = print_fit(a, &q, &x, e);
    if (rc == KVP_OK && !x.max_context)
        rc = kvp_fail(e, KVP_NO, "%s does not fit on %s at batch %" PRIu64 " with any context: %s", m->name, q.device->name, a->w.batch, x.context_bound);
    free(x.devices);
    return rc;
}

static kvp_err cmd_fit(struct args *a, struct kvp_error *e)
{
    return with_model(a, "fit", fit_model, e);
}

static kvp_err print_comparison(const struct args *a, const struct compare *q, const struct comparison *x, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    KVP_TRY(out_open(&o, a->out, e));
    rc = compare_print(o.f, a->format, q, x, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static kvp_err compare_model(struct args *a, const struct kvp_model *m, struct kvp_error *e)
{
    struct kvp_stack s = {0};
    struct kvp_device room;
    struct compare q = {.model = m, .base = &s, .options = &a->formats};
    struct comparison x;
    kvp_err rc;

    KVP_TRY(read_stack(a, m, &s, e));
    KVP_TRY(load_device(a, &room, &q.device, e));
    KVP_TRY(answer_workload(a, m, e));
    q.workload = a->w;
    rc = compare_all(&x, &q, e);
    if (rc == KVP_OK)
        rc = print_comparison(a, &q, &x, e);
    compare_free(&x);
    return rc;
}

static kvp_err cmd_compare(struct args *a, struct kvp_error *e)
{
    return with_model(a, "compare", compare_model, e);
}

static kvp_err sweep_lists(const struct args *a, struct sweep *s, struct kvp_error *e)
{
    if (a->contexts)
        KVP_TRY(sweep_list_parse(&s->context, "context", a->contexts, 1, e));
    if (a->prompts)
        KVP_TRY(sweep_list_parse(&s->prompt, "prompt", a->prompts, 1, e));
    if (a->generates)
        KVP_TRY(sweep_list_parse(&s->generate, "generate", a->generates, 0, e));
    return a->batches ? sweep_list_parse(&s->batch, "batch", a->batches, 1, e) : KVP_OK;
}

/* Rows go to standard output as they come: there may be more of them than memory. */
static kvp_err print_sweep(const struct args *a, const struct sweep *s, const struct kvp_model *models, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    if (!a->out)
        return sweep_print(stdout, s, models, (size_t)a->n_operands, e);
    KVP_TRY(out_open(&o, a->out, e));
    rc = sweep_print(o.f, s, models, (size_t)a->n_operands, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static void cache_text(const struct kvp_stack *s, char *buf, size_t n)
{
    const struct kvp_spec *x = kvp_stack_on(s, KVP_AXIS_ENCODE);

    buf[0] = 0;
    if (x)
        kvp_spec_text(x, buf, n);
}

/* One stack is of all models: what the first one's checkpoint says of its cache must be what the others' say. */
static kvp_err same_cache(const struct args *a, const struct kvp_model *models, const struct kvp_stack *stack, struct kvp_error *e)
{
    char first[128], other[128];

    cache_text(stack, first, sizeof(first));
    for (int i = 1; i < a->n_operands; i++) {
        struct kvp_stack s = {0};

        KVP_TRY(read_stack(a, &models[i], &s, e));
        cache_text(&s, other, sizeof(other));
        if (strcmp(first, other) != 0)
            return kvp_fail(e, KVP_EINPUT, "sweep: the checkpoints of %s and %s say differently how their caches are stored: give --kv-cache-dtype",
                            models[0].name, models[i].name);
    }
    return KVP_OK;
}

static kvp_err run_sweep(const struct args *a, const struct kvp_model *models, struct kvp_error *e)
{
    struct kvp_stack stack = {0};
    struct kvp_device room;
    struct sweep s = {.stack = &stack, .options = &a->formats, .format = a->format};
    kvp_err rc = read_stack(a, &models[0], &stack, e);

    if (rc == KVP_OK)
        rc = same_cache(a, models, &stack, e);
    if (rc == KVP_OK)
        rc = load_device(a, &room, &s.device, e);
    if (rc == KVP_OK)
        rc = sweep_lists(a, &s, e);
    if (rc == KVP_OK)
        rc = print_sweep(a, &s, models, e);
    free(s.context.v);
    free(s.prompt.v);
    free(s.generate.v);
    free(s.batch.v);
    return rc;
}

static kvp_err cmd_sweep(struct args *a, struct kvp_error *e)
{
    struct kvp_model models[MAX_OPERANDS] = {0};
    kvp_err rc = KVP_OK;

    if (!a->n_operands)
        return kvp_fail(e, KVP_EINPUT, "sweep: expected MODEL... (config.json files, directories that hold one, or names of `kvproof list models`)");
    for (int i = 0; rc == KVP_OK && i < a->n_operands; i++)
        rc = load_model(a, a->operand[i], &models[i], e);
    if (rc == KVP_OK)
        rc = run_sweep(a, models, e);
    for (int i = 0; i < a->n_operands; i++)
        kvp_model_free(&models[i]);
    return rc;
}

static kvp_err cmd_calibrate(struct args *a, struct kvp_error *e)
{
    const char *rows[MAX_OPERANDS + 1];
    uint32_t n = 0;
    struct out_file o;
    kvp_err rc;

    if (!a->from)
        return kvp_fail(e, KVP_EINPUT, "calibrate: expected --from ROWS.csv, timings of ops");
    rows[n++] = a->from;
    for (int i = 0; i < a->n_operands; i++)
        rows[n++] = a->operand[i];
    KVP_TRY(out_open(&o, a->out, e));
    rc = kvp_optime_calibrate(o.f, rows, n, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static kvp_err cmd_predict_ops(struct args *a, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    KVP_TRY(one_operand(a, "predict-ops", "ROWS.csv", e));
    if (!a->device)
        return kvp_fail(e, KVP_EINPUT, "predict-ops: expected -d MODEL.json, as `kvproof calibrate --from` writes");
    if (strcmp(a->format, "table") != 0 && strcmp(a->format, "csv") != 0)
        return kvp_fail(e, KVP_EINPUT, "--output %s: predict-ops prints csv", a->format);
    KVP_TRY(out_open(&o, a->out, e));
    rc = kvp_optime_predict(o.f, a->operand[0], a->device, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

struct stacks {
    struct kvp_stack *at; /* [MAX_STACKS] */
    uint32_t n;
};

/* One more for the engine to run, unless it does not run it or it is there already. */
static kvp_err add_stack(struct stacks *l, const char *spec, struct kvp_error *e)
{
    struct kvp_error why = {0};
    struct kvp_stack s = {0};
    char text[512], other[512];

    KVP_TRY(kvp_stack_add(&s, spec, e));
    if (val_runs(&s, &why) != KVP_OK)
        return KVP_OK;
    kvp_stack_text(&s, text, sizeof(text));
    for (uint32_t i = 0; i < l->n; i++) {
        kvp_stack_text(&l->at[i], other, sizeof(other));
        if (strcmp(text, other) == 0)
            return KVP_OK;
    }
    if (l->n == MAX_STACKS)
        return kvp_fail(e, KVP_ESYS, "validate: --all has room for %d stacks", MAX_STACKS);
    l->at[l->n++] = s;
    return KVP_OK;
}

/* What --all runs: every technique that the engine runs, with parameters that bite on this model at this
 * workload, and in its other variants. */
static kvp_err all_stacks(const struct args *a, const struct kvp_model *m, struct stacks *l, struct kvp_error *e)
{
    char spec[256];

    for (uint32_t i = 0; kvp_technique_at(i); i++) {
        KVP_TRY(kvp_technique_example(i, m, &a->w, spec, sizeof(spec), e));
        KVP_TRY(add_stack(l, spec, e));
        for (uint32_t k = 0; kvp_technique_variant(i, k, spec, sizeof(spec)); k++)
            KVP_TRY(add_stack(l, spec, e));
    }
    return KVP_OK;
}

/* A proof needs decode steps: unless -n says otherwise the last few tokens of the context are generated. */
static kvp_err validate_workload(struct args *a, const struct kvp_model *m, struct kvp_error *e)
{
    if (a->tokens && !a->w.context) {
        KVP_TRY(tokens_count(a->tokens, &a->w.context, e));
        if (!a->w.context)
            return kvp_fail(e, KVP_EINPUT, "%s: expected token ids, and there are none", a->tokens);
    } else if (no_workload(a)) {
        a->w.context = m->max_positions < 512 ? m->max_positions : 512;
    }
    if (!a->generate_given && !a->w.prompt && !a->tokens && a->w.context > 1)
        a->w.generate = a->w.context > 16 ? 8 : a->w.context / 2;
    return kvp_workload_resolve(&a->w, e);
}

static kvp_err validate_stacks(struct args *a, const struct kvp_model *m, struct stacks *l, struct kvp_error *e)
{
    l->n = a->all ? 0 : 1;
    KVP_TRY(a->all ? all_stacks(a, m, l, e) : read_stack(a, m, l->at, e));
    resolve_formats(a, m); /* read_stack asks what the user gave */
    return val_run(&(struct val_request){.model = m, .stacks = l->at, .n_stacks = l->n, .workload = a->w,
                                         .formats = a->formats, .backend = a->device ? a->device : "cpu",
                                         .threads = (uint32_t)a->threads, .seed = a->seed,
                                         .repeat = (uint32_t)(a->repeat ? a->repeat : 1),
                                         .budget_s = a->budget_s, .max_time_error = a->max_time_error,
                                         .weights_dir = a->weights, .tokens_file = a->tokens,
                                         .dump_logits = a->dump_logits, .dump_kept = a->dump_kept,
                                         .dump_cache = a->dump_cache, .format = a->format, .out = a->out,
                                         .progress = !a->quiet && isatty(STDERR_FILENO)},
                   e);
}

static kvp_err validate_model(struct args *a, const struct kvp_model *m, struct kvp_error *e)
{
    struct stacks l = {0};
    kvp_err rc;

    KVP_TRY(validate_workload(a, m, e));
    if (a->all && asks_technique(a))
        return kvp_fail(e, KVP_EINPUT, "validate: --all runs every technique by itself; leave -t out");
    if (a->all && (a->dump_logits || a->dump_kept || a->dump_cache))
        return kvp_fail(e, KVP_EINPUT, "validate: dumps are of one technique; leave --all out");
    l.at = calloc(MAX_STACKS, sizeof(*l.at));
    rc = l.at ? validate_stacks(a, m, &l, e) : kvp_fail(e, KVP_ENOMEM, "out of memory for stacks");
    free(l.at);
    return rc;
}

static kvp_err cmd_validate(struct args *a, struct kvp_error *e)
{
    if (a->threads > 4096 || a->repeat > 1000000)
        return kvp_fail(e, KVP_EINPUT, "validate: --threads is at most 4096, --repeat at most 1000000");
    return with_model(a, "validate", validate_model, e);
}

static kvp_err write_trace(const struct args *a, const struct kvp_trace *t, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    if (!a->write_trace)
        return KVP_OK;
    KVP_TRY(out_open(&o, a->write_trace, e));
    rc = kvp_trace_write(o.f, t, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static kvp_err serve_requests(struct args *a, const struct kvp_model *m, const struct kvp_trace *t, struct kvp_error *e)
{
    struct kvp_stack s = {0};

    KVP_TRY(read_stack(a, m, &s, e));
    resolve_formats(a, m);
    KVP_TRY(write_trace(a, t, e));
    return serving_run(&(struct serving_request){.model = m, .stack = &s, .trace = t, .trace_name = a->trace ? a->trace : "generated",
                                                 .serve = {.blocks = a->blocks, .step_s = a->step_s}, .formats = a->formats,
                                                 .backend = a->device ? a->device : "cpu", .threads = (uint32_t)a->threads,
                                                 .seed = a->seed, .weights_dir = a->weights, .format = a->format, .out = a->out},
                       e);
}

static kvp_err serve_model(struct args *a, const struct kvp_model *m, struct kvp_error *e)
{
    struct kvp_trace t;
    kvp_err rc;

    if (!a->trace == !a->synthetic)
        return kvp_fail(e, KVP_EINPUT, "serve: expected --trace FILE or --synthetic SPEC, one of them");
    KVP_TRY(a->trace ? kvp_trace_load(&t, a->trace, a->limit, e) : kvp_trace_generate(&t, a->synthetic, a->seed, e));
    rc = serve_requests(a, m, &t, e);
    kvp_trace_free(&t);
    return rc;
}

static kvp_err cmd_serve(struct args *a, struct kvp_error *e)
{
    if (a->threads > 4096)
        return kvp_fail(e, KVP_EINPUT, "serve: --threads is at most 4096");
    return with_model(a, "serve", serve_model, e);
}

static kvp_err list_charts(FILE *f, const char *format, struct kvp_error *e)
{
    struct table t = {.columns = 3, .head = {"name", "reads", "shows"}};
    const char *row[3];
    kvp_err rc;

    for (uint32_t i = 0; kvp_chart_at(i, row); i++)
        table_row(&t, row[0], row[1], row[2]);
    rc = table_print(f, format, &t, e);
    table_free(&t);
    return rc;
}

static kvp_err cmd_list(struct args *a, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    KVP_TRY(one_operand(a, "list", "of techniques, models, devices, formats, pairs, charts", e));
    KVP_TRY(out_open(&o, NULL, e));
    rc = strcmp(a->operand[0], "charts") == 0 ? list_charts(o.f, a->format, e) : kvp_list_print(o.f, a->operand[0], a->format, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static kvp_err cmd_plot(struct args *a, struct kvp_error *e)
{
    if (a->n_operands < 2)
        return kvp_fail(e, KVP_EINPUT, "plot: expected CHART INPUT..., see `kvproof list charts`");
    return kvp_plot(a->operand[0], a->operand + 1, a->n_operands - 1, a->out, a->script, e);
}

static kvp_err print_shown(const struct args *a, const struct results *r, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    KVP_TRY(out_open(&o, a->out, e));
    rc = res_print(o.f, a->format, r->array, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static kvp_err cmd_show(struct args *a, struct kvp_error *e)
{
    struct results r;
    kvp_err rc;

    if (a->n_operands < 1)
        return kvp_fail(e, KVP_EINPUT, "show: expected RESULTS..., files of `kvproof validate` or `serve` with -o jsonl");
    KVP_TRY(results_load(&r, a->operand, a->n_operands, RESULTS_VALIDATE | RESULTS_SERVE, e));
    rc = print_shown(a, &r, e);
    results_free(&r);
    return rc;
}

static const struct command commands[] = {
    {"estimate", ESTIMATE, "MODEL", "predict memory, FLOPs, traffic and time", "kvproof estimate llama-3.1-8b -c 128k -b 4 -t paged:16 -d h200", cmd_estimate},
    {"validate", VALIDATE, "MODEL", "run it on real kernels, predicted beside measured", "kvproof validate qwen3-0.6b -c 512 --all", cmd_validate},
    {"serve", SERVE, "MODEL", "serve a trace of requests from a pool of blocks, predicted beside measured", "kvproof serve qwen3-0.6b --layers 4 --trace mooncake.jsonl --limit 20 -t prefix -t chunked-prefill:512", cmd_serve},
    {"sweep", SWEEP, "MODEL...", "estimates over lists of workloads, a row each", "kvproof sweep llama-2-7b qwen3-32b -c 1k-128k*2 -b 1,8,64 -o csv", cmd_sweep},
    {"fit", FIT, "MODEL", "what fits on a device: context, batch, fewest devices", "kvproof fit qwen3-32b -d h200 -tp 2", cmd_fit},
    {"compare", COMPARE, "MODEL", "every technique side by side, and when it pays", "kvproof compare llama-2-7b -c 32k -d h200", cmd_compare},
    {"calibrate", CALIBRATE, "[ROWS.csv...]", "learn times of ops from timings made elsewhere", "kvproof calibrate --from decode_attention.csv -o h100.json", cmd_calibrate},
    {"predict-ops", PREDICT_OPS, "ROWS.csv", "predicted times beside the rows of such a file", "kvproof predict-ops rows.csv -d h100.json -o csv", cmd_predict_ops},
    {"show", SHOW, "RESULTS...", "print results of validate or serve again, in another form", "kvproof show results.jsonl -o md", cmd_show},
    {"plot", PLOT, "CHART INPUT...", "draw a chart of results with gnuplot", "kvproof plot memory results.jsonl -o memory.svg", cmd_plot},
    {"list", LIST, "WHAT", "techniques, models, devices, formats, pairs, charts", "kvproof list techniques", cmd_list},
};
enum { N_COMMANDS = sizeof(commands) / sizeof(commands[0]) };

static void print_help(const struct command *c)
{
    printf("kvproof %s: %s\n\nusage: kvproof %s [options] %s\n  e.g. %s\n\n", c->name, c->summary, c->name,
           c->operands, c->example);
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        char left[64];

        if (!(o->commands & c->id))
            continue;
        snprintf(left, sizeof(left), "%s%.*s%s --%s %s", *o->letters ? "-" : " ", *o->letters ? (int)strcspn(o->letters, " ") : 1,
                 *o->letters ? o->letters : " ", *o->letters ? "," : " ", o->name, o->arg ? o->arg : "");
        printf("  %-30s %s\n", left, o->help);
        if (*o->aliases)
            printf("  %-30s also: %s\n", "", o->aliases);
        if (strchr(o->letters, ' '))
            printf("  %-30s and -%s\n", "", strchr(o->letters, ' ') + 1);
    }
}

static void print_usage(void)
{
    printf("kvproof %s: predicts what a language model needs under a KV-cache technique, then proves it\n\n", KVP_VERSION);
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  kvproof %-9s %-15s %s\n", commands[i].name, commands[i].operands, commands[i].summary);
    printf("\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  e.g. %s\n", commands[i].example);
    printf("\n`kvproof COMMAND --help` lists its options. Exit: 0 yes, 1 no, 2 wrong input, 3 system failed.\n");
}

static kvp_err run_command(const struct command *c, int argc, char **argv, struct kvp_error *e)
{
    struct args a = {.format = "table", .seed = 1, .max_time_error = -1};

    KVP_TRY(parse_args(&a, argc, argv, c->id, c->name, e));
    if (a.help) {
        print_help(c);
        return KVP_OK;
    }
    KVP_TRY(derive(&a, e));
    return c->run(&a, e);
}

static kvp_err find_command(const struct command **out, const char *word, struct kvp_error *e)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, word) == 0) {
            *out = &commands[i];
            return KVP_OK;
        }
    return kvp_fail(e, KVP_EINPUT, "unknown command '%s', see `kvproof help`", word);
}

/* Of one command, or of all when `word` is NULL. */
static kvp_err help(const char *word, struct kvp_error *e)
{
    const struct command *c;

    if (!word) {
        print_usage();
        return KVP_OK;
    }
    KVP_TRY(find_command(&c, word, e));
    print_help(c);
    return KVP_OK;
}

static kvp_err dispatch(int argc, char **argv, struct kvp_error *e)
{
    const char *word = argc > 1 ? argv[1] : "help";
    const struct command *c;

    if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
        return help(argc > 2 ? argv[2] : NULL, e);
    if (strcmp(word, "--version") == 0 || strcmp(word, "version") == 0) {
        printf("kvproof %s\n", KVP_VERSION);
        return KVP_OK;
    }
    KVP_TRY(find_command(&c, word, e));
    return run_command(c, argc - 2, argv + 2, e);
}

int main(int argc, char **argv)
{
    struct kvp_error e = {0};
    kvp_err rc;

    signal(SIGPIPE, SIG_IGN); /* a dead gnuplot or pager is an error code, not an end */
    rc = dispatch(argc, argv, &e);
    if (rc == KVP_OK && (fflush(stdout) != 0 || ferror(stdout)))
        rc = kvp_fail(&e, KVP_ESYS, "writing to stdout failed: %s", strerror(errno));
    if (rc != KVP_OK)
        fprintf(stderr, "kvproof: %s\n", e.text);
    return kvp_exit_status(rc);
}
