/* json.h - reading configuration files: lenient where published files are, strict where a value counts.
 *
 * Lenient: Infinity, -Infinity and NaN without quotes (Python writes them) and integers of any length
 * load; null is the same as absent; 32.0 is the integer 32; 0 and 1 are booleans.
 * Strict: a value of another type or outside its range is KVP_EINPUT naming file, key and range.
 * Nothing here prints; messages hold no control character whatever the file holds. */
#ifndef CALC_JSON_H
#define CALC_JSON_H

#include <kvproof/error.h>

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An object being read. `origin` (a file, or "file: key") opens every message. */
struct kvp_json {
    const json_t *object;
    const char *origin;
    struct kvp_error *e;
};

/* Parse `len` bytes; a key that stands twice in an object contradicts itself. *out is the caller's to json_decref(). KVP_EINPUT with the line, KVP_ENOMEM. */
kvp_err kvp_json_parse(json_t **out, const char *text, size_t len, const char *origin, struct kvp_error *e);

/* The whole file at `path`, at most 16 MiB; *text is the caller's to free(), *len without the closing
 * zero byte. KVP_EINPUT when it cannot be opened or is larger, KVP_ESYS when reading fails. */
kvp_err kvp_json_read_file(char **text, size_t *len, const char *path, struct kvp_error *e);

/* The value of `key`; NULL when absent or null. */
const json_t *kvp_json_get(const struct kvp_json *j, const char *key);

/* Each leaves *out alone when the key is absent or null, and says so in *found (may be NULL). */
kvp_err kvp_json_u64(const struct kvp_json *j, const char *key, uint64_t least, uint64_t most, uint64_t *out,
                     bool *found);
kvp_err kvp_json_real(const struct kvp_json *j, const char *key, double *out, bool *found); /* > 0, finite */
kvp_err kvp_json_bool(const struct kvp_json *j, const char *key, bool *out, bool *found);
/* The string lives as long as the object. */
kvp_err kvp_json_text(const struct kvp_json *j, const char *key, const char **out, bool *found);

/* `text` made fit for a message or a name: control characters, and bytes that are no UTF-8, become '?'; cut
 * to whole characters in n - 1 bytes. */
void kvp_json_word(char *buf, size_t n, const char *text);

#endif
