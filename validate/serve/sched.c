#include "validate/serve/sched.h"

#include <inttypes.h>
#include <stdlib.h>

struct sched {
    struct sched_rules r;
    struct blocks *pool;
    struct sched_req *running, *waiting;
    uint64_t n_running;
    struct sched_counts counts;
};

kvp_err sched_open(struct sched **out, const struct sched_rules *r, struct kvp_error *e)
{
    struct sched *s = calloc(1, sizeof(*s));
    kvp_err rc;

    *out = NULL;
    if (!s)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a scheduler");
    s->r = *r;
    rc = blocks_open(&s->pool, r->blocks, r->block, e);
    if (rc != KVP_OK) {
        sched_close(s);
        return rc;
    }
    *out = s;
    return KVP_OK;
}

static void forget_all(struct sched_req *q)
{
    for (struct sched_req *next; q; q = next) {
        next = q->next;
        free(q->block);
        q->block = NULL;
    }
}

void sched_close(struct sched *s)
{
    if (!s)
        return;
    forget_all(s->running);
    forget_all(s->waiting);
    blocks_close(s->pool);
    free(s);
}

const struct sched_counts *sched_counts(const struct sched *s)
{
    return &s->counts;
}

const struct blocks *sched_blocks(const struct sched *s)
{
    return s->pool;
}

struct sched_req *sched_running(const struct sched *s)
{
    return s->running;
}

bool sched_idle(const struct sched *s)
{
    return !s->running && !s->waiting;
}

static void append(struct sched_req **list, struct sched_req *q)
{
    while (*list)
        list = &(*list)->next;
    *list = q;
    q->next = NULL;
}

void sched_arrive(struct sched *s, struct sched_req *q)
{
    q->known = q->prompt;
    q->stored = q->now = q->answered = q->named = q->behind = q->blocks = q->room = 0;
    q->block = NULL;
    append(&s->waiting, q);
}

/* ---- blocks of a request ------------------------------------------------------------------------ */

static kvp_err own(struct sched_req *q, uint32_t block, struct kvp_error *e)
{
    if (q->blocks == q->room) {
        const uint64_t room = q->room ? 2 * q->room : 8;
        uint32_t *more = realloc(q->block, room * sizeof(*more));

        if (!more)
            return kvp_fail(e, KVP_ENOMEM, "out of memory for a table of %" PRIu64 " blocks", room);
        q->block = more;
        q->room = room;
    }
    q->block[q->blocks++] = block;
    return KVP_OK;
}

/* Back to the beginning; its last block becomes the first to be taken for something else. */
static void let_go(struct sched *s, struct sched_req *q)
{
    while (q->blocks > 0)
        blocks_drop(s->pool, q->block[--q->blocks]);
    q->stored = q->now = q->named = q->behind = 0;
}

/* Blocks that `tokens` more would need. */
static uint64_t lacking(const struct sched *s, const struct sched_req *q, uint64_t tokens)
{
    const uint64_t end = q->stored + tokens, room = q->blocks * s->r.block;

    return end > room ? (end - room + s->r.block - 1) / s->r.block : 0;
}

/* Whole blocks are named as soon as they are planned: who is let in behind reads them in the same pass, after all rows of
 * a layer have been stored. */
static kvp_err schedule(struct sched *s, struct sched_req *q, uint64_t tokens, struct kvp_error *e)
{
    for (uint64_t n = lacking(s, q, tokens); n > 0; n--)
        KVP_TRY(own(q, blocks_take(s->pool), e));
    q->now = tokens;
    while (s->r.reuse && (q->named + 1) * s->r.block <= q->stored + tokens) {
        const int32_t *t = q->token + q->named * s->r.block;

        blocks_name(s->pool, q->block[q->named++], q->behind, t);
        q->behind = blocks_hash(s->pool, q->behind, t);
    }
    return KVP_OK;
}

/* ---- a pass ------------------------------------------------------------------------------------- */

static uint64_t share(const struct sched *s, uint64_t missing, uint64_t left)
{
    const uint64_t n = s->r.chunk && missing > s->r.chunk ? s->r.chunk : missing;

    return n < left ? n : left;
}

/* Who was let in last begins again, first of all who wait. Returns whether that was q. */
static bool preempt_last(struct sched *s, const struct sched_req *q)
{
    struct sched_req **at = &s->running, *last;

    while ((*at)->next)
        at = &(*at)->next;
    last = *at;
    *at = NULL;
    s->n_running--;
    s->counts.preemptions++;
    let_go(s, last);
    last->next = s->waiting;
    s->waiting = last;
    return last == q;
}

static kvp_err continue_running(struct sched *s, uint64_t *left, struct kvp_error *e)
{
    for (struct sched_req *q = s->running; q && *left; q = q->next) {
        const uint64_t tokens = share(s, q->known - q->stored, *left);

        while (lacking(s, q, tokens) > blocks_free(s->pool))
            if (preempt_last(s, q))
                return KVP_OK;
        KVP_TRY(schedule(s, q, tokens, e));
        *left -= tokens;
    }
    return KVP_OK;
}

/* The pool's blocks with q's first tokens become q's; not all of them, since the last token's logits are wanted. */
static kvp_err adopt(struct sched *s, struct sched_req *q, struct kvp_error *e)
{
    while (s->r.reuse && (q->named + 1) * s->r.block < q->known) {
        const int32_t *t = q->token + q->named * s->r.block;
        const int64_t b = blocks_find(s->pool, q->behind, t);

        if (b < 0)
            break;
        blocks_hold(s->pool, (uint32_t)b);
        KVP_TRY(own(q, (uint32_t)b, e));
        q->named++;
        q->behind = blocks_hash(s->pool, q->behind, t);
        q->stored += s->r.block;
    }
    return KVP_OK;
}

/* Are there tokens and blocks for q? Those that it would find count when nobody holds them. */
static bool can_adopt(struct sched *s, const struct sched_req *q, uint64_t left)
{
    uint64_t stored = 0, idle = 0, behind = 0, missing, tokens;

    while (s->r.reuse && stored + s->r.block < q->known) {
        const int64_t b = blocks_find(s->pool, behind, q->token + stored);

        if (b < 0)
            break;
        idle += blocks_holders(s->pool, (uint32_t)b) == 0;
        behind = blocks_hash(s->pool, behind, q->token + stored);
        stored += s->r.block;
    }
    missing = q->known - stored;
    tokens = share(s, missing, left);
    if (!s->r.chunk && tokens < missing)
        return false;
    return idle + (tokens + s->r.block - 1) / s->r.block <= blocks_free(s->pool);
}

static kvp_err let_in(struct sched *s, uint64_t *left, struct kvp_error *e)
{
    while (s->waiting && *left && s->n_running < s->r.seqs && can_adopt(s, s->waiting, *left)) {
        struct sched_req *q = s->waiting;
        uint64_t tokens;

        s->waiting = q->next;
        append(&s->running, q);
        s->n_running++;
        KVP_TRY(adopt(s, q, e));
        s->counts.hit_tokens += q->stored;
        tokens = share(s, q->known - q->stored, *left);
        KVP_TRY(schedule(s, q, tokens, e));
        *left -= tokens;
    }
    return KVP_OK;
}

kvp_err sched_plan(struct sched *s, struct kvp_error *e)
{
    const uint64_t preemptions = s->counts.preemptions;
    uint64_t left = s->r.tokens;

    KVP_TRY(continue_running(s, &left, e));
    return s->counts.preemptions == preemptions ? let_in(s, &left, e) : KVP_OK;
}

/* A request whose tokens are all stored has got its next one; the last is never stored. */
void sched_done(struct sched *s)
{
    struct sched_req **at = &s->running;

    while (*at) {
        struct sched_req *q = *at;
        const bool answered = q->now > 0 && q->stored + q->now == q->known;

        q->stored += q->now;
        q->now = 0;
        if (answered && ++q->answered == q->output) {
            *at = q->next;
            s->n_running--;
            let_go(s, q);
            free(q->block);
            q->block = NULL;
            continue;
        }
        q->known += answered;
        at = &q->next;
    }
}
