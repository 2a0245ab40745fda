/* serve.c - a trace through the scheduler, counted: nothing runs, a block is a number and its content a hash of the
 * trace's own words. docs/serving.md has the rules (vLLM v1/core/sched/scheduler.py, v1/core/block_pool.py). */
#include <kvproof/kvproof.h>

#include "calc/num.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

struct rules {
    uint64_t blocks, block, budget, seqs, chunk; /* chunk 0: prompts are not cut */
    bool prefix;
    double step_s;
};

/* A block of the pool. One without holders waits in the queue of free ones, its content still to be found. */
struct held {
    uint64_t content; /* of it and all before it; 0: nothing that could be found */
    uint64_t since;   /* the queue's entry that is good */
    uint32_t holders, next; /* next: in its bucket */
};

struct entry {
    uint32_t block;
    uint64_t since;
};

struct request {
    uint64_t known;    /* tokens: the prompt and what has been answered */
    uint64_t computed, answered, planned;
    uint64_t content;  /* of the first `named` blocks */
    uint64_t named;
    uint32_t *table, n_blocks;
};

struct sim {
    struct rules r;
    const struct kvp_trace *t;
    struct held *held;
    uint32_t *bucket, n_buckets;
    struct entry *queue; /* of free blocks, oldest first; entries go stale where a block is taken by its content */
    uint64_t q_first, q_end, q_room, clock, n_held;
    struct request *req;
    uint32_t *running, n_running;
    uint32_t *again, n_again; /* preempted: the last is the next to be let in */
    uint64_t arrived, admitted; /* of the trace's own order */
    struct kvp_serving *out;
};

/* ---- contents ----------------------------------------------------------------------------------- */

/* A bijective mixer (M. Stafford's variant 13 of the 64-bit finalizer). */
static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t join(uint64_t a, uint64_t b)
{
    return mix(a + UINT64_C(0x9e3779b97f4a7c15) * (b + 1));
}

/* Tokens [from, from + n) of request q behind `content`: the pieces they lie in, each with its place; an answer is
 * nobody else's. */
static uint64_t content_of(const struct sim *x, uint32_t q, uint64_t content, uint64_t from, uint64_t n)
{
    const struct kvp_request *r = &x->t->request[q];
    uint64_t at = 0;

    for (uint64_t i = 0; i < r->pieces && n; i++) {
        const struct kvp_piece *p = &x->t->piece[r->first + i];
        const uint64_t skip = from > at ? from - at : 0, take = skip < p->tokens ? num_min(n, p->tokens - skip) : 0;

        at += p->tokens;
        if (!take)
            continue;
        content = join(join(join(content, p->id), skip), take);
        from += take;
        n -= take;
    }
    if (n)
        content = join(join(join(content, UINT64_MAX - q), from), n);
    return content ? content : 1;
}

static uint32_t *bucket_of(struct sim *x, uint64_t content)
{
    return &x->bucket[content & (x->n_buckets - 1)];
}

static uint32_t find(struct sim *x, uint64_t content)
{
    uint32_t b = *bucket_of(x, content);

    while (b != NONE && x->held[b].content != content)
        b = x->held[b].next;
    return b;
}

static void forget(struct sim *x, uint32_t block)
{
    uint32_t *at = bucket_of(x, x->held[block].content);

    while (*at != block)
        at = &x->held[*at].next;
    *at = x->held[block].next;
    x->held[block].content = 0;
    x->out->evictions++;
}

static void name_block(struct sim *x, uint32_t block, uint64_t content)
{
    uint32_t *at = bucket_of(x, content);

    if (find(x, content) != NONE)
        return; /* the one that is there stays the one that is found */
    x->held[block].content = content;
    x->held[block].next = *at;
    *at = block;
}

/* ---- blocks ------------------------------------------------------------------------------------- */

static kvp_err give_back(struct sim *x, uint32_t block, struct kvp_error *e)
{
    if (--x->held[block].holders)
        return KVP_OK;
    x->n_held--;
    if (x->q_end == x->q_room && x->q_first > x->q_room / 2) {
        memmove(x->queue, x->queue + x->q_first, (x->q_end - x->q_first) * sizeof(*x->queue));
        x->q_end -= x->q_first;
        x->q_first = 0;
    } else if (x->q_end == x->q_room) {
        struct entry *more = realloc(x->queue, 2 * x->q_room * sizeof(*more));

        if (!more)
            return kvp_fail(e, KVP_ENOMEM, "out of memory for the queue of free blocks");
        x->queue = more;
        x->q_room *= 2;
    }
    x->held[block].since = ++x->clock;
    x->queue[x->q_end++] = (struct entry){block, x->clock};
    return KVP_OK;
}

static void hold(struct sim *x, struct request *r, uint32_t block)
{
    if (!x->held[block].holders++) {
        x->n_held++;
        x->held[block].since = 0;
    }
    r->table[r->n_blocks++] = block;
}

/* The block that has been free for longest; there is one. */
static uint32_t oldest(struct sim *x)
{
    while (x->held[x->queue[x->q_first].block].since != x->queue[x->q_first].since)
        x->q_first++;
    return x->queue[x->q_first++].block;
}

static void take(struct sim *x, struct request *r, uint64_t n)
{
    while (n--) {
        const uint32_t b = oldest(x);

        if (x->held[b].content)
            forget(x, b);
        hold(x, r, b);
    }
}

/* The last block goes first: of a prefix, the end is given up before the beginning. */
static kvp_err release(struct sim *x, struct request *r, struct kvp_error *e)
{
    while (r->n_blocks)
        KVP_TRY(give_back(x, r->table[--r->n_blocks], e));
    r->computed = r->named = r->content = 0;
    return KVP_OK;
}

/* ---- one step ----------------------------------------------------------------------------------- */

/* What request q computes in this step: its blocks are full up to there, and those that are whole can be found. */
static void plan(struct sim *x, uint32_t q, uint64_t n)
{
    struct request *r = &x->req[q];
    const uint64_t end = r->computed + n;

    take(x, r, num_cdiv(end, x->r.block) - r->n_blocks);
    r->planned = n;
    for (; x->r.prefix && (r->named + 1) * x->r.block <= end; r->named++) {
        r->content = content_of(x, q, r->content, r->named * x->r.block, x->r.block);
        name_block(x, r->table[r->named], r->content);
    }
}

static uint64_t wanted(const struct sim *x, uint64_t left, uint64_t budget)
{
    return num_min(num_min(left, x->r.chunk ? x->r.chunk : left), budget);
}

static kvp_err preempt(struct sim *x, struct kvp_error *e)
{
    const uint32_t q = x->running[--x->n_running];

    x->again[x->n_again++] = q;
    x->out->preemptions++;
    return release(x, &x->req[q], e);
}

/* Those that run, in the order in which they were let in; who comes last makes room. */
static kvp_err go_on(struct sim *x, uint64_t *budget, bool *preempted, struct kvp_error *e)
{
    for (uint32_t i = 0; i < x->n_running && *budget; i++) {
        const uint32_t q = x->running[i];
        struct request *r = &x->req[q];
        const uint64_t n = wanted(x, r->known - r->computed, *budget), need = num_cdiv(r->computed + n, x->r.block) - r->n_blocks;

        while (i < x->n_running && x->r.blocks - x->n_held < need) {
            *preempted = true;
            KVP_TRY(preempt(x, e));
        }
        if (i == x->n_running)
            break;
        plan(x, q, n);
        *budget -= n;
    }
    return KVP_OK;
}

/* Blocks of q's tokens that are there, from the first on; the last token is computed in any case. */
static uint64_t found(struct sim *x, uint32_t q, uint32_t *blocks, uint64_t *content)
{
    const uint64_t most = x->r.prefix ? (x->req[q].known - 1) / x->r.block : 0;
    uint64_t n = 0;

    for (*content = 0; n < most; n++) {
        const uint64_t c = content_of(x, q, *content, n * x->r.block, x->r.block);
        const uint32_t b = find(x, c);

        if (b == NONE)
            break;
        blocks[n] = b;
        *content = c;
    }
    return n;
}

static bool admit(struct sim *x, uint32_t q, uint64_t *budget)
{
    struct request *r = &x->req[q];
    uint64_t content, free_hits = 0, n, need;
    const uint64_t hit = found(x, q, r->table, &content), left = r->known - hit * x->r.block;

    n = wanted(x, left, *budget);
    if (!x->r.chunk && n < left)
        return false;
    for (uint64_t i = 0; i < hit; i++)
        free_hits += !x->held[r->table[i]].holders;
    need = num_cdiv(hit * x->r.block + n, x->r.block) - hit;
    if (x->r.blocks - x->n_held < free_hits + need)
        return false;
    for (uint64_t i = 0; i < hit; i++)
        hold(x, r, r->table[i]);
    r->computed = hit * x->r.block;
    r->named = hit;
    r->content = content;
    x->out->hit_tokens += r->computed;
    plan(x, q, n);
    *budget -= n;
    x->running[x->n_running++] = q;
    return true;
}

static void let_in(struct sim *x, uint64_t budget)
{
    while (budget && x->n_running < x->r.seqs) {
        const bool old = x->n_again > 0;

        if (!old && x->admitted == x->arrived)
            return;
        if (!admit(x, old ? x->again[x->n_again - 1] : (uint32_t)x->admitted, &budget))
            return;
        if (old)
            x->n_again--;
        else
            x->admitted++;
    }
}

static void count(struct sim *x)
{
    x->out->steps++;
    x->out->peak_blocks = num_max(x->out->peak_blocks, x->n_held);
    x->out->block_steps += x->n_held;
    for (uint32_t i = 0; i < x->n_running; i++) {
        const struct request *r = &x->req[x->running[i]];

        x->out->empty_slot_steps += r->n_blocks * x->r.block - r->computed - r->planned;
        x->out->computed_tokens += r->planned;
    }
}

static kvp_err finish_step(struct sim *x, struct kvp_error *e)
{
    uint32_t left = 0;

    for (uint32_t i = 0; i < x->n_running; i++) {
        const uint32_t q = x->running[i];
        struct request *r = &x->req[q];
        bool done = false;

        r->computed += r->planned;
        if (r->planned && r->computed == r->known) {
            x->out->output_tokens++;
            r->known++;
            done = ++r->answered == x->t->request[q].output;
        }
        r->planned = 0;
        if (done)
            KVP_TRY(release(x, r, e));
        else
            x->running[left++] = q;
    }
    x->n_running = left;
    return KVP_OK;
}

/* ---- time --------------------------------------------------------------------------------------- */

/* What a step costs, from the costs of one sequence's decode step: linear work a row, the head a row with logits,
 * attention a pair, and bytes. */
struct cost {
    const struct kvp_device *device;
    double row_flops, head_flops, pair_flops, weight_bytes, token_bytes;
    double calls, seq_calls;
};

static double step_seconds(const struct sim *x, const struct cost *c)
{
    double rows = 0, heads = 0, pairs = 0, read = 0, seqs = 0;

    for (uint32_t i = 0; i < x->n_running; i++) {
        const struct request *r = &x->req[x->running[i]];
        const double n = (double)r->planned, before = (double)r->computed;

        rows += n;
        heads += n > 0 && r->computed + r->planned == r->known;
        pairs += n * before + n * (n + 1) / 2;
        read += n > 0 ? before : 0;
        seqs += n > 0;
    }
    if (!c->device)
        return (double)NAN;
    return fmax((rows * c->row_flops + heads * c->head_flops + pairs * c->pair_flops) / c->device->flops_f32,
                (c->weight_bytes + (read + rows) * c->token_bytes) / c->device->bandwidth) +
           (c->calls + seqs * c->seq_calls) * c->device->launch_s;
}

/* Of a stack what a sequence by itself has too: how rows and weights are stored. */
static kvp_err stored_as(struct kvp_stack *out, const struct kvp_stack *s, bool with_store, struct kvp_error *e)
{
    char text[256];

    *out = (struct kvp_stack){0};
    for (uint32_t i = 0; i < s->n; i++)
        if (s->spec[i].axis < KVP_AXIS_REUSE && (with_store || s->spec[i].axis != KVP_AXIS_STORE)) {
            kvp_spec_text(&s->spec[i], text, sizeof(text));
            KVP_TRY(kvp_stack_add(out, text, e));
        }
    return KVP_OK;
}

static kvp_err read_cost(struct cost *c, const struct kvp_model *m, const struct kvp_stack *stack, const struct kvp_options *o,
                         const struct kvp_device *d, double token_bytes, struct kvp_error *e)
{
    struct kvp_stack s;
    struct kvp_estimate est;

    KVP_TRY(stored_as(&s, stack, false, e));
    KVP_TRY(kvp_estimate(&est, m, &s, &(struct kvp_workload){.prompt = 1, .generate = 1}, o, d, e));
    *c = (struct cost){.device = d, .token_bytes = token_bytes, .weight_bytes = (double)est.memory.weights_bytes,
                       .seq_calls = 2.0 * m->layers};
    for (uint32_t i = 0; i < est.n_ops; i++) {
        const struct kvp_op_cost *op = &est.ops[i];
        double *at = op->op == KVP_OP_HEAD ? &c->head_flops : op->op == KVP_OP_ATTN ? &c->pair_flops : &c->row_flops;

        if (op->phase != KVP_DECODE)
            continue;
        *at += (double)op->flops / (op->op == KVP_OP_ATTN ? 2 : 1); /* two keys */
        c->calls += (double)op->calls;
    }
    kvp_estimate_free(&est);
    return KVP_OK;
}

/* ---- the whole trace ---------------------------------------------------------------------------- */

/* The first step at or after the next arrival. */
static uint64_t next_arrival(const struct sim *x, uint64_t step)
{
    const double at = x->t->request[x->arrived].arrival, k = floor(at / x->r.step_s);

    step = k > (double)step && k < 0x1p62 ? (uint64_t)k : step;
    while ((double)step * x->r.step_s < at)
        step++;
    return step;
}

static kvp_err serve(struct sim *x, const struct cost *c, struct kvp_error *e)
{
    for (uint64_t step = 0;; step++) {
        uint64_t budget = x->r.budget;
        bool preempted = false;

        if (!x->n_running && !x->n_again && x->admitted == x->arrived) {
            if (x->arrived == x->t->n)
                return KVP_OK;
            step = next_arrival(x, step);
        }
        while (x->arrived < x->t->n && x->t->request[x->arrived].arrival <= (double)step * x->r.step_s)
            x->arrived++;
        KVP_TRY(go_on(x, &budget, &preempted, e));
        if (!preempted)
            let_in(x, budget);
        count(x);
        x->out->seconds += step_seconds(x, c);
        KVP_TRY(finish_step(x, e));
    }
}

static kvp_err open_sim(struct sim *x, struct kvp_error *e)
{
    uint64_t longest = 0;

    x->n_buckets = 1;
    while (x->n_buckets < x->r.blocks)
        x->n_buckets *= 2;
    x->q_room = x->r.blocks + 1;
    x->held = calloc(x->r.blocks, sizeof(*x->held));
    x->bucket = malloc(x->n_buckets * sizeof(*x->bucket));
    x->queue = malloc(x->q_room * sizeof(*x->queue));
    x->req = calloc(x->t->n, sizeof(*x->req));
    x->running = malloc(x->t->n * sizeof(*x->running));
    x->again = malloc(x->t->n * sizeof(*x->again));
    if (!x->held || !x->bucket || !x->queue || !x->req || !x->running || !x->again)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a pool of %" PRIu64 " blocks", x->r.blocks);
    memset(x->bucket, 0xff, x->n_buckets * sizeof(*x->bucket));
    for (uint32_t b = 0; b < x->r.blocks; b++) {
        x->held[b].since = ++x->clock;
        x->queue[x->q_end++] = (struct entry){b, x->clock};
    }
    for (uint64_t i = 0; i < x->t->n; i++) {
        const struct kvp_request *q = &x->t->request[i];

        longest = num_cdiv(q->prompt + q->output - 1, x->r.block);
        x->req[i].known = q->prompt;
        x->req[i].table = malloc(longest * sizeof(*x->req[i].table));
        if (!x->req[i].table)
            return kvp_fail(e, KVP_ENOMEM, "out of memory for a table of %" PRIu64 " blocks", longest);
    }
    return KVP_OK;
}

static void close_sim(struct sim *x)
{
    for (uint64_t i = 0; x->req && i < x->t->n; i++)
        free(x->req[i].table);
    free(x->held);
    free(x->bucket);
    free(x->queue);
    free(x->req);
    free(x->running);
    free(x->again);
}

/* ---- rules, and what is held -------------------------------------------------------------------- */

static uint64_t param(const struct kvp_spec *s, const char *key)
{
    const struct kvp_param *p = s ? kvp_spec_param(s, key) : NULL;

    return p && p->i > 0 ? (uint64_t)p->i : 0;
}

static kvp_err read_prefix(struct rules *r, const struct kvp_spec *s, struct kvp_error *e)
{
    r->prefix = s != NULL;
    if (s && kvp_spec_param(s, "shared")->given)
        return kvp_fail(e, KVP_EINPUT, "prefix: what requests share is in the trace; leave shared out");
    if (s && kvp_spec_param(s, "granularity")->i)
        return kvp_fail(e, KVP_ENOTSUP, "prefix: a pool of blocks shares whole blocks; leave granularity out");
    if (s && kvp_spec_param(s, "block")->given && param(s, "block") != r->block)
        return kvp_fail(e, KVP_EINPUT, "prefix: block=%" PRIu64 ", but the pool's blocks have %" PRIu64 " tokens", param(s, "block"), r->block);
    if (s && r->block < 8)
        return kvp_fail(e, KVP_EINPUT, "prefix: blocks of %" PRIu64 " tokens are alike by chance; 8 at least", r->block);
    return KVP_OK;
}

static kvp_err read_rules(struct rules *r, const struct kvp_stack *s, const struct kvp_serve_options *so, struct kvp_error *e)
{
    const struct kvp_spec *paged = kvp_stack_on(s, KVP_AXIS_STORE), *batch = kvp_stack_on(s, KVP_AXIS_BATCHING);

    for (uint32_t i = 0; i < s->n; i++)
        if (s->spec[i].axis < KVP_AXIS_REUSE && s->spec[i].axis != KVP_AXIS_STORE && s->spec[i].axis != KVP_AXIS_WEIGHTS &&
            strcmp(s->spec[i].name, "kv") != 0)
            return kvp_fail(e, KVP_ENOTSUP, "%s: serving knows kv, paged, prefix, continuous-batching, chunked-prefill and what stores weights",
                            s->spec[i].name);
    if (!paged || strcmp(paged->name, "paged") != 0 || !batch)
        return kvp_fail(e, KVP_EINPUT, "serving needs paged and continuous-batching");
    *r = (struct rules){.blocks = so->blocks, .block = param(paged, "block"), .budget = param(batch, "max_num_batched_tokens"),
                        .seqs = param(batch, "max_num_seqs"), .chunk = param(kvp_stack_on(s, KVP_AXIS_CHUNKING), "chunk"),
                        .step_s = so->step_s};
    if (kvp_spec_param(paged, "layout")->given || kvp_spec_param(paged, "null")->given)
        return kvp_fail(e, KVP_ENOTSUP, "paged: serving has a plain pool; leave layout and null out");
    if (!r->blocks || r->blocks > INT32_MAX || !(r->step_s > 0))
        return kvp_fail(e, KVP_EINPUT, "serving needs a pool of 1 to 2^31 blocks and steps of more than 0 seconds");
    return read_prefix(r, kvp_stack_on(s, KVP_AXIS_REUSE), e);
}

/* Can every request be served at all, if it must alone and from its beginning? */
static kvp_err check_requests(const struct rules *r, const struct kvp_model *m, const struct kvp_trace *t, uint64_t *longest,
                              struct kvp_error *e)
{
    *longest = 0;
    for (uint64_t i = 0; i < t->n; i++) {
        const uint64_t tokens = t->request[i].prompt + t->request[i].output - 1;

        *longest = num_max(*longest, tokens);
        if (num_cdiv(tokens, r->block) > r->blocks)
            return kvp_fail(e, KVP_EINPUT, "request %" PRIu64 " has %" PRIu64 " tokens, the pool of %" PRIu64 " blocks %" PRIu64, i, tokens,
                            r->blocks, r->blocks * r->block);
        if (!r->chunk && tokens > r->budget)
            return kvp_fail(e, KVP_EINPUT, "request %" PRIu64 " has %" PRIu64 " tokens, a step %" PRIu64 "; add chunked-prefill", i, tokens,
                            r->budget);
        if (m->position == KVP_POS_LEARNED && tokens > m->max_positions)
            return kvp_fail(e, KVP_EINPUT, "request %" PRIu64 " has %" PRIu64 " tokens, %s positions for %" PRIu64, i, tokens, m->name,
                            m->max_positions);
    }
    return KVP_OK;
}

static kvp_err check_layers(const struct kvp_model *m, const struct rules *r, struct kvp_error *e)
{
    for (uint32_t i = 0; i < m->classes; i++)
        if (m->cls[i].mixer != KVP_MIX_ATTENTION || m->cls[i].recurrent || m->cls[i].no_kv || (m->cls[i].window && m->cls[i].window < r->block))
            return kvp_fail(e, KVP_ENOTSUP, "%s: layers of class %" PRIu32 " keep no blocks of keys and values", m->name, i);
    return KVP_OK;
}

/* One scale for a whole tensor belongs to one prompt. */
static kvp_err check_scale(const struct kvp_stack *s, struct kvp_error *e)
{
    const struct kvp_spec *kv = kvp_stack_on(s, KVP_AXIS_ENCODE);
    const struct kvp_param *scale = kv ? kvp_spec_param(kv, "scale") : NULL;
    bool fp8 = false;

    for (int side = 0; kv && side < 2; side++) {
        const struct kvp_param *own = kvp_spec_param(kv, side ? "v" : "k");

        fp8 = fp8 || (own->given ? own : kvp_spec_param(kv, "format"))->f == KVP_FP8;
    }
    if (scale && scale->word && (strcmp(scale->word, "tensor") == 0 || (strcmp(scale->word, "auto") == 0 && fp8)))
        return kvp_fail(e, KVP_ENOTSUP, "kv: one scale for a whole tensor is one prompt's; serving takes scale=token-head or group");
    return KVP_OK;
}

/* The pool is as many sequences of one block each. Its table has a row for everyone who can run at once. */
static kvp_err read_bytes(struct kvp_serving *out, const struct rules *r, const struct kvp_model *m, const struct kvp_stack *stack,
                          const struct kvp_options *o, uint64_t n, uint64_t longest, struct kvp_error *e)
{
    const uint64_t seqs = num_min(r->seqs, n);
    struct kvp_stack s, none;
    struct kvp_estimate pool, pass;
    bool over = false;
    uint64_t rows;

    KVP_TRY(stored_as(&s, stack, true, e));
    KVP_TRY(stored_as(&none, stack, false, e));
    KVP_TRY(kvp_estimate(&pool, m, &s, &(struct kvp_workload){.batch = r->blocks, .prompt = r->block, .context = r->block}, o, NULL, e));
    out->pool_bytes = pool.memory.cache_bytes - pool.memory.metadata_bytes;
    out->metadata_bytes = pool.memory.metadata_bytes - num_mul(&over, r->blocks, 4); /* without the table of that run */
    kvp_estimate_free(&pool);
    rows = num_max(1, num_min(r->budget, num_mul(&over, seqs, longest)));
    KVP_TRY(kvp_estimate(&pass, m, &none, &(struct kvp_workload){.prompt = rows, .context = rows}, o, NULL, e));
    out->weights_bytes = pass.memory.weights_bytes;
    out->activation_bytes = pass.memory.activation_bytes + (num_min(seqs, 64) - 1) * m->vocab * 4;
    out->workspace_bytes = pass.memory.workspace_bytes + (2 * seqs + 1) * 4; /* where each sequence's rows begin, and its stored tokens */
    out->metadata_bytes = num_add(&over, out->metadata_bytes, num_mul(&over, num_mul(&over, seqs, num_cdiv(longest, r->block)), 4));
    kvp_estimate_free(&pass);
    return over ? kvp_fail(e, KVP_ERANGE, "the tables of %" PRIu64 " sequences overflow", seqs) : KVP_OK;
}

kvp_err kvp_serve_predict(struct kvp_serving *out, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_trace *t,
                          const struct kvp_serve_options *so, const struct kvp_options *o, const struct kvp_device *device,
                          struct kvp_error *e)
{
    struct sim x = {.t = t, .out = out};
    uint64_t longest;
    struct cost cost;
    kvp_err rc;

    *out = (struct kvp_serving){0};
    KVP_TRY(read_rules(&x.r, s, so, e));
    KVP_TRY(check_layers(m, &x.r, e));
    KVP_TRY(check_requests(&x.r, m, t, &longest, e));
    KVP_TRY(check_scale(s, e));
    KVP_TRY(read_bytes(out, &x.r, m, s, o, t->n, longest, e));
    KVP_TRY(read_cost(&cost, m, s, o, device, (double)out->pool_bytes / ((double)x.r.blocks * (double)x.r.block), e));
    rc = open_sim(&x, e);
    if (rc == KVP_OK)
        rc = serve(&x, &cost, e);
    close_sim(&x);
    return rc;
}
