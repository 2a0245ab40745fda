/* tokens.h - token ids in, files out: what a validation run reads and writes besides its result. */
#ifndef KVPROOF_TOKENS_H
#define KVPROOF_TOKENS_H

#include <kvproof/kvproof.h>

struct tokens {
    int32_t *prompt; /* [batch, prompt] */
    int32_t *rest;   /* [batch, generate] */
    uint64_t batch, n_prompt, n_rest;
};

/* From a file of whitespace-separated ids (batch 1, exactly context of them), or random ids from the
 * seed when `file` is NULL. KVP_EINPUT for a bad id, naming the file and its place. */
kvp_err tokens_load(struct tokens *t, const char *file, uint32_t vocab, const struct kvp_workload *w,
                    uint64_t seed, struct kvp_error *e);
/* Every sequence's first `n` prompt tokens become sequence 0's. */
void tokens_share(struct tokens *t, uint64_t n);
void tokens_free(struct tokens *t);
/* How many ids `file` holds. */
kvp_err tokens_count(const char *file, uint64_t *n, struct kvp_error *e);

/* A file that appears whole or not at all: written beside its place, then renamed. path NULL: stdout,
 * which gets everything at commit or nothing. What is there and is no plain file (a device, a pipe, a link)
 * is written to as it is. */
struct out_file {
    FILE *f;
    const char *path;
    char *temp;
    char *text; /* stdout only */
    size_t size;
};
kvp_err out_open(struct out_file *o, const char *path, struct kvp_error *e);
kvp_err out_commit(struct out_file *o, struct kvp_error *e); /* closes, also on failure */
void out_abort(struct out_file *o);
/* Could out_open(path) write? For programs that work long before they write. Leaves nothing behind. */
kvp_err out_check(const char *path, struct kvp_error *e);

/* Logits, float32 [rows, vocab], row by row. A zeroed one writes nothing: row() is NULL then. */
struct logit_file {
    struct out_file o;
    float *rows;
    uint64_t vocab;
    bool open;
};
kvp_err logit_file_open(struct logit_file *l, const char *path, uint64_t rows, uint32_t vocab, struct kvp_error *e);
float *logit_file_row(struct logit_file *l); /* room for the rows given to open; NULL: l is NULL or closed */
kvp_err logit_file_write(struct logit_file *l, uint64_t rows, struct kvp_error *e);
kvp_err logit_file_commit(struct logit_file *l, struct kvp_error *e);
void logit_file_abort(struct logit_file *l);

#endif
