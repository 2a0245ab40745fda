/* checkpoint.h - what a checkpoint's files say of themselves: names, shapes, types and places of tensors. Headers
 * are read, never a tensor's data.
 *
 * Formats: safetensors (huggingface/safetensors README, "Format") and GGUF 2 and 3 (ggml-org/ggml docs/gguf.md).
 * Nothing of the engine's reader is shared: it checks the same files on its own. */
#ifndef KVPROOF_CALC_CHECKPOINT_H
#define KVPROOF_CALC_CHECKPOINT_H

#include <kvproof/model.h>

#include <jansson.h>
#include <stddef.h>

enum { CKPT_DIMS = 8 };

struct ckpt_tensor {
    char *name;     /* owned */
    char dtype[16]; /* the format's own word ("BF16", "Q4_K") */
    uint32_t file;  /* of checkpoint.files */
    uint32_t dims;
    uint64_t shape[CKPT_DIMS]; /* rows first in both formats */
    uint64_t elements;
    uint64_t from, bytes; /* place in the file's data */
    bool plain;           /* a number an element, as it was trained: F64, F32, F16, BF16 */
    enum kvp_format format; /* of a GGUF block format: itself or the nearest that has a word here; else F32 */
};

/* One metadata key of a GGUF file. */
struct ckpt_kv {
    const char *key; /* key_len bytes, as `value` in the header */
    size_t key_len;
    uint32_t type, item; /* item: of an array's elements */
    uint64_t count;      /* elements of an array, bytes of a string, else 1 */
    const unsigned char *value;
};

struct checkpoint {
    struct ckpt_tensor *v; /* owned; sorted by name after ckpt_sort() and ckpt_open() */
    size_t n, cap;
    char **files; /* owned */
    uint32_t n_files;
    bool gguf;
    unsigned char *header; /* owned when ckpt_open() read it; what kv points into */
    struct ckpt_kv *kv;    /* owned, sorted by key: the first file's */
    size_t n_kv, cap_kv;
};

/* The tensors of one file, added to *c. `head` is the first `len` bytes of a file of `file_bytes`, which may be all
 * of it; it must outlive *c when it is GGUF. KVP_NO, and e untouched: the header goes on, at least *need bytes are
 * wanted. KVP_EINPUT for what a strict reader refuses; ckpt_free() *c in any case. The fuzz target's entry. Before
 * tensors are looked up by name, ckpt_sort(). */
kvp_err ckpt_parse(struct checkpoint *c, const unsigned char *head, size_t len, uint64_t file_bytes, const char *origin,
                   size_t *need, struct kvp_error *e);

/* Sort the tensors by name; KVP_EINPUT where one is there twice. */
kvp_err ckpt_sort(struct checkpoint *c, const char *origin, struct kvp_error *e);

/* A .safetensors or .gguf file (the first of a split one: all of them), or a directory with safetensors: one file, or
 * model.safetensors.index.json and every shard that it names. ckpt_free() it on success. */
kvp_err ckpt_open(struct checkpoint *c, const char *path, struct kvp_error *e);
void ckpt_free(struct checkpoint *c);

/* Does the directory hold safetensors at all? (an index without its shards does) */
bool ckpt_in_dir(const char *dir);

/* Is this a file that begins as GGUF does, whatever its name? */
bool ckpt_is_gguf(const char *path);

/* What the weights of `m` take in these files, into m->file_bytes, file_elements, file_tower and file_mtp: buffers
 * that are no weights and a head that is stored although it is tied are left out. KVP_EINPUT, naming the first thing
 * that differs, where the elements are not those that the config says. Quantized files count other elements than
 * the config's, so of those the bytes are taken unchecked. A GGUF file's elements are the config's whatever its formats; the commonest of these
 * becomes m->quant. */
kvp_err ckpt_describe(struct kvp_model *m, const struct checkpoint *c, const char *origin, struct kvp_error *e);

/* The config.json that a GGUF file's metadata amounts to; *text is the caller's to free(). KVP_ENOTSUP naming an
 * architecture that is not here. */
kvp_err ckpt_gguf_config(char **text, const struct checkpoint *c, const char *origin, struct kvp_error *e);

/* The model of a GGUF file, by that config, with ckpt_describe(); kvp_model_free() it on success. */
kvp_err ckpt_gguf_model(struct kvp_model *out, const struct checkpoint *c, const char *origin, struct kvp_error *e);

/* ---- for the files of checkpoint/ ---------------------------------------------------------------------- */

kvp_err ckpt_safetensors(struct checkpoint *c, const unsigned char *head, size_t len, uint64_t file_bytes, const char *origin,
                         size_t *need, struct kvp_error *e);
kvp_err ckpt_gguf(struct checkpoint *c, const unsigned char *head, size_t len, uint64_t file_bytes, const char *origin,
                  size_t *need, struct kvp_error *e);
/* Room for one more, zeroed but for its file; its name is a copy. */
kvp_err ckpt_add(struct checkpoint *c, const char *name, size_t len, struct ckpt_tensor **out, struct kvp_error *e);
/* The shape's product; KVP_EINPUT when 63 bits do not hold it. */
kvp_err ckpt_count(struct ckpt_tensor *t, const char *origin, struct kvp_error *e);
/* Sort the tensors from `first` on by place. KVP_EINPUT where two overlap; with `whole`, also where data belong to
 * none of them. */
kvp_err ckpt_places(struct checkpoint *c, size_t first, uint64_t data_bytes, bool whole, const char *origin, struct kvp_error *e);
const struct ckpt_tensor *ckpt_find(const struct checkpoint *c, const char *name); /* after sorting by name */
const struct ckpt_kv *ckpt_key(const struct checkpoint *c, const char *key);
bool ckpt_kv_u64(const struct ckpt_kv *kv, uint64_t i, uint64_t *out);  /* the i-th number of an array; 0: a scalar too */
bool ckpt_kv_real(const struct ckpt_kv *kv, double *out);

#endif
