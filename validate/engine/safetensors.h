/* safetensors.h - tensors of a safetensors file or directory, mapped, never copied.
 *
 * Format: an 8-byte little-endian header length, a JSON header {name: {dtype, shape, data_offsets}},
 * then the data, which the tensors cover without holes or overlaps (huggingface/safetensors, README,
 * "Format"). A directory holds model.safetensors, or model.safetensors.index.json and the shards that
 * its weight_map names.
 *
 * Nothing in a file is trusted: every offset and product is checked before it is used. All errors are
 * KVP_EINPUT naming the file (KVP_ENOMEM, KVP_ESYS apart). */
#ifndef KVPROOF_SAFETENSORS_H
#define KVPROOF_SAFETENSORS_H

#include <kvproof/error.h>
#include <kvproof/names.h>

enum { ST_DIMS = 8 };

struct st_tensor {
    const char *name, *file; /* live until st_close() */
    char dtype[12];          /* the file's word */
    enum kvp_format format;  /* F32, F16, BF16; KVP_FORMATS for a dtype that is none of them */
    uint32_t dims;
    uint64_t shape[ST_DIMS];
    uint64_t count;          /* elements */
    const unsigned char *data; /* no particular alignment */
    bool used;               /* the caller's mark */
};

struct st_files;

kvp_err st_open(struct st_files **out, const char *path, struct kvp_error *e);
void st_close(struct st_files *s); /* NULL is fine */
struct st_tensor *st_find(struct st_files *s, const char *name); /* NULL: none of that name */
struct st_tensor *st_at(struct st_files *s, uint64_t i);         /* in name order; NULL past the end */

/* "[2, 3]" */
void st_shape_text(uint32_t dims, const uint64_t *shape, char *buf, size_t n);

#endif
