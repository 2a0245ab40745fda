#include "validate/serve/serve.h"

#include "validate/caches/pool.h"
#include "validate/serve/sched.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* What a pass takes, laid out once for the largest. */
struct loop {
    const struct serve_run *s;
    struct sched_rules rules;
    struct pool_shape shape;
    struct sched *sched;
    struct eng *g;
    struct sched_req *req; /* [n] */
    struct pool_seq *seq;  /* [seqs] */
    bool *wants;           /* [seqs] */
    int32_t *tokens;       /* [rows] */
    float *logits;         /* [seqs, vocab] */
    uint64_t arrived;
    struct kvp_serving *out;
};

/* ---- tokens ------------------------------------------------------------------------------------- */

/* SplitMix64's output function (Steele, Lea, Flood 2014). */
static uint64_t scatter(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Two texts part where a piece ends, and a block may end one token later. So a piece's first token tells it from other
 * pieces, from what is a prompt's own (ids from 2^63 on) and from answers, as far as the vocabulary goes. */
static uint64_t first_token(uint64_t number, uint64_t kind, uint64_t vocab)
{
    const uint64_t each = vocab / 3 ? vocab / 3 : 1;

    return (3 * ((number & ~(UINT64_C(3) << 62)) % each) + kind) % vocab;
}

int32_t serve_token(const struct kvp_trace *t, uint64_t r, uint64_t i, uint32_t vocab)
{
    const struct kvp_request *q = &t->request[r];
    uint64_t id = ~r, at = i - q->prompt, kind = 2, number = r; /* an answer's, unless a piece has it */

    for (uint64_t p = 0, begins = 0; p < q->pieces; begins += t->piece[q->first + p++].tokens)
        if (i >= begins && i - begins < t->piece[q->first + p].tokens) {
            id = number = t->piece[q->first + p].id;
            at = i - begins;
            kind = id >> 63;
        }
    if (at == 0)
        return (int32_t)first_token(number, kind, vocab);
    return (int32_t)(scatter(scatter(id + 0x9e3779b97f4a7c15u) + at * 0x9e3779b97f4a7c15u) % vocab);
}

static kvp_err make_request(struct loop *l, uint64_t r, struct kvp_error *e)
{
    const struct kvp_request *q = &l->s->trace->request[r];
    const uint64_t n = q->prompt + q->output - 1;
    int32_t *token = malloc((size_t)n * sizeof(*token));

    if (!token)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for the tokens of request %" PRIu64, r);
    for (uint64_t i = 0; i < n; i++)
        token[i] = serve_token(l->s->trace, r, i, l->s->model->vocab);
    l->req[r] = (struct sched_req){.token = token, .prompt = q->prompt, .output = q->output};
    return KVP_OK;
}

/* ---- rules -------------------------------------------------------------------------------------- */

static uint64_t value(const struct kvp_stack *s, enum kvp_axis axis, const char *key)
{
    const struct kvp_spec *spec = kvp_stack_on(s, axis);
    const struct kvp_param *p = spec ? kvp_spec_param(spec, key) : NULL;

    return p && p->i > 0 ? (uint64_t)p->i : 0;
}

static kvp_err check_reuse(const struct sched_rules *r, const struct kvp_spec *s, struct kvp_error *e)
{
    const struct kvp_param *shared = kvp_spec_param(s, "shared"), *block = kvp_spec_param(s, "block");
    const struct kvp_param *granularity = kvp_spec_param(s, "granularity");

    if (shared && shared->given)
        return kvp_fail(e, KVP_EINPUT, "%s: the trace says what is shared, so shared cannot be given", s->name);
    if (granularity && granularity->word && strcmp(granularity->word, "block") != 0)
        return kvp_fail(e, KVP_ENOTSUP, "%s: a pool shares whole blocks only, not granularity=%s", s->name, granularity->word);
    if (block && block->given && block->i != (int64_t)r->block)
        return kvp_fail(e, KVP_EINPUT, "%s: blocks of %" PRId64 " tokens in a pool of blocks of %" PRIu32, s->name, block->i, r->block);
    if (r->block < 8)
        return kvp_fail(e, KVP_EINPUT, "%s: a block of %" PRIu32 " tokens may be like another by chance, 8 are the least", s->name, r->block);
    return KVP_OK;
}

static kvp_err read_rules(struct sched_rules *r, const struct serve_run *s, struct kvp_error *e)
{
    const struct kvp_spec *reuse = kvp_stack_on(s->stack, KVP_AXIS_REUSE), *store = kvp_stack_on(s->stack, KVP_AXIS_STORE);
    const uint64_t block = value(s->stack, KVP_AXIS_STORE, "block");

    for (uint32_t i = 0; i < s->stack->n; i++)
        if (s->stack->spec[i].axis < KVP_AXIS_REUSE && &s->stack->spec[i] != store && s->stack->spec[i].axis != KVP_AXIS_WEIGHTS &&
            strcmp(s->stack->spec[i].name, "kv") != 0)
            return kvp_fail(e, KVP_ENOTSUP, "%s: the engine does not serve with it yet", s->stack->spec[i].name);
    if (!store || strcmp(store->name, "paged") != 0 || !kvp_stack_on(s->stack, KVP_AXIS_BATCHING))
        return kvp_fail(e, KVP_EINPUT, "serving needs a store of pages and continuous batching");
    if (block < 1 || block > UINT32_MAX || s->serve.blocks < 1 || s->serve.blocks > INT32_MAX || !(s->serve.step_s > 0))
        return kvp_fail(e, KVP_EINPUT, "serving needs 1 to 2^31 blocks and a step of more than 0 seconds");
    *r = (struct sched_rules){.blocks = (uint32_t)s->serve.blocks, .block = (uint32_t)block,
                              .tokens = value(s->stack, KVP_AXIS_BATCHING, "max_num_batched_tokens"),
                              .seqs = value(s->stack, KVP_AXIS_BATCHING, "max_num_seqs"),
                              .chunk = value(s->stack, KVP_AXIS_CHUNKING, "chunk"), .reuse = reuse != NULL};
    return reuse ? check_reuse(r, reuse, e) : KVP_OK;
}

/* Requests that could wait for ever are refused before anything runs; the rest says how large a pass can be. */
static kvp_err read_shape(struct loop *l, struct kvp_error *e)
{
    const struct kvp_trace *t = l->s->trace;
    uint64_t longest = 0;

    for (uint64_t i = 0; i < t->n; i++) {
        const uint64_t stored = t->request[i].prompt + t->request[i].output - 1;

        if ((stored - 1) / l->rules.block >= l->rules.blocks || (!l->rules.chunk && stored > l->rules.tokens))
            return kvp_fail(e, KVP_EINPUT, "request %" PRIu64 ": its %" PRIu64 " tokens never fit the %s", i, stored,
                            (stored - 1) / l->rules.block >= l->rules.blocks ? "pool" : "tokens of a step");
        longest = stored > longest ? stored : longest;
    }
    l->shape = (struct pool_shape){.blocks = l->rules.blocks, .block = l->rules.block, .longest = (longest - 1) / l->rules.block + 1};
    l->shape.seqs = l->rules.seqs < t->n ? l->rules.seqs : t->n;
    l->shape.rows = l->rules.tokens / longest < l->shape.seqs ? l->rules.tokens : l->shape.seqs * longest;
    return KVP_OK;
}

/* ---- the loop ----------------------------------------------------------------------------------- */

/* Requests of this pass that compute something, row after row. */
static uint64_t gather(struct loop *l)
{
    uint64_t n = 0, rows = 0;

    for (const struct sched_req *q = sched_running(l->sched); q; q = q->next) {
        const uint64_t blocks = q->blocks, held = q->stored + q->now;

        l->out->empty_slot_steps += blocks * l->rules.block - held;
        if (!q->now)
            continue;
        memcpy(l->tokens + rows, q->token + q->stored, q->now * sizeof(*l->tokens));
        l->seq[n] = (struct pool_seq){.rows = q->now, .before = q->stored, .block = q->block, .blocks = blocks};
        l->wants[n++] = held == q->known;
        rows += q->now;
    }
    l->out->computed_tokens += rows;
    return n;
}

static kvp_err hand_out(struct loop *l, struct kvp_error *e)
{
    const float *logits = l->logits;

    for (const struct sched_req *q = sched_running(l->sched); q; q = q->next) {
        if (!q->now || q->stored + q->now != q->known)
            continue;
        if (l->s->answer)
            KVP_TRY(l->s->answer(l->s->self, (uint64_t)(q - l->req), q->answered, logits, e));
        logits += l->s->model->vocab;
        l->out->output_tokens++;
    }
    return KVP_OK;
}

static kvp_err pass(struct loop *l, struct kvp_error *e)
{
    struct kvp_serving *o = l->out;
    uint64_t n, held;

    KVP_TRY(sched_plan(l->sched, e));
    held = l->rules.blocks - blocks_free(sched_blocks(l->sched));
    o->peak_blocks = held > o->peak_blocks ? held : o->peak_blocks;
    o->block_steps += held;
    n = gather(l);
    KVP_TRY(eng_pass(l->g, l->seq, n, l->tokens, l->wants, l->logits, e));
    o->seconds += 1e-9 * (double)eng_forward_ns(l->g, ENG_DECODE);
    KVP_TRY(hand_out(l, e));
    sched_done(l->sched);
    o->steps++;
    return l->s->passed ? l->s->passed(l->s->self, l->g, o->steps - 1, e) : KVP_OK;
}

/* The number of the first pass that begins no earlier than `at`. */
static uint64_t pass_at(double at, double step_s, uint64_t from)
{
    const double k = floor(at / step_s);

    if (k > (double)from && k < 0x1p62)
        from = (uint64_t)k;
    while ((double)from * step_s < at)
        from++;
    return from;
}

static kvp_err run(struct loop *l, struct kvp_error *e)
{
    const struct kvp_trace *t = l->s->trace;

    for (uint64_t k = 0; l->arrived < t->n || !sched_idle(l->sched); k++) {
        if (sched_idle(l->sched))
            k = pass_at(t->request[l->arrived].arrival, l->s->serve.step_s, k);
        while (l->arrived < t->n && t->request[l->arrived].arrival <= (double)k * l->s->serve.step_s)
            sched_arrive(l->sched, &l->req[l->arrived++]);
        KVP_TRY(pass(l, e));
    }
    return KVP_OK;
}

static kvp_err open_loop(struct loop *l, struct kvp_error *e)
{
    struct eng_options o = l->s->engine;

    o.batch = o.prompt = 1;
    o.generate = 0;
    o.all_logits = o.trace = false;
    o.pool = &l->shape;
    KVP_TRY(read_rules(&l->rules, l->s, e));
    KVP_TRY(read_shape(l, e));
    KVP_TRY(sched_open(&l->sched, &l->rules, e));
    KVP_TRY(eng_open(&l->g, l->s->model, l->s->stack, &o, e));
    l->req = calloc(l->s->trace->n, sizeof(*l->req));
    l->seq = calloc(l->shape.seqs, sizeof(*l->seq));
    l->wants = calloc(l->shape.seqs, sizeof(*l->wants));
    l->tokens = calloc(l->shape.rows, sizeof(*l->tokens));
    l->logits = calloc(l->shape.seqs, l->s->model->vocab * sizeof(*l->logits));
    if (!l->req || !l->seq || !l->wants || !l->tokens || !l->logits)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu64 " requests", l->s->trace->n);
    for (uint64_t i = 0; i < l->s->trace->n; i++)
        KVP_TRY(make_request(l, i, e));
    return KVP_OK;
}

static void close_loop(struct loop *l)
{
    sched_close(l->sched);
    eng_close(l->g);
    for (uint64_t i = 0; l->req && i < l->s->trace->n; i++)
        free((void *)(uintptr_t)l->req[i].token);
    free(l->req);
    free(l->seq);
    free(l->wants);
    free(l->tokens);
    free(l->logits);
}

static void read_counts(struct loop *l)
{
    const struct ledger *led = eng_ledger(l->g);
    struct kvp_serving *o = l->out;

    o->hit_tokens = sched_counts(l->sched)->hit_tokens;
    o->preemptions = sched_counts(l->sched)->preemptions;
    o->evictions = blocks_evicted(sched_blocks(l->sched));
    o->pool_bytes = led->peak[LED_CACHE];
    o->metadata_bytes = led->peak[LED_METADATA];
    o->weights_bytes = led->peak[LED_WEIGHTS];
    o->activation_bytes = led->peak[LED_ACTIVATION];
    o->workspace_bytes = led->peak[LED_WORKSPACE];
}

kvp_err serve_trace(struct kvp_serving *out, const struct serve_run *s, struct kvp_error *e)
{
    struct loop l = {.s = s, .out = out};
    kvp_err rc;

    *out = (struct kvp_serving){0};
    rc = open_loop(&l, e);
    if (rc == KVP_OK)
        rc = run(&l, e);
    if (rc == KVP_OK)
        read_counts(&l);
    close_loop(&l);
    return rc;
}
