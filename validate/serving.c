#include "validate/serving.h"

#include "validate/compare.h"
#include "validate/measure/probe.h"
#include "validate/result.h"
#include "validate/serve/serve.h"
#include "validate/tokens.h"

#include <inttypes.h>
#include <math.h>

struct run {
    const struct serving_request *q;
    struct kvp_stack stack;
    struct kvp_serve_options serve;
    const struct kb_backend *be;
    struct kb_info info;
    struct probe probe;
    struct kvp_device device;
    struct kvp_serving predicted, measured;
};

static kvp_err complete_stack(struct run *r, struct kvp_error *e)
{
    r->stack = *r->q->stack;
    if (!kvp_stack_on(&r->stack, KVP_AXIS_STORE))
        KVP_TRY(kvp_stack_add(&r->stack, "paged", e));
    if (!kvp_stack_on(&r->stack, KVP_AXIS_BATCHING))
        KVP_TRY(kvp_stack_add(&r->stack, "continuous-batching", e));
    return KVP_OK;
}

/* Tokens of a block; 1 where there is none, and whoever reads the rules says so. */
static uint64_t block_of(const struct kvp_stack *s)
{
    const struct kvp_spec *store = kvp_stack_on(s, KVP_AXIS_STORE);
    const struct kvp_param *p = store ? kvp_spec_param(store, "block") : NULL;

    return p && p->i > 0 ? (uint64_t)p->i : 1;
}

static void complete_serve(struct run *r)
{
    r->serve = r->q->serve;
    if (!(r->serve.step_s > 0))
        r->serve.step_s = 0.05;
    for (uint64_t i = 0; !r->q->serve.blocks && i < r->q->trace->n; i++)
        r->serve.blocks += (r->q->trace->request[i].prompt + r->q->trace->request[i].output - 2) / block_of(&r->stack) + 1;
}

static kvp_err probe_machine(struct run *r, struct kvp_error *e)
{
    struct kb_dev *dev = NULL;
    kvp_err rc;

    KVP_TRY(r->be->open(&dev, &(struct kb_options){.threads = r->q->threads}, e));
    rc = r->be->info(dev, &r->info, e);
    if (rc == KVP_OK)
        rc = probe_device(r->be, dev, &r->probe, e);
    r->be->close(dev);
    val_device(&r->probe, &r->info, &r->device);
    return rc;
}

static kvp_err fits(const struct run *r, struct kvp_error *e)
{
    const struct kvp_serving *p = &r->predicted;
    const uint64_t need = p->pool_bytes + p->metadata_bytes + p->weights_bytes + p->activation_bytes + p->workspace_bytes;

    if (!r->info.memory_free || need <= r->info.memory_free)
        return KVP_OK;
    return kvp_fail(e, KVP_NO, "%s does not fit: a pool of %" PRIu64 " blocks and the rest are %" PRIu64 " bytes, and %s has %" PRIu64
                    " free; give fewer --blocks", r->q->model->name, r->serve.blocks, need, r->be->name, r->info.memory_free);
}

static double ratio(uint64_t part, double whole)
{
    return whole > 0 ? (double)part / whole : 0;
}

/* What operators ask: of the rows that were needed, how many were found; of the pool, how much was held; of that, how much
 * held nothing. */
static kvp_err shares(json_t *res, const struct run *r, struct kvp_error *e)
{
    const struct kvp_serving *of[2] = {&r->predicted, &r->measured};
    double hit[2], held[2], empty[2];

    for (int i = 0; i < 2; i++) {
        const struct kvp_serving *s = of[i];

        hit[i] = ratio(s->hit_tokens, (double)(s->hit_tokens + s->computed_tokens));
        held[i] = ratio(s->block_steps, (double)s->steps * (double)r->serve.blocks);
        empty[i] = ratio(s->empty_slot_steps, (double)s->block_steps * (double)block_of(&r->stack));
    }
    KVP_TRY(res_row(res, "hit rate", "share", hit[0], hit[1], "hit tokens of hit and computed tokens", e));
    KVP_TRY(res_row(res, "pool occupancy", "share", held[0], held[1], "held blocks of the pool's, mean of the steps", e));
    return res_row(res, "fragmentation", "share", empty[0], empty[1], "empty slots of the held blocks', mean of the steps", e);
}

static kvp_err rows(json_t *res, const struct run *r, struct kvp_error *e)
{
    const struct kvp_serving *p = &r->predicted, *m = &r->measured;
    const struct {
        const char *row, *kind;
        uint64_t predicted, measured;
        const char *how;
    } list[] = {
        {"steps", "count", p->steps, m->steps, "scheduled | passes that ran"},
        {"hit tokens", "count", p->hit_tokens, m->hit_tokens, "scheduled | rows taken over from the pool"},
        {"computed tokens", "count", p->computed_tokens, m->computed_tokens, "scheduled | rows that ran"},
        {"answered tokens", "count", p->output_tokens, m->output_tokens, "scheduled | rows of logits"},
        {"preemptions", "count", p->preemptions, m->preemptions, "scheduled | begun again from the first token"},
        {"evicted blocks", "count", p->evictions, m->evictions, "scheduled | contents given up"},
        {"blocks at peak", "count", p->peak_blocks, m->peak_blocks, "scheduled | counted in every pass"},
        {"block steps", "count", p->block_steps, m->block_steps, "held blocks, added up over the steps"},
        {"empty slot steps", "count", p->empty_slot_steps, m->empty_slot_steps, "their slots without a token, added up"},
        {"weights", "bytes", p->weights_bytes, m->weights_bytes, "exact: tensor by tensor | ledger"},
        {"pool", "bytes", p->pool_bytes, m->pool_bytes, "exact: closed form | ledger"},
        {"metadata", "bytes", p->metadata_bytes, m->metadata_bytes, "exact: closed form | ledger"},
        {"activation", "bound", p->activation_bytes, m->activation_bytes, "upper bound: the widest pass | ledger high water"},
        {"workspace", "bound", p->workspace_bytes, m->workspace_bytes, "upper bound | ledger high water"},
    };

    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
        KVP_TRY(res_row(res, list[i].row, list[i].kind, (double)list[i].predicted, (double)list[i].measured, list[i].how, e));
    KVP_TRY(shares(res, r, e));
    return res_row(res, "all passes", "time", p->seconds, m->seconds, "probed roofline of every pass | no clock inside", e);
}

static json_t *head(const struct run *r)
{
    const struct serving_request *q = r->q;
    json_t *specs = json_array();
    char text[256];

    for (uint32_t i = 0; specs && i < r->stack.n; i++) {
        kvp_spec_text(&r->stack.spec[i], text, sizeof(text));
        json_array_append_new(specs, json_string(text));
    }
    return json_pack("{s:s, s:s, s:{s:s,s:I}, s:{s:s,s:I,s:I,s:f}, s:o, s:{s:s,s:s}, s:{s:s,s:s,s:s,s:I}, s:s, s:I, s:{s:f,s:f,s:f}, s:[]}",
                     "schema", "kvproof-serve/1", "kvproof", KVP_VERSION, "model", "name", q->model->name, "layers",
                     (json_int_t)q->model->layers, "trace", "name", q->trace_name, "requests", (json_int_t)q->trace->n, "blocks",
                     (json_int_t)r->serve.blocks, "step_s", r->serve.step_s, "techniques", specs, "formats", "weights",
                     kvp_format_name(q->formats.weights), "kv", kvp_format_name(q->formats.kv), "backend", "name", r->be->name,
                     "device", r->info.name, "isa", r->info.isa, "threads", (json_int_t)r->info.threads, "weights_from",
                     q->weights_dir ? q->weights_dir : "random", "seed", (json_int_t)q->seed, "probe", "read_gb_per_s",
                     r->probe.read_bytes_per_s * 1e-9, "gemm_gflop_per_s", r->probe.gemm_flops * 1e-9, "launch_us",
                     r->probe.launch_s * 1e6, "rows");
}

static kvp_err print(const struct run *r, json_t *res, struct kvp_error *e)
{
    json_t *all = json_pack("[O]", res);
    struct out_file o;
    kvp_err rc = all ? out_open(&o, r->q->out, e) : kvp_fail(e, KVP_ENOMEM, "out of memory for results");

    if (rc == KVP_OK) {
        rc = res_print(o.f, r->q->format, all, e);
        rc = rc == KVP_OK ? out_commit(&o, e) : (out_abort(&o), rc);
    }
    json_decref(all);
    return rc;
}

static kvp_err report(const struct run *r, struct kvp_error *e)
{
    json_t *res = head(r);
    kvp_err rc = res ? rows(res, r, e) : kvp_fail(e, KVP_ENOMEM, "out of memory for results");

    if (rc == KVP_OK)
        rc = print(r, res, e);
    if (rc == KVP_OK && !res_bytes_agree(res))
        rc = kvp_fail(e, KVP_NO, "%s: predicted and measured counts or bytes differ", r->q->trace_name);
    json_decref(res);
    return rc;
}

kvp_err serving_run(const struct serving_request *q, struct kvp_error *e)
{
    struct run r = {.q = q};
    struct serve_run s;

    KVP_TRY(out_check(q->out, e));
    KVP_TRY(complete_stack(&r, e));
    complete_serve(&r);
    KVP_TRY(kvp_serve_predict(&r.predicted, q->model, &r.stack, q->trace, &r.serve, &q->formats, NULL, e)); /* what is wrong is said at once */
    KVP_TRY(kb_find(&r.be, q->backend, e));
    KVP_TRY(probe_machine(&r, e));
    KVP_TRY(kvp_serve_predict(&r.predicted, q->model, &r.stack, q->trace, &r.serve, &q->formats, &r.device, e));
    KVP_TRY(fits(&r, e));
    s = (struct serve_run){.model = q->model, .stack = &r.stack, .trace = q->trace, .serve = r.serve,
                           .engine = {.backend = r.be, .device = {.threads = q->threads}, .weights = q->formats.weights,
                                      .kv = q->formats.kv, .seed = q->seed, .weights_dir = q->weights_dir}};
    KVP_TRY(serve_trace(&r.measured, &s, e));
    return report(&r, e);
}
