#include "validate/compare.h"

#include "validate/caches/cache.h"
#include "validate/engine/engine.h"
#include "validate/engine/shelf.h"
#include "validate/measure/fidelity.h"
#include "validate/measure/probe.h"
#include "validate/measure/timing.h"
#include "validate/result.h"
#include "validate/tokens.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* What all stacks share. */
struct run {
    const struct val_request *req;
    const struct kb_backend *be;
    struct probe probe;
    struct kb_info info;
    struct tokens tokens;
    struct shelf shelf;  /* weights that the next stack may need too */
    struct heard full;   /* the full cache's logits, of prompts that have their first `shared` tokens in common */
    uint64_t shared;
    bool asked;          /* whether it ran, ... */
    char no_full[512];   /* ... and why it could not */
    double started;
};

static double now_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void progress(const struct run *r, const char *what, const char *detail)
{
    if (r->req->progress)
        fprintf(stderr, "\r\033[K%s%s%s", what, *detail ? ": " : "", detail);
}

/* ---- one run of the engine --------------------------------------------------------------------- */

/* Tokens of an encoder's source. */
static uint64_t source_tokens(const struct val_request *q)
{
    if (!q->model->encoders)
        return 0;
    return q->formats.encoder_tokens ? q->formats.encoder_tokens : q->model->encoder_positions;
}

/* Random ones, of another seed than the prompt's. */
static kvp_err give_source(const struct val_request *q, struct eng *g, struct kvp_error *e)
{
    struct tokens ids;
    kvp_err rc;

    if (!q->model->encoders)
        return KVP_OK;
    KVP_TRY(tokens_load(&ids, NULL, q->model->vocab,
                        &(struct kvp_workload){.batch = q->workload.batch, .prompt = source_tokens(q), .context = source_tokens(q)},
                        q->seed + 1, e));
    rc = eng_source(g, ids.prompt, e);
    tokens_free(&ids);
    return rc;
}

/* What a stack says that all prompts begin with. */
static uint64_t shared_tokens(const struct kvp_stack *s)
{
    const struct kvp_spec *spec = kvp_stack_on(s, KVP_AXIS_REUSE);
    const struct kvp_param *p = spec ? kvp_spec_param(spec, "shared") : NULL;

    return !spec ? 0 : p && p->given ? (uint64_t)p->i : UINT64_MAX;
}

static kvp_err load_tokens(struct tokens *ids, const struct run *r, uint64_t shared, struct kvp_error *e)
{
    const struct val_request *q = r->req;

    KVP_TRY(tokens_load(ids, q->tokens_file, q->model->vocab, &q->workload, q->seed, e));
    tokens_share(ids, shared);
    return KVP_OK;
}

/* Where the logits of a run go: into a file, and into rows that are kept. */
struct listener {
    const struct val_request *q;
    struct logit_file file;
    struct heard heard;
    float *room, *own; /* own: freed */
    uint64_t forward;
};

static kvp_err listen(void *self, int phase, struct kvp_error *e)
{
    struct listener *l = self;
    const struct kvp_workload *w = &l->q->workload;
    const uint64_t vocab = l->q->model->vocab, rows = phase == ENG_PREFILL && l->q->dump_logits ? w->prompt : 1;
    float *kept = heard_rows(&l->heard, l->forward++);

    for (uint64_t b = 0; kept && b < w->batch; b++)
        memcpy(kept + b * vocab, l->room + (b * rows + rows - 1) * vocab, vocab * sizeof(*kept));
    return l->q->dump_logits ? logit_file_write(&l->file, rows, e) : KVP_OK;
}

static void listener_close(struct listener *l)
{
    logit_file_abort(&l->file);
    heard_free(&l->heard);
    free(l->own);
}

static kvp_err listener_open(struct listener *l, const struct val_request *q, struct kvp_error *e)
{
    const struct kvp_workload *w = &q->workload;
    kvp_err rc;

    *l = (struct listener){.q = q};
    rc = heard_open(&l->heard, w->batch, w->generate + 1, q->model->vocab, e);
    if (rc == KVP_OK && q->dump_logits)
        rc = logit_file_open(&l->file, q->dump_logits, w->batch * w->prompt, q->model->vocab, e);
    else if (rc == KVP_OK)
        rc = (l->own = malloc((size_t)w->batch * q->model->vocab * sizeof(float))) ? KVP_OK : kvp_fail(e, KVP_ENOMEM, "out of memory for logits");
    l->room = q->dump_logits ? logit_file_row(&l->file) : l->own;
    if (rc != KVP_OK)
        listener_close(l);
    return rc;
}

static kvp_err run_engine(const struct run *r, const struct kvp_stack *s, struct eng *g, struct listener *l, struct timing *t, struct kvp_error *e)
{
    const struct val_request *q = r->req;
    struct tokens ids;
    struct timing_plan plan = {.batch = q->workload.batch, .generate = q->workload.generate, .repeat = q->repeat ? q->repeat : 1,
                               .room = l->room, .every_row = q->dump_logits != NULL, .logits = listen, .self = l};
    kvp_err rc;

    KVP_TRY(load_tokens(&ids, r, shared_tokens(s), e));
    plan.prompt = ids.prompt;
    plan.rest = ids.rest;
    rc = timing_run(g, &plan, t, e);
    tokens_free(&ids);
    return rc == KVP_OK ? logit_file_commit(&l->file, e) : rc;
}

static kvp_err dump(struct eng *g, const char *path, kvp_err (*fn)(struct eng *, FILE *, struct kvp_error *),
                    struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    if (!path)
        return KVP_OK;
    KVP_TRY(out_open(&o, path, e));
    rc = fn(g, o.f, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

/* ---- rows -------------------------------------------------------------------------------------- */

static kvp_err byte_rows(json_t *res, const struct kvp_memory *p, const struct ledger *l, struct kvp_error *e)
{
    const uint64_t *now = l->now;
    const struct {
        const char *row, *kind;
        uint64_t predicted, measured;
        const char *how;
    } rows[] = {
        {"weights", "bytes", p->weights_bytes, now[LED_WEIGHTS], "exact: tensor by tensor | ledger"},
        {"cache at rest", "bytes", p->cache_bytes, now[LED_CACHE] + now[LED_METADATA], "exact: closed form | ledger"},
        {"cache at peak", "bytes", p->cache_peak_bytes, l->cache_peak, "exact: closed form | ledger high water"},
        {"metadata", "bytes", p->metadata_bytes, now[LED_METADATA], "exact: part of the cache | ledger"},
        {"state", "bytes", p->state_bytes, now[LED_STATE], p->state_bytes ? "exact: columns and matrices | ledger"
                                                                          : "exact: no recurrent layers | ledger"},
        {"activation", "bound", p->activation_bytes, l->peak[LED_ACTIVATION], "upper bound | ledger high water"},
        {"workspace", "bound", p->workspace_bytes, l->peak[LED_WORKSPACE], "upper bound | ledger high water"},
        {"total at peak", "bound", p->peak_bytes, l->total_peak, "upper bound: sum | ledger high water"},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        KVP_TRY(res_row(res, rows[i].row, rows[i].kind, (double)rows[i].predicted, (double)rows[i].measured,
                        rows[i].how, e));
    return KVP_OK;
}

/* Predicted seconds of an op in a phase, all layer classes; < 0 when the prediction lists none. */
static double op_seconds(const struct kvp_estimate *est, enum kvp_phase phase, enum kvp_op op)
{
    double s = -1;

    for (uint32_t i = 0; i < est->n_ops; i++)
        if (est->ops[i].op == op && est->ops[i].phase == phase)
            s = (s < 0 ? 0 : s) + est->ops[i].seconds;
    return s;
}

static kvp_err phase_rows(json_t *res, const struct kvp_estimate *est, const struct timing *t, int phase,
                          const char *word, struct kvp_error *e)
{
    for (int op = 0; op < KVP_OPS; op++) {
        const double p = op_seconds(est, phase == ENG_PREFILL ? KVP_PREFILL : KVP_DECODE, (enum kvp_op)op);
        const double m = t->op[phase][op];
        char row[64];

        if (p < 0 && m < 0)
            continue;
        snprintf(row, sizeof(row), "%s %s", word, kvp_op_name((enum kvp_op)op));
        KVP_TRY(res_row(res, row, "time", p < 0 ? NAN : p, m < 0 ? -1 : m,
                        p < 0 ? "not in the step at full context | median of the steps that had it" : "probed roofline | median",
                        e));
    }
    return KVP_OK;
}

/* How a whole forward's time is known. */
static kvp_err whole_row(json_t *res, const char *row, double predicted, const struct timing *t, int phase,
                         struct kvp_error *e)
{
    char how[96];

    snprintf(how, sizeof(how), "sum of ops%s | median of %" PRIu64 "%s, %s",
             phase == ENG_DECODE ? " at full context" : "", t->forwards[phase],
             phase == ENG_DECODE ? " steps up to it" : "",
             t->clocked[phase] ? "with a clock around every op" : "no clock inside");
    return res_row(res, row, "time", predicted, t->forward[phase], how, e);
}

static kvp_err time_rows(json_t *res, const struct kvp_estimate *est, const struct timing *t, bool decoded,
                         struct kvp_error *e)
{
    KVP_TRY(phase_rows(res, est, t, ENG_PREFILL, "prefill", e));
    if (decoded)
        KVP_TRY(phase_rows(res, est, t, ENG_DECODE, "decode", e));
    KVP_TRY(whole_row(res, "prefill", est->ttft_s, t, ENG_PREFILL, e));
    return decoded ? whole_row(res, "decode step", est->tpot_s, t, ENG_DECODE, e) : KVP_OK;
}

/* FLOPs of the ops that are a matrix product and nothing else. */
static kvp_err flop_row(json_t *res, const char *row, const struct kvp_stack *s, const struct kvp_estimate *est, enum kvp_phase phase,
                        uint64_t measured, struct kvp_error *e)
{
    static const bool is_matrix[KVP_OPS] = {[KVP_OP_QKV] = true, [KVP_OP_O_PROJ] = true, [KVP_OP_MLP_UP] = true,
                                            [KVP_OP_MLP_DOWN] = true, [KVP_OP_HEAD] = true, [KVP_OP_ABSORB] = true,
                                            [KVP_OP_CROSS_QKV] = true, [KVP_OP_CROSS_O] = true,
                                            [KVP_OP_ROUTER] = true, [KVP_OP_REC_IN] = true, [KVP_OP_REC_OUT] = true};
    const struct kvp_spec *mixer = kvp_stack_on(s, KVP_AXIS_MIXER);
    const bool expanded = phase == KVP_PREFILL || (mixer && strcmp(mixer->name, "xc-cache") == 0); /* else a step's attention rebuilds */
    double predicted = 0;

    for (uint32_t i = 0; i < est->n_ops; i++)
        if (est->ops[i].phase == phase && (is_matrix[est->ops[i].op] || (est->ops[i].op == KVP_OP_REBUILD && expanded)))
            predicted += (double)est->ops[i].flops;
    return res_row(res, row, "flops", predicted, (double)measured, "2 m n k | arguments of the GEMMs that ran", e);
}

static kvp_err flop_rows(json_t *res, const struct kvp_stack *s, const struct kvp_estimate *est, const struct timing *t, bool decoded,
                         struct kvp_error *e)
{
    KVP_TRY(flop_row(res, "prefill matrices", s, est, KVP_PREFILL, t->gemm_flops[ENG_PREFILL], e));
    return decoded ? flop_row(res, "decode matrices", s, est, KVP_DECODE, t->gemm_flops[ENG_DECODE], e) : KVP_OK;
}

/* {"prefill": {"gemm": {"calls", "bytes_written"}, ...}, "decode": {...}}, of one forward each. */
static void add_kernels(json_t *res, const struct eng *g)
{
    static const char *const phases[ENG_PHASES] = {"prefill", "decode"};
    json_t *all = json_object();

    for (int phase = 0; phase < ENG_PHASES; phase++) {
        const struct eng_kernel *ran = eng_kernels(g, phase);
        json_t *o = json_object();

        for (int k = 0; k < ENG_KERNELS; k++)
            if (ran[k].calls)
                json_object_set_new(o, eng_kernel_name(k), json_pack("{s:I, s:I}", "calls", (json_int_t)ran[k].calls, "bytes_written",
                                                                     (json_int_t)ran[k].written));
        json_object_set_new(all, phases[phase], o);
    }
    json_object_set_new(res, "kernels", all);
}

/* Kernel calls that ran and bytes that were asked for: what the measured column rests on. */
static void add_evidence(json_t *res, const struct eng *g)
{
    static const char *const tags[LED_TAGS] = {"weights", "cache", "metadata", "state", "activation", "workspace", "trace"};
    const struct ledger *l = eng_ledger(g);
    json_t *calls = json_object(), *tag, *ledger;

    for (int op = 0; op < KVP_OPS; op++)
        if (eng_calls(g)[op])
            json_object_set_new(calls, kvp_op_name((enum kvp_op)op), json_integer((json_int_t)eng_calls(g)[op]));
    json_object_set_new(res, "calls", calls);
    ledger = json_pack("{s:I, s:I, s:I}", "allocations", (json_int_t)l->allocations, "cache_peak",
                       (json_int_t)l->cache_peak, "total_peak", (json_int_t)l->total_peak);
    for (int t = 0; t < LED_TAGS; t++) {
        tag = json_pack("{s:I, s:I}", "now", (json_int_t)l->now[t], "peak", (json_int_t)l->peak[t]);
        json_object_set_new(ledger, tags[t], tag);
    }
    json_object_set_new(res, "ledger", ledger);
}

/* ---- the full cache beside it -------------------------------------------------------------------- */

/* The technique that makes another model of it, or NULL. */
static const struct kvp_spec *changes_architecture(const struct kvp_stack *s)
{
    const struct kvp_spec *mixer = kvp_stack_on(s, KVP_AXIS_MIXER);

    return mixer ? mixer : kvp_stack_on(s, KVP_AXIS_SHARE);
}

static json_t *number_or_null(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static kvp_err fidelity_json(json_t *res, const struct run *r, const struct kvp_stack *s, const struct fidelity *f, struct kvp_error *e)
{
    const struct kvp_spec *other = changes_architecture(s);
    const bool none = f->rows == 0 || f->broken;
    json_t *o = json_pack("{s:s, s:I, s:o, s:o, s:b}", "against", "dense", "rows", (json_int_t)f->rows, "relative_logit_error",
                          number_or_null(none ? NAN : fidelity_error(f)), "kl_divergence", number_or_null(none ? NAN : fidelity_divergence(f)),
                          "needs_training", other != NULL);
    char note[640];

    if (!o || json_object_set_new(res, "fidelity", o) != 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a result");
    if (other)
        snprintf(note, sizeof(note), "needs training: %s changes the architecture", other->name);
    else if (f->broken)
        snprintf(note, sizeof(note), "some logits are not finite");
    else if (*r->no_full)
        snprintf(note, sizeof(note), "the full cache did not run: %s", r->no_full);
    else if (!r->req->weights_dir)
        snprintf(note, sizeof(note), "random weights: not a statement about quality");
    else
        return KVP_OK;
    json_object_set_new(o, "note", json_string(note));
    return KVP_OK;
}

/* ---- one stack --------------------------------------------------------------------------------- */

static json_t *stack_json(const struct kvp_stack *s)
{
    json_t *a = json_array();
    char text[256];

    for (uint32_t i = 0; a && i < s->n; i++) {
        kvp_spec_text(&s->spec[i], text, sizeof(text));
        json_array_append_new(a, json_string(text));
    }
    return a;
}

/* FNV-1a (Fowler, Noll, Vo), a 64-bit word at a time. */
static uint64_t fold(uint64_t hash, uint64_t word)
{
    return (hash ^ word) * 0x100000001b3u;
}

static uint64_t fold_real(uint64_t hash, double x)
{
    uint64_t bits;

    memcpy(&bits, &x, sizeof(bits));
    return fold(hash, bits);
}

static uint64_t fold_class(uint64_t hash, const struct kvp_layer_class *c)
{
    const uint64_t words[] = {c->mixer, c->heads, c->kv_heads, c->head_dim, c->window, c->qkv_bias, c->o_bias, c->qk_norm,
                              c->ffn, c->ffn_width, c->act, c->ffn_bias, c->recurrent, c->inner, c->state, c->conv, c->groups,
                              c->rec_heads, c->rec_head_dim, c->dt_rank, c->low_rank[0], c->low_rank[1], c->low_rank[2],
                              c->low_rank[3], c->conv_bias, c->rec_bias, c->rec_norm, c->v_head_dim, c->chunk, c->sinks, c->no_kv, c->no_rope,
                              c->q_rank, c->kv_rank, c->nope_dim, c->rope_dim, c->experts, c->experts_per_token,
                              c->expert_width, c->shared_width, c->router_bias, c->expert_bias, c->norms};

    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        hash = fold(hash, words[i]);
    return hash;
}

/* Tells two models of one name apart: a config that was edited is another model. */
static void model_digest(const struct kvp_model *m, char *out, size_t n)
{
    const uint64_t words[] = {m->vocab, m->width, m->layers, m->norm, m->position, m->rope_scaling, m->max_positions, m->tied};
    const double reals[] = {m->norm_eps, m->rope_theta, m->rope_factor, m->rope_low_freq, m->rope_high_freq,
                            m->rope_original_context};
    const struct kvp_numbers *v = &m->numbers;
    const uint64_t flags[] = {v->norm_add_one, v->norms_after, v->rope_neighbours, v->parallel, v->route, v->route_normalise,
                              v->route_pairs, v->route_groups, v->route_groups_kept, v->yarn_whole};
    const double values[] = {v->embed_scale, v->score_cap, v->logit_cap, v->score_scale, v->window_theta, v->rotary_part,
                             v->route_scale, v->swiglu_alpha, v->swiglu_limit, v->yarn_fast, v->yarn_slow, v->yarn_mscale,
                             v->yarn_mscale_all, v->yarn_attention};
    uint64_t hash = 0xcbf29ce484222325u;

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        hash = fold(hash, flags[i]);
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        hash = fold_real(hash, values[i]);
    for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
        hash = fold(hash, words[i]);
    for (size_t i = 0; i < sizeof(reals) / sizeof(reals[0]); i++)
        hash = fold_real(hash, reals[i]);
    for (uint32_t i = 0; i < m->layers; i++)
        hash = fold_class(hash, &m->cls[m->class_of[i]]);
    for (uint32_t i = 0; i < m->encoders; i++)
        hash = fold_class(fold(hash, m->encoder[i].count), &m->encoder[i]);
    snprintf(out, n, "%016" PRIx64, hash);
}

/* Everything that makes two runs the same run, and what a reader needs to doubt it. */
static json_t *result_head(const struct run *r, const struct kvp_stack *s)
{
    const struct val_request *q = r->req;
    const struct kvp_model *m = q->model;
    const struct kvp_workload *w = &q->workload;
    char digest[24];

    model_digest(m, digest, sizeof(digest));
    return json_pack("{s:s, s:s, s:{s:s,s:I,s:s}, s:{s:I,s:I,s:I,s:I}, s:o, s:{s:s,s:s}, s:{s:s,s:I,s:s}, s:s, s:s, s:I, s:I, s:[]}",
                     "schema", "kvproof-validate/1", "kvproof", KVP_VERSION, "model", "name", m->name, "layers",
                     (json_int_t)m->layers, "digest", digest, "workload", "context", (json_int_t)w->context, "prompt",
                     (json_int_t)w->prompt, "generate", (json_int_t)w->generate, "batch", (json_int_t)w->batch,
                     "techniques", stack_json(s), "formats", "weights", kvp_format_name(q->formats.weights), "kv",
                     kvp_format_name(q->formats.kv), "backend", "name", r->be->name, "threads",
                     (json_int_t)r->info.threads, "device", r->info.name, "weights_from",
                     q->weights_dir ? q->weights_dir : "random", "tokens_from", q->tokens_file ? q->tokens_file : "random",
                     "seed", (json_int_t)q->seed, "repeat", (json_int_t)q->repeat, "rows");
}

static void add_machine(json_t *res, const struct run *r, uint64_t parameters)
{
    json_t *be = json_object_get(res, "backend");

    json_object_set_new(json_object_get(res, "model"), "parameters", json_integer((json_int_t)parameters));
    json_object_set_new(be, "isa", json_string(r->info.isa));
    json_object_set_new(be, "libraries", json_string(r->info.libraries));
    json_object_set_new(res, "probe", json_pack("{s:f,s:f,s:f}", "read_gb_per_s", r->probe.read_bytes_per_s * 1e-9,
                                                "gemm_gflop_per_s", r->probe.gemm_flops * 1e-9, "launch_us",
                                                r->probe.launch_s * 1e6));
}

void val_device(const struct probe *p, const struct kb_info *info, struct kvp_device *d)
{
    *d = (struct kvp_device){.bandwidth = p->read_bytes_per_s, .flops_f32 = p->gemm_flops, .flops_f16 = p->gemm_flops,
                             .launch_s = p->launch_s, .memory_bytes = info->memory_total, .interval = 0.3, .interval_high = 4};
    snprintf(d->name, sizeof(d->name), "%.*s", (int)sizeof(d->name) - 1, info->name);
    snprintf(d->basis, sizeof(d->basis), "probed roofline");
    snprintf(d->source, sizeof(d->source), "measured at the start of this run");
}

static struct eng_options engine_options(struct run *r)
{
    const struct val_request *q = r->req;

    return (struct eng_options){.backend = r->be, .device = {.threads = q->threads}, .weights = q->formats.weights,
                                .kv = q->formats.kv, .batch = q->workload.batch, .prompt = q->workload.prompt,
                                .generate = q->workload.generate, .encoder_tokens = source_tokens(q), .seed = q->seed, .weights_dir = q->weights_dir, .shelf = &r->shelf};
}

static kvp_err measured_rows(struct run *r, const struct kvp_stack *s, const struct kvp_estimate *est,
                             struct listener *l, json_t *res, struct kvp_error *e)
{
    const struct val_request *q = r->req;
    struct eng_options o = engine_options(r);
    struct eng *g = NULL;
    struct timing t;
    kvp_err rc;

    o.all_logits = q->dump_logits != NULL;
    o.trace = q->dump_kept != NULL;
    KVP_TRY(eng_open(&g, q->model, s, &o, e));
    rc = give_source(q, g, e);
    if (rc == KVP_OK)
        rc = run_engine(r, s, g, l, &t, e);
    if (rc == KVP_OK)
        rc = byte_rows(res, &est->memory, eng_ledger(g), e);
    if (rc == KVP_OK)
        rc = flop_rows(res, s, est, &t, q->workload.generate > 0, e);
    if (rc == KVP_OK)
        rc = time_rows(res, est, &t, q->workload.generate > 0, e);
    if (rc == KVP_OK)
        rc = dump(g, q->dump_kept, eng_dump_kept, e);
    if (rc == KVP_OK)
        rc = dump(g, q->dump_cache, eng_dump_cache, e);
    if (rc == KVP_OK)
        add_evidence(res, g);
    if (rc == KVP_OK)
        add_kernels(res, g);
    eng_close(g);
    return rc;
}

/* Asked before the engine takes it bit by bit, until the system kills it or something else. */
static kvp_err fits(const struct run *r, const struct kvp_estimate *est, struct kvp_error *e)
{
    const uint64_t need = est->memory.peak_bytes, have = r->info.memory_free;

    if (!have || need <= have) /* 0: unknown */
        return KVP_OK;
    return kvp_fail(e, KVP_NO, "%s does not fit: its peak is %" PRIu64 " bytes, and %s has %" PRIu64 " free", r->req->model->name,
                    need, r->be->name, have);
}

/* Ranks that follow the weights are predicted from their condition numbers: they belong to what is run, as the config does. */
static kvp_err estimate(const struct run *r, const struct kvp_stack *s, const struct kvp_options *formats, const struct kvp_device *d,
                        struct kvp_estimate *est, struct kvp_error *e)
{
    const struct val_request *q = r->req;
    const struct eng_options o = {.prompt = q->workload.prompt, .generate = q->workload.generate, .seed = q->seed, .weights_dir = q->weights_dir};
    struct kvp_model m = *q->model;
    double *conditions;
    kvp_err rc;

    KVP_TRY(eng_conditions(&conditions, q->model, s, &o, e));
    m.conditions = conditions;
    rc = kvp_estimate(est, &m, s, &q->workload, formats, d, e);
    free(conditions);
    return rc;
}

static kvp_err run_full(struct run *r, struct kvp_error *e)
{
    static const struct kvp_stack dense;
    const struct val_request *q = r->req;
    const struct eng_options o = engine_options(r);
    struct kvp_estimate est;
    struct tokens ids;
    struct eng *g;
    kvp_err rc;

    KVP_TRY(kvp_estimate(&est, q->model, &dense, &q->workload, &q->formats, NULL, e));
    rc = fits(r, &est, e);
    kvp_estimate_free(&est);
    KVP_TRY(rc);
    KVP_TRY(load_tokens(&ids, r, r->shared, e));
    rc = heard_open(&r->full, q->workload.batch, q->workload.generate + 1, q->model->vocab, e);
    if (rc == KVP_OK)
        rc = eng_open(&g, q->model, &dense, &o, e);
    if (rc == KVP_OK) {
        rc = give_source(q, g, e);
        if (rc == KVP_OK)
            rc = heard_run(&r->full, g, ids.prompt, ids.rest, e);
        eng_close(g);
    }
    tokens_free(&ids);
    return rc;
}

/* The full cache on the tokens that this stack gets; it runs when the first stack asks, after that stack's own engine is gone, so
 * that there is never more than one. That it cannot run is a reason, not a failure. */
static kvp_err ask_full(struct run *r, const struct kvp_stack *s, struct kvp_error *e)
{
    const uint64_t shared = r->req->workload.batch > 1 ? shared_tokens(s) : 0;
    struct kvp_error why = {0};
    kvp_err rc;

    if (r->asked && r->shared == shared)
        return KVP_OK;
    heard_free(&r->full);
    r->asked = true;
    r->shared = shared;
    r->no_full[0] = '\0';
    rc = run_full(r, &why);
    if (rc == KVP_OK)
        return rc;
    heard_free(&r->full);
    snprintf(r->no_full, sizeof(r->no_full), "%s", why.text);
    return rc == KVP_ESYS ? kvp_fail(e, rc, "%s", why.text) : KVP_OK;
}

static kvp_err add_fidelity(json_t *res, struct run *r, const struct kvp_stack *s, const struct heard *heard, struct kvp_error *e)
{
    struct fidelity f = {0};

    if (!changes_architecture(s)) {
        KVP_TRY(ask_full(r, s, e));
        if (r->full.logits)
            fidelity_of(&f, &r->full, heard);
    }
    return fidelity_json(res, r, s, &f, e);
}

static kvp_err run_heard(struct run *r, const struct kvp_stack *s, const struct kvp_estimate *est, json_t *res, struct kvp_error *e)
{
    struct listener l;
    kvp_err rc;

    KVP_TRY(listener_open(&l, r->req, e));
    rc = measured_rows(r, s, est, &l, res, e);
    if (rc == KVP_OK)
        rc = add_fidelity(res, r, s, &l.heard, e);
    listener_close(&l);
    return rc;
}

static kvp_err run_stack(struct run *r, const struct kvp_stack *s, json_t *res, struct kvp_error *e)
{
    const struct val_request *q = r->req;
    struct kvp_options formats = q->formats;
    struct kvp_estimate est;
    struct kvp_device d;
    kvp_err rc;

    formats.all_logits = q->dump_logits != NULL;
    val_device(&r->probe, &r->info, &d);
    KVP_TRY(estimate(r, s, &formats, &d, &est, e));
    add_machine(res, r, est.parameters);
    rc = fits(r, &est, e);
    if (rc == KVP_OK)
        rc = run_heard(r, s, &est, res, e);
    kvp_estimate_free(&est);
    return rc;
}

/* A row without numbers: `what` is not_applicable (there is nothing to run) or not_run (there is). */
static kvp_err note(json_t *res, const char *what, const char *why)
{
    static const char said[] = "not applicable: "; /* the row says it too */

    why += strncmp(why, said, sizeof(said) - 1) == 0 ? sizeof(said) - 1 : 0;
    if (strcmp(what, "not_run") == 0)
        json_object_set_new(res, what, json_string(why));
    json_object_set_new(res, "not_applicable", json_string(why));
    return KVP_OK;
}

/* In a list, a stack that does not suit this model is a row of its own, never a pass. */
static kvp_err run_or_note(struct run *r, const struct kvp_stack *s, json_t *res, struct kvp_error *e)
{
    const struct val_request *q = r->req;
    struct kvp_error why = {0};
    kvp_err rc;

    if (q->budget_s > 0 && now_s() - r->started > q->budget_s)
        return note(res, "not_run", "not run: --budget was used up");
    rc = kvp_stack_check(s, q->model, &q->workload, &why);
    if (rc == KVP_OK)
        rc = run_stack(r, s, res, &why);
    else if (rc == KVP_EINPUT)
        rc = KVP_ENOTSUP; /* a list's parameters are not the user's: they do not suit this model */
    if (rc == KVP_ENOTSUP && q->n_stacks > 1)
        return note(res, "not_applicable", why.text);
    if (rc == KVP_NO && q->n_stacks > 1) {
        char text[sizeof(why.text) + 16];

        snprintf(text, sizeof(text), "not run: %s", why.text);
        return note(res, "not_run", text);
    }
    return rc == KVP_OK ? rc : kvp_fail(e, rc, "%s", why.text);
}

/* ---- all stacks, resumable ---------------------------------------------------------------------- */

static bool same_run(const json_t *done, const json_t *head)
{
    static const struct {
        const char *group, *field; /* field NULL: the whole of it */
    } same[] = {{"schema", NULL}, {"kvproof", NULL}, {"workload", NULL}, {"techniques", NULL}, {"formats", NULL},
                {"weights_from", NULL}, {"tokens_from", NULL}, {"seed", NULL}, {"repeat", NULL}, {"model", "name"},
                {"model", "digest"}, {"backend", "name"}, {"backend", "device"}, {"backend", "threads"}};

    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        const json_t *a = json_object_get(done, same[i].group), *b = json_object_get(head, same[i].group);

        if (same[i].field) {
            a = json_object_get(a, same[i].field);
            b = json_object_get(b, same[i].field);
        }
        if (!json_equal(a, b))
            return false;
    }
    return true;
}

/* A finished stack of an interrupted run, or NULL. Lines that do not parse are a run cut short. */
static json_t *finished_before(const char *part, const json_t *head)
{
    FILE *f = fopen(part, "r");
    json_t *found = NULL, *line;
    char *text = NULL;
    size_t cap = 0;

    while (f && !found && getline(&text, &cap, f) > 0) {
        line = json_loads(text, 0, NULL);
        if (line && same_run(line, head))
            found = json_incref(line);
        json_decref(line);
    }
    free(text);
    if (f)
        fclose(f);
    return found;
}

static void remember(const char *part, const json_t *res)
{
    FILE *f = fopen(part, "a");

    if (!f)
        return; /* resuming is a convenience: the result itself reports a bad path */
    fputc('\n', f); /* whatever an interrupted run left half-written ends here */
    json_dumpf(res, f, JSON_COMPACT);
    fputc('\n', f);
    fclose(f);
}

static kvp_err run_all(struct run *r, json_t *results, const char *part, struct kvp_error *e)
{
    const struct val_request *q = r->req;

    for (uint32_t i = 0; i < q->n_stacks; i++) {
        char text[512], step[32];
        json_t *res = result_head(r, &q->stacks[i]), *done;
        kvp_err rc = KVP_OK;

        if (!res)
            return kvp_fail(e, KVP_ENOMEM, "out of memory for results");
        kvp_stack_text(&q->stacks[i], text, sizeof(text));
        snprintf(step, sizeof(step), "[%u/%u] ", i + 1, q->n_stacks);
        progress(r, step, text);
        done = part ? finished_before(part, res) : NULL;
        if (!done)
            rc = run_or_note(r, &q->stacks[i], res, e);
        json_array_append(results, done ? done : res);
        if (part && !done && rc == KVP_OK && !json_object_get(res, "not_run"))
            remember(part, res);
        json_decref(done);
        json_decref(res);
        KVP_TRY(rc);
    }
    progress(r, "", "");
    return KVP_OK;
}

/* A list in which nothing applies has shown nothing. */
static kvp_err any_ran(const json_t *results, struct kvp_error *e)
{
    const char *why = "nothing to run";
    size_t i;
    json_t *res;

    json_array_foreach(results, i, res) {
        if (!json_object_get(res, "not_applicable") || json_object_get(res, "not_run"))
            return KVP_OK;
        why = json_string_value(json_object_get(res, "not_applicable"));
    }
    return kvp_fail(e, KVP_EINPUT, "no technique of the list applies: %s", why);
}

static kvp_err judge(const struct val_request *q, const json_t *results, struct kvp_error *e)
{
    size_t i;
    json_t *res;

    json_array_foreach(results, i, res) {
        char name[512];

        kvp_stack_text(&q->stacks[i], name, sizeof(name));
        if (json_object_get(res, "not_run"))
            return kvp_fail(e, KVP_NO, "%s: %s", name, json_string_value(json_object_get(res, "not_run")));
        if (!res_bytes_agree(res))
            return kvp_fail(e, KVP_NO, "%s: predicted and measured bytes differ", name);
        if (q->max_time_error >= 0 && res_time_error(res) > q->max_time_error)
            return kvp_fail(e, KVP_NO, "%s: time is off by %.1f %%, more than --max-time-error %.1f %%", name,
                            100 * res_time_error(res), 100 * q->max_time_error);
    }
    return KVP_OK;
}

static kvp_err print_results(const struct val_request *q, const json_t *results, struct kvp_error *e)
{
    struct out_file o;
    kvp_err rc;

    KVP_TRY(out_open(&o, q->out, e));
    rc = res_print(o.f, q->format, results, e);
    return rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
}

static kvp_err probe_machine(struct run *r, struct kvp_error *e)
{
    struct kb_dev *dev = NULL;
    kvp_err rc;

    KVP_TRY(r->be->open(&dev, &(struct kb_options){.threads = r->req->threads}, e));
    progress(r, "probing the device", "");
    rc = r->be->info(dev, &r->info, e);
    if (rc == KVP_OK)
        rc = probe_device(r->be, dev, &r->probe, e);
    r->be->close(dev);
    return rc;
}

kvp_err val_run(const struct val_request *q, struct kvp_error *e)
{
    const bool dumps = q->dump_logits || q->dump_kept || q->dump_cache; /* only a run writes them */
    const char *const outputs[] = {q->out, q->dump_logits, q->dump_kept, q->dump_cache};
    struct run r = {.req = q, .started = now_s()};
    json_t *results;
    char *part = NULL;
    kvp_err rc;

    /* What is wrong with the input is said before anything runs. */
    if (q->n_stacks == 1)
        KVP_TRY(kvp_stack_check(&q->stacks[0], q->model, &q->workload, e));
    for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++)
        KVP_TRY(out_check(outputs[i], e));
    if (q->out && !dumps && asprintf(&part, "%s.part", q->out) < 0)
        return kvp_fail(e, KVP_ENOMEM, "out of memory");
    results = json_array();
    rc = results ? kb_find(&r.be, q->backend, e) : kvp_fail(e, KVP_ENOMEM, "out of memory");
    if (rc == KVP_OK)
        rc = tokens_load(&r.tokens, q->tokens_file, q->model->vocab, &q->workload, q->seed, e);
    if (rc == KVP_OK)
        rc = probe_machine(&r, e);
    if (rc == KVP_OK)
        rc = run_all(&r, results, part, e);
    if (rc == KVP_OK)
        rc = any_ran(results, e);
    if (rc == KVP_OK)
        rc = print_results(q, results, e);
    if (rc == KVP_OK && part)
        unlink(part);
    if (rc == KVP_OK)
        rc = judge(q, results, e);
    progress(&r, "", "");
    tokens_free(&r.tokens);
    heard_free(&r.full);
    shelf_close(&r.shelf);
    json_decref(results);
    free(part);
    return rc;
}

kvp_err val_runs(const struct kvp_stack *s, struct kvp_error *e)
{
    return cache_check(s, e);
}
