/* trace.h - a list of requests: when each arrives, how long its prompt and its answer are, and what of its prompt others
 * have too. Parsed input, nothing computed: calc and the engine each schedule it themselves. */
#ifndef KVPROOF_TRACE_H
#define KVPROOF_TRACE_H

#include <kvproof/error.h>

#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Tokens of a prompt: token i of a piece is the same wherever a piece has the same id. */
struct kvp_piece {
    uint64_t id, tokens;
};

struct kvp_request {
    double arrival; /* seconds, from 0 on */
    uint64_t prompt, output; /* tokens, at least 1 each */
    uint64_t first, pieces;  /* its prompt is trace.piece[first .. first + pieces) one after the other */
};

/* In order of arrival; who came first in the file is first among equals. */
struct kvp_trace {
    uint64_t n;
    struct kvp_request *request;
    uint64_t n_pieces;
    struct kvp_piece *piece;
};

/* One request a line, at most `limit` of them (0: all). JSON objects with
 *   timestamp (ms), input_length, output_length, hash_ids     Mooncake: an id for every 512 tokens of the prompt, the last
 *                                                             may stand for fewer; two pieces with one id are equal
 *   arrival (s), prompt, output, prefix, prefix_id            ours: the first `prefix` tokens (0) are prefix_id's (0);
 *                                                             hash_ids with hash_block instead is understood too
 * or a CSV file with a header that names TIMESTAMP (a date, or seconds), ContextTokens, GeneratedTokens: Azure's LLM
 * inference traces, whose prompts have nothing in common. The first arrival becomes 0. What a line leaves out of hash_ids
 * or prefix is its own. No output is one token: a prompt's logits give it. KVP_EINPUT naming the line and the key. */
kvp_err kvp_trace_load(struct kvp_trace *out, const char *path, uint64_t limit, struct kvp_error *e);
kvp_err kvp_trace_parse(struct kvp_trace *out, const char *text, size_t size, const char *name, uint64_t limit, struct kvp_error *e);

/* "requests=32,rate=4,prompt=64,output=16,prefixes=4,prefix=32,zipf=1": Poisson arrivals, `rate` a second; prompts of
 * `prefix` tokens and a Poisson number around `prompt` behind them, answers of a Poisson number around `output`, each at
 * least 1; which of the prefixes it is by Zipf's law, the k-th with weight k^-zipf. */
kvp_err kvp_trace_generate(struct kvp_trace *out, const char *spec, uint64_t seed, struct kvp_error *e);

/* JSON lines that kvp_trace_load() reads back as the same trace. */
kvp_err kvp_trace_write(FILE *f, const struct kvp_trace *t, struct kvp_error *e);
void kvp_trace_free(struct kvp_trace *t); /* zeroed is fine */

#ifdef __cplusplus
}
#endif
#endif
