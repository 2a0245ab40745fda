/* serve.c - serving: whatever is batched, cut, found in the pool or begun again, a request's logits are those of the same
 * request run alone; and what the prediction's scheduler counts is what the engine's does. */
#include "tests/validate/tiny.h"

#include "validate/serve/blocks.h"
#include "validate/serve/serve.h"
#include <kvproof/kvproof.h>

#include <dirent.h>

static const char *const backends[] = {"ref", "cpu"};
enum { BACKENDS = 2 };

static void stack_of(struct kvp_stack *s, const char *text)
{
    char copy[256], *save = NULL;
    struct kvp_error err = {0};

    *s = (struct kvp_stack){0};
    snprintf(copy, sizeof(copy), "%s", text);
    for (char *word = strtok_r(copy, " ", &save); word; word = strtok_r(NULL, " ", &save))
        must(kvp_stack_add(s, word, &err));
}

/* ---- logits ------------------------------------------------------------------------------------- */

/* What the same request gives alone, in one prefill and steps. */
struct alone {
    const struct serve_run *s;
    uint64_t answers, nan; /* seen; of those, not finite */
    double worst;
    uint64_t r;            /* the request whose logits these are; n: none */
    float *logits;         /* [output, vocab] */
};

static void run_alone(struct alone *a, uint64_t r)
{
    const struct kvp_trace *t = a->s->trace;
    const struct kvp_request *q = &t->request[r];
    const uint64_t vocab = a->s->model->vocab;
    static const struct kvp_stack dense;
    struct eng_options o = a->s->engine;
    struct kvp_error err = {0};
    int32_t *ids = malloc((q->prompt + q->output) * sizeof(*ids));
    struct eng *g = NULL;

    o.batch = 1;
    o.prompt = q->prompt;
    o.generate = q->output;
    for (uint64_t i = 0; i < q->prompt + q->output; i++)
        ids[i] = serve_token(t, r, i, (uint32_t)vocab);
    must(eng_open(&g, a->s->model, &dense, &o, &err));
    a->logits = realloc(a->logits, q->output * vocab * sizeof(float));
    must(eng_prefill(g, ids, NULL, a->logits, &err));
    for (uint64_t i = 1; i < q->output; i++)
        must(eng_decode(g, ids + q->prompt + i - 1, a->logits + i * vocab, &err));
    eng_close(g);
    free(ids);
    a->r = r;
}

static kvp_err compare(void *self, uint64_t r, uint64_t index, const float *logits, struct kvp_error *e)
{
    struct alone *a = self;
    const uint64_t vocab = a->s->model->vocab;

    (void)e;
    if (a->r != r)
        run_alone(a, r);
    a->answers++;
    a->nan += isnan(logits[0]) != 0;
    a->worst = fmax(a->worst, far_apart(logits, a->logits + index * vocab, vocab));
    return KVP_OK;
}

/* A trace by hand: arrivals in steps of 1 s. Prefix 7 of 20 tokens is in four prompts, prefix 9 in two. */
static const char requests[] =
    "{\"arrival\":0,\"prompt\":26,\"output\":9,\"prefix\":20,\"prefix_id\":7}\n"
    "{\"arrival\":0,\"prompt\":21,\"output\":6,\"prefix\":20,\"prefix_id\":7}\n"
    "{\"arrival\":1,\"prompt\":17,\"output\":1}\n"
    "{\"arrival\":1,\"prompt\":30,\"output\":4,\"prefix\":24,\"prefix_id\":9}\n"
    "{\"arrival\":3,\"prompt\":1,\"output\":12}\n"
    "{\"arrival\":9,\"prompt\":24,\"output\":5,\"prefix\":24,\"prefix_id\":9}\n"
    "{\"arrival\":10,\"prompt\":33,\"output\":7,\"prefix\":20,\"prefix_id\":7}\n"
    "{\"arrival\":10,\"prompt\":20,\"output\":8,\"prefix\":20,\"prefix_id\":7}\n";

static const struct {
    const char *stack;
    uint64_t blocks;
    bool hits, preempts; /* what must happen, or the case shows nothing */
} cases[] = {
    {"paged:8 continuous-batching:4000", 100, false, false},
    {"paged:4 continuous-batching:64,max_num_seqs=3", 100, false, false},
    {"paged:8 continuous-batching:40 chunked-prefill:16", 100, false, false},
    {"paged:8 prefix continuous-batching:64", 100, true, false},
    {"paged:8 prefix continuous-batching:20 chunked-prefill:16", 100, true, false},
    {"paged:8 continuous-batching:64", 8, false, true},
    {"paged:8 prefix continuous-batching:64 chunked-prefill:16", 8, true, true},
    {"paged:8 prefix continuous-batching:17 chunked-prefill:16", 7, true, true},
    {"paged:8 prefix continuous-batching:4000", 9, true, true},
};
enum { N_CASES = sizeof(cases) / sizeof(cases[0]) };

static struct serve_run run_of(const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_trace *t, int i, const char *backend)
{
    struct kvp_error err = {0};
    struct serve_run run = {.model = m, .stack = s, .trace = t, .serve = {.blocks = cases[i].blocks, .step_s = 1},
                            .engine = {.device = {.threads = 1}, .seed = 7}};

    must(kb_find(&run.engine.backend, backend, &err));
    return run;
}

static void check_case(const struct kvp_model *m, int i, const char *backend, const char *weights, double within)
{
    struct kvp_error err = {0};
    struct kvp_serving got;
    struct kvp_trace t;
    struct kvp_stack s;
    struct serve_run run;
    struct alone a;

    must(kvp_trace_parse(&t, requests, strlen(requests), "requests", 0, &err));
    stack_of(&s, cases[i].stack);
    run = run_of(m, &s, &t, i, backend);
    run.engine.weights_dir = weights;
    a = (struct alone){.s = &run, .r = t.n};
    run.answer = compare;
    run.self = &a;
    must(serve_trace(&got, &run, &err));
    ck_assert_msg(a.worst < within, "%s, %s on %s: apart by %g", m->name, cases[i].stack, backend, a.worst);
    ck_assert_uint_ge(a.answers, 52); /* every token of every answer: 9 + 6 + 1 + 4 + 12 + 5 + 7 + 8 */
    ck_assert_uint_eq(got.output_tokens, 52);
    ck_assert_msg((got.hit_tokens > 0) == cases[i].hits && (got.preemptions > 0) == cases[i].preempts,
                  "%s: %llu hit tokens, %llu preemptions", cases[i].stack, (unsigned long long)got.hit_tokens,
                  (unsigned long long)got.preemptions);
    free(a.logits);
    kvp_trace_free(&t);
}

static void check_refused(const struct kvp_model *m, const char *backend)
{
    struct kvp_error err = {0};
    struct kvp_serving got;
    struct kvp_trace t;
    struct kvp_stack s;
    struct serve_run run;

    must(kvp_trace_parse(&t, requests, strlen(requests), "requests", 0, &err));
    stack_of(&s, cases[0].stack);
    run = run_of(m, &s, &t, 0, backend);
    ck_assert_int_eq(serve_trace(&got, &run, &err), KVP_ENOTSUP);
    ck_assert_msg(strstr(err.text, "kind of attention") != NULL, "%s: %s", m->name, err.text);
    kvp_trace_free(&t);
}

START_TEST(logits_are_those_of_the_request_alone)
{
    struct kvp_model m;

    for (int i = 0; i < TINY_MODELS; i++) {
        tiny_load(&m, i);
        if (tiny_is_whole(&m))
            check_refused(&m, backends[_i % BACKENDS]);
        else
            check_case(&m, _i / BACKENDS, backends[_i % BACKENDS], NULL, 1e-5);
        kvp_model_free(&m);
    }
}
END_TEST

/* Golden models with their weights, those that attend; with hits and preemptions, and with neither. */
START_TEST(goldens)
{
    char dir[512], path[1024];
    struct dirent **names;
    int n, ran = 0;

    snprintf(dir, sizeof(dir), "%s/golden", getenv("KVPROOF_TESTS"));
    n = scandir(dir, &names, NULL, alphasort);
    ck_assert_int_gt(n, 0);
    for (int i = 0; i < n; i++) {
        struct kvp_error err = {0};
        struct kvp_model m;

        snprintf(path, sizeof(path), "%s/%s", dir, names[i]->d_name);
        if (names[i]->d_name[0] != '.' && !strchr(names[i]->d_name, '.') && kvp_model_load(&m, path, &err) == KVP_OK) {
            struct kvp_trace t;
            struct kvp_serving p;
            struct kvp_stack s;

            must(kvp_trace_parse(&t, requests, strlen(requests), "requests", 0, &err));
            stack_of(&s, cases[6].stack);
            if (kvp_serve_predict(&p, &m, &s, &t, &(struct kvp_serve_options){8, 1}, &(struct kvp_options){.kv_given = true}, NULL, &err) == KVP_OK) {
                struct serve_run run = run_of(&m, &s, &t, 6, "cpu");
                struct kvp_error why = {0};
                struct kvp_serving got;

                run.engine.weights_dir = path;
                if (serve_trace(&got, &run, &why) == KVP_OK) { /* else the engine has no such layers yet */
                    check_case(&m, 6, "cpu", path, 2e-5);
                    check_case(&m, 2, "cpu", path, 2e-5);
                    ran++;
                } else {
                    ck_assert_msg(why.code == KVP_ENOTSUP, "%s: %s", names[i]->d_name, why.text);
                }
            }
            kvp_trace_free(&t);
            kvp_model_free(&m);
        }
        free(names[i]);
    }
    free(names);
    ck_assert_int_ge(ran, 6);
}
END_TEST

/* ---- rows and weights as codes ------------------------------------------------------------------- */

static const struct {
    const char *codes;
    double flips; /* what a number that falls to the next code may change where products round as they like */
} coded[] = {
    {"kv:int8", 1e-3},           {"kv:int4,group=8", 2e-2},    {"kv:fp8,scale=token-head", 1e-2},
    {"kv:k=f16,v=int8 w:int8", 1e-3}, {"smoothquant kv:int8", 5e-3}, {"w:nf4", 1e-5},
};
enum { CODED = sizeof(coded) / sizeof(coded[0]), TOKENS = 52 };

/* Logits of every answer, [52, vocab]: request by request. */
struct answers {
    const struct kvp_trace *t;
    float *logits;
    uint64_t vocab;
};

static float *answer_at(const struct answers *a, uint64_t r, uint64_t index)
{
    for (uint64_t i = 0; i < r; i++)
        index += a->t->request[i].output;
    return a->logits + index * a->vocab;
}

static kvp_err keep_answer(void *self, uint64_t r, uint64_t index, const float *logits, struct kvp_error *e)
{
    struct answers *a = self;

    (void)e;
    memcpy(answer_at(a, r, index), logits, a->vocab * sizeof(float));
    return KVP_OK;
}

/* The trace under a stack; `apart`: its requests so far from each other that each is alone in the pool. */
static struct kvp_serving serve_all(const struct kvp_model *m, const char *stack, bool apart, int i, const char *backend, struct answers *a)
{
    struct kvp_error err = {0};
    struct kvp_serving got, predicted;
    struct kvp_trace t;
    struct kvp_stack s;
    struct serve_run run;

    must(kvp_trace_parse(&t, requests, strlen(requests), "requests", 0, &err));
    for (uint64_t r = 0; apart && r < t.n; r++)
        t.request[r].arrival = 100 * (double)r;
    stack_of(&s, stack);
    run = run_of(m, &s, &t, i, backend);
    *a = (struct answers){&t, calloc(TOKENS * m->vocab, sizeof(float)), m->vocab};
    run.answer = keep_answer;
    run.self = a;
    must(serve_trace(&got, &run, &err));
    must(kvp_serve_predict(&predicted, m, &s, &t, &run.serve, &(struct kvp_options){.weights_given = true, .kv_given = true}, NULL, &err));
    ck_assert_msg(got.pool_bytes == predicted.pool_bytes && got.metadata_bytes == predicted.metadata_bytes &&
                      got.weights_bytes == predicted.weights_bytes && got.workspace_bytes <= predicted.workspace_bytes &&
                      got.activation_bytes <= predicted.activation_bytes && got.hit_tokens == predicted.hit_tokens,
                  "%s: pool %llu %llu, metadata %llu %llu, weights %llu %llu, workspace %llu %llu", stack,
                  (unsigned long long)predicted.pool_bytes, (unsigned long long)got.pool_bytes,
                  (unsigned long long)predicted.metadata_bytes, (unsigned long long)got.metadata_bytes,
                  (unsigned long long)predicted.weights_bytes, (unsigned long long)got.weights_bytes,
                  (unsigned long long)predicted.workspace_bytes, (unsigned long long)got.workspace_bytes);
    kvp_trace_free(&t);
    a->t = NULL;
    return got;
}

/* What is stored as codes is read as codes, by whoever wrote it too: so what a request gets does not hang on what was found,
 * cut or begun again. In double precision nothing falls to another code. */
START_TEST(coded_rows)
{
    static const int schedules[] = {2, 6, 7};
    const int c = _i / BACKENDS % CODED, i = schedules[_i / BACKENDS / CODED];
    const char *backend = backends[_i % BACKENDS];
    char stack[256];
    struct kvp_serving got;
    struct answers alone, served;
    struct kvp_model m;
    double apart;

    tiny_load(&m, 1);
    snprintf(stack, sizeof(stack), "%s paged:8 continuous-batching:4000", coded[c].codes);
    got = serve_all(&m, stack, true, 0, backend, &alone);
    ck_assert_uint_eq(got.hit_tokens + got.preemptions, 0);
    snprintf(stack, sizeof(stack), "%s %s", coded[c].codes, cases[i].stack);
    got = serve_all(&m, stack, false, i, backend, &served);
    ck_assert((got.hit_tokens > 0) == cases[i].hits && (got.preemptions > 0) == cases[i].preempts);
    apart = far_apart(served.logits, alone.logits, TOKENS * m.vocab);
    ck_assert_msg(apart < (_i % BACKENDS ? coded[c].flips : 1e-5), "%s on %s: apart by %g", stack, backend, apart);
    free(alone.logits);
    free(served.logits);
    kvp_model_free(&m);
}
END_TEST

/* Rows of the cache rounded to f16: a pool reads all of them rounded, the engine by itself only what a pass finds. */
START_TEST(half_rows)
{
    struct kvp_error err = {0};
    struct kvp_serving got;
    struct kvp_trace t;
    struct kvp_stack s;
    struct kvp_model m;
    struct serve_run run;
    struct alone a;

    tiny_load(&m, 1);
    must(kvp_trace_parse(&t, requests, strlen(requests), "requests", 0, &err));
    stack_of(&s, cases[6].stack);
    run = run_of(&m, &s, &t, 6, "cpu");
    run.engine.kv = KVP_F16;
    a = (struct alone){.s = &run, .r = t.n};
    run.answer = compare;
    run.self = &a;
    must(serve_trace(&got, &run, &err));
    ck_assert_msg(a.worst > 0 && a.worst < 5e-3, "apart by %g", a.worst);
    free(a.logits);
    kvp_trace_free(&t);
    kvp_model_free(&m);
}
END_TEST

/* ---- a pool that nobody reads would agree too ---------------------------------------------------- */

static kvp_err poison_all(void *self, struct eng *g, uint64_t pass, struct kvp_error *e)
{
    const uint64_t *at = self;

    for (uint32_t b = 0; pass == at[0] && b < at[1]; b++)
        KVP_TRY(eng_poison_block(g, b, e));
    return KVP_OK;
}

static kvp_err count_nan(void *self, uint64_t r, uint64_t index, const float *logits, struct kvp_error *e)
{
    uint64_t *at = self;

    (void)r;
    (void)index;
    (void)e;
    at[2] += isnan(logits[0]) != 0;
    at[3]++;
    return KVP_OK;
}

/* Everything in the pool turns NaN after pass 1: two answers are running by then, and what comes of the pool later is
 * NaN; what was computed and not found again is not. */
START_TEST(poison)
{
    uint64_t at[4] = {1, 100, 0, 0};
    struct kvp_error err = {0};
    struct kvp_serving got;
    struct kvp_trace t;
    struct kvp_stack s;
    struct kvp_model m;
    struct serve_run run;

    tiny_load(&m, 1);
    must(kvp_trace_parse(&t, requests, strlen(requests), "requests", 0, &err));
    stack_of(&s, _i == 2 ? "kv:int8 paged:8 continuous-batching:4000" : cases[_i ? 3 : 0].stack);
    run = run_of(&m, &s, &t, _i == 1 ? 3 : 0, "cpu");
    run.answer = count_nan;
    run.passed = poison_all;
    run.self = at;
    must(serve_trace(&got, &run, &err));
    /* After two passes requests 0 and 1 have had 2 tokens each, 2 and 3 one: 7 + 4 + 0 + 3 are still to come. With a
     * prefix in the pool requests 5, 6 and 7 read it too: 5 + 7 + 8 more. Request 4 comes later and shares nothing. */
    ck_assert_uint_eq(at[2], _i == 1 ? 14 + 20 : 14);
    ck_assert_uint_eq(at[3], 52);
    kvp_trace_free(&t);
    kvp_model_free(&m);
}
END_TEST

/* ---- two schedulers ------------------------------------------------------------------------------ */

static void same_counts(const struct kvp_serving *p, const struct kvp_serving *m, const char *what)
{
    ck_assert_msg(p->steps == m->steps && p->hit_tokens == m->hit_tokens && p->computed_tokens == m->computed_tokens &&
                      p->output_tokens == m->output_tokens && p->preemptions == m->preemptions && p->evictions == m->evictions &&
                      p->peak_blocks == m->peak_blocks && p->block_steps == m->block_steps && p->empty_slot_steps == m->empty_slot_steps &&
                      p->pool_bytes == m->pool_bytes && p->metadata_bytes == m->metadata_bytes && p->weights_bytes == m->weights_bytes &&
                      p->activation_bytes == m->activation_bytes && p->workspace_bytes == m->workspace_bytes,
                  "%s: steps %llu %llu, hits %llu %llu, computed %llu %llu, preemptions %llu %llu, evictions %llu %llu, peak %llu %llu, "
                  "held %llu %llu, empty %llu %llu, pool %llu %llu, activation %llu %llu, workspace %llu %llu", what,
                  (unsigned long long)p->steps, (unsigned long long)m->steps, (unsigned long long)p->hit_tokens,
                  (unsigned long long)m->hit_tokens, (unsigned long long)p->computed_tokens, (unsigned long long)m->computed_tokens,
                  (unsigned long long)p->preemptions, (unsigned long long)m->preemptions, (unsigned long long)p->evictions,
                  (unsigned long long)m->evictions, (unsigned long long)p->peak_blocks, (unsigned long long)m->peak_blocks,
                  (unsigned long long)p->block_steps, (unsigned long long)m->block_steps, (unsigned long long)p->empty_slot_steps,
                  (unsigned long long)m->empty_slot_steps, (unsigned long long)p->pool_bytes, (unsigned long long)m->pool_bytes,
                  (unsigned long long)p->activation_bytes, (unsigned long long)m->activation_bytes,
                  (unsigned long long)p->workspace_bytes, (unsigned long long)m->workspace_bytes);
}

/* Random traces under random rules, pools from just enough to plenty. */
START_TEST(schedulers_agree)
{
    uint64_t x = 17 + (uint64_t)_i, preempted = 0, found = 0;
    struct kvp_model m;

    tiny_load(&m, 1);
    for (int n = 0; n < 60; n++) {
        uint64_t r[8], longest = 0;
        struct kvp_error err = {0};
        struct kvp_serving p, got;
        struct kvp_trace t;
        struct kvp_stack s;
        struct serve_run run;
        char spec[128], stack[160];

        for (int i = 0; i < 8; i++)
            r[i] = (x = x * 6364136223846793005u + 1442695040888963407u) >> 40;
        snprintf(spec, sizeof(spec), "requests=%d,rate=%d,prompt=%d,output=%d,prefixes=%d,prefix=%d", 1 + (int)(r[0] % 14), 1 + (int)(r[1] % 9),
                 1 + (int)(r[2] % 20), 1 + (int)(r[3] % 12), 1 + (int)(r[4] % 4), (int)(r[5] % 40));
        must(kvp_trace_generate(&t, spec, (uint64_t)n, &err));
        for (uint64_t i = 0; i < t.n; i++)
            longest = longest > t.request[i].prompt + t.request[i].output ? longest : t.request[i].prompt + t.request[i].output;
        snprintf(stack, sizeof(stack), "paged:%d continuous-batching:%d,max_num_seqs=%d%s%s", 8 + (int)(r[6] % 3) * 4,
                 r[7] % 2 ? 17 + (int)(r[7] % 60) : (int)longest + (int)(r[7] % 60), 1 + (int)(r[7] / 7 % 6), r[6] % 4 ? " prefix" : "",
                 r[7] % 2 ? " chunked-prefill:16" : "");
        stack_of(&s, stack);
        run = (struct serve_run){.model = &m, .stack = &s, .trace = &t, .serve = {.blocks = longest / 8 + 1 + r[0] / 16 % 12, .step_s = 0.3},
                                 .engine = {.device = {.threads = 1}, .seed = 7}};
        must(kb_find(&run.engine.backend, "cpu", &err));
        must(kvp_serve_predict(&p, &m, &s, &t, &run.serve, &(struct kvp_options){.weights_given = true, .kv_given = true}, NULL, &err));
        must(serve_trace(&got, &run, &err));
        same_counts(&p, &got, stack);
        preempted += got.preemptions > 0;
        found += got.hit_tokens > 0;
        kvp_trace_free(&t);
    }
    ck_assert_msg(preempted >= 5 && found >= 5, "%llu of 60 preempted, %llu hit", (unsigned long long)preempted, (unsigned long long)found);
    kvp_model_free(&m);
}
END_TEST

/* ---- blocks -------------------------------------------------------------------------------------- */

START_TEST(blocks_by_hand)
{
    static const int32_t a[2] = {1, 2}, b[2] = {3, 4};
    struct kvp_error err = {0};
    struct blocks *p;

    must(blocks_open(&p, 3, 2, &err));
    ck_assert_uint_eq(blocks_take(p), 0);
    ck_assert_uint_eq(blocks_take(p), 1);
    ck_assert_uint_eq(blocks_free(p), 1);
    blocks_name(p, 0, 0, a);
    blocks_name(p, 1, 0, a); /* the first stays the one that is found */
    ck_assert_int_eq(blocks_find(p, 0, a), 0);
    ck_assert_int_eq(blocks_find(p, 0, b), BLOCKS_NONE);
    ck_assert_int_eq(blocks_find(p, blocks_hash(p, 0, a), a), BLOCKS_NONE); /* the same tokens behind others */
    blocks_hold(p, 0);
    blocks_drop(p, 0);
    ck_assert_uint_eq(blocks_free(p), 1); /* one holder is left */
    blocks_drop(p, 0);
    blocks_drop(p, 1);
    ck_assert_int_eq(blocks_find(p, 0, a), 0); /* free, and still there */
    ck_assert_uint_eq(blocks_take(p), 2); /* free for longest */
    ck_assert_uint_eq(blocks_evicted(p), 0);
    ck_assert_uint_eq(blocks_take(p), 0);
    ck_assert_uint_eq(blocks_evicted(p), 1);
    ck_assert_int_eq(blocks_find(p, 0, a), BLOCKS_NONE);
    blocks_close(p);
}
END_TEST

/* ---- what cannot be served ----------------------------------------------------------------------- */

static const struct {
    const char *stack;
    uint64_t blocks;
    kvp_err code;
    const char *theirs, *ours; /* words of calc and of the engine */
} refused[] = {
    {"paged:8 continuous-batching:64", 3, KVP_EINPUT, "pool", "pool"},
    {"paged:8 continuous-batching:20", 100, KVP_EINPUT, "chunked-prefill", "step"},
    {"paged:8", 100, KVP_EINPUT, "continuous-batching", "continuous batching"},
    {"continuous-batching", 100, KVP_EINPUT, "paged", "pages"},
    {"growing continuous-batching", 100, KVP_EINPUT, "paged", "pages"},
    {"window:8 paged:8 continuous-batching:64", 100, KVP_ENOTSUP, "window", "window"},
    {"kivi:group=16,residual=16 paged:16 continuous-batching:64", 100, KVP_ENOTSUP, "kivi", "kivi"},
    {"kv:fp8 paged:8 continuous-batching:64", 100, KVP_ENOTSUP, "scale", "scale"},
    {"kv:k=f16,v=fp8 paged:8 continuous-batching:64", 100, KVP_ENOTSUP, "scale", "scale"},
    {"paged:8 prefix:20 continuous-batching:64", 100, KVP_EINPUT, "shared", "shared"},
    {"paged:8 prefix:granularity=token continuous-batching:64", 100, KVP_ENOTSUP, "granularity", "granularity"},
    {"paged:8 prefix:block=16 continuous-batching:64", 100, KVP_EINPUT, "block", "blocks"},
    {"paged:4 prefix continuous-batching:64", 100, KVP_EINPUT, "chance", "chance"},
    {"paged:8 continuous-batching:64", 0, KVP_EINPUT, "pool", "blocks"},
};

START_TEST(refusals)
{
    struct kvp_error err = {0}, e1 = {0}, e2 = {0};
    struct kvp_serving p;
    struct kvp_trace t;
    struct kvp_stack s;
    struct kvp_model m;
    struct serve_run run;

    tiny_load(&m, 1);
    must(kvp_trace_parse(&t, requests, strlen(requests), "requests", 0, &err));
    stack_of(&s, refused[_i].stack);
    run = run_of(&m, &s, &t, 0, "ref");
    run.serve.blocks = refused[_i].blocks;
    ck_assert_int_eq(kvp_serve_predict(&p, &m, &s, &t, &run.serve, &(struct kvp_options){.kv_given = true}, NULL, &e1), refused[_i].code);
    ck_assert_int_eq(serve_trace(&p, &run, &e2), refused[_i].code);
    ck_assert_msg(strstr(e1.text, refused[_i].theirs), "'%s' does not say %s", e1.text, refused[_i].theirs);
    ck_assert_msg(strstr(e2.text, refused[_i].ours), "'%s' does not say %s", e2.text, refused[_i].ours);
    kvp_trace_free(&t);
    kvp_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("serve");
    TCase *t = tcase_create("serve");
    SRunner *r;
    int failed;

    tcase_set_timeout(t, 240);
    tcase_add_loop_test(t, logits_are_those_of_the_request_alone, 0, N_CASES * BACKENDS);
    tcase_add_test(t, goldens);
    tcase_add_loop_test(t, coded_rows, 0, 3 * CODED * BACKENDS);
    tcase_add_test(t, half_rows);
    tcase_add_loop_test(t, poison, 0, 3);
    tcase_add_loop_test(t, schedulers_agree, 0, 3);
    tcase_add_test(t, blocks_by_hand);
    tcase_add_loop_test(t, refusals, 0, (int)(sizeof(refused) / sizeof(refused[0])));
    suite_add_tcase(s, t);
    r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
