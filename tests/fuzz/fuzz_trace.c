/* fuzz_trace.c - any bytes as a trace: refused in one line, or requests whose pieces make up their prompts, that are the
 * same when they are written and read again; and small ones are served: every answer comes, from a pool that is never
 * larger than it is. */
#include "tests/fuzz/fuzz.h"

#include <kvproof/kvproof.h>

enum { SMALL_REQUESTS = 12, SMALL_TOKENS = 300, BLOCK = 8 };

static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":64,\"hidden_size\":16,\"num_hidden_layers\":1,"
                             "\"num_attention_heads\":2,\"intermediate_size\":16,\"max_position_embeddings\":4096}";

static void check_pieces(const struct kvp_trace *t)
{
    FUZZ_HOLDS(t->n > 0 && t->request[0].arrival == 0);
    for (uint64_t i = 0; i < t->n; i++) {
        const struct kvp_request *q = &t->request[i];
        uint64_t sum = 0;

        FUZZ_HOLDS(q->prompt > 0 && q->output > 0);
        FUZZ_HOLDS(i == 0 || q->arrival >= t->request[i - 1].arrival);
        FUZZ_HOLDS(q->first + q->pieces <= t->n_pieces);
        for (uint64_t p = 0; p < q->pieces; p++)
            sum += t->piece[q->first + p].tokens;
        FUZZ_HOLDS(sum == q->prompt);
    }
}

/* Ids of what is a request's own are numbers in a file, and another file's order may be another. */
static void check_again(const struct kvp_trace *t)
{
    struct kvp_trace again;
    struct kvp_error e = {0};
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    if (!f)
        return;
    FUZZ_HOLDS(kvp_trace_write(f, t, &e) == KVP_OK);
    fclose(f);
    FUZZ_HOLDS(kvp_trace_parse(&again, text, size, "again", 0, &e) == KVP_OK);
    FUZZ_HOLDS(again.n == t->n);
    for (uint64_t i = 0; i < t->n; i++) {
        const struct kvp_request *a = &t->request[i], *b = &again.request[i];

        FUZZ_HOLDS(a->arrival == b->arrival && a->prompt == b->prompt && a->output == b->output && a->pieces == b->pieces);
        for (uint64_t p = 0; p < a->pieces; p++) {
            const struct kvp_piece *x = &t->piece[a->first + p], *y = &again.piece[b->first + p];

            FUZZ_HOLDS(x->tokens == y->tokens && (x->id >> 63 ? y->id >> 63 : x->id == y->id));
        }
    }
    kvp_trace_free(&again);
    free(text);
}

static void serve(const struct kvp_trace *t, const char *const *stack, uint64_t need)
{
    struct kvp_serve_options so = {need, 0.5};
    struct kvp_error e = {0};
    struct kvp_serving s;
    struct kvp_stack specs = {0};
    struct kvp_model m;
    uint64_t answers = 0, least = 0;

    FUZZ_HOLDS(kvp_model_parse(&m, config, sizeof(config) - 1, "tiny", &e) == KVP_OK);
    for (; *stack; stack++)
        FUZZ_HOLDS(kvp_stack_add(&specs, *stack, &e) == KVP_OK);
    FUZZ_HOLDS(kvp_serve_predict(&s, &m, &specs, t, &so, &(struct kvp_options){0}, NULL, &e) == KVP_OK);
    for (uint64_t i = 0; i < t->n; i++) {
        answers += t->request[i].output;
        least += t->request[i].prompt + t->request[i].output - 1;
    }
    FUZZ_HOLDS(s.output_tokens == answers);
    FUZZ_HOLDS(s.hit_tokens + s.computed_tokens >= least);
    FUZZ_HOLDS(s.peak_blocks <= so.blocks && s.block_steps <= s.steps * so.blocks);
    FUZZ_HOLDS(s.empty_slot_steps <= s.block_steps * BLOCK * t->n);
    kvp_model_free(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const plain[] = {"paged:8", "continuous-batching:4096", NULL},
                      *const cut[] = {"paged:8", "prefix", "continuous-batching:20,max_num_seqs=4", "chunked-prefill:16", NULL};
    struct kvp_trace t;
    struct kvp_error e = {0};
    kvp_err rc = kvp_trace_parse(&t, (const char *)data, size, "trace", 0, &e);
    uint64_t tokens = 0, longest = 1;

    if (rc != KVP_OK) {
        fuzz_check_error(rc, &e);
        return 0;
    }
    check_pieces(&t);
    check_again(&t);
    for (uint64_t i = 0; i < t.n && tokens <= SMALL_TOKENS; i++) {
        const uint64_t n = t.request[i].prompt + t.request[i].output;

        tokens += n;
        longest = n > longest ? n : longest;
    }
    if (t.n <= SMALL_REQUESTS && tokens <= SMALL_TOKENS) {
        serve(&t, plain, (longest + BLOCK - 1) / BLOCK); /* just enough for one */
        serve(&t, cut, (longest + BLOCK - 1) / BLOCK + 3);
    }
    kvp_trace_free(&t);
    return 0;
}
