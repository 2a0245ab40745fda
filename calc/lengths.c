/* lengths.c - sequences of different lengths in one batch.
 *
 * What each keeps is exact: its own cache and state, added up. What passes through is that of the batch padded
 * to the longest, as an engine without ragged kernels runs it: FLOPs, traffic, times and activations are upper
 * bounds. */
#include "calc/point.h"

#include <inttypes.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* What sequences keep. */
struct kept {
    uint64_t cache, metadata, state, peak, shared, rounding;
    struct kvp_tensor *tensors; /* owned */
    uint32_t n;
    bool over;
};

static bool is_kept(const struct kvp_tensor *x)
{
    return x->tag == KVP_TAG_CACHE || x->tag == KVP_TAG_METADATA || x->tag == KVP_TAG_STATE;
}

static kvp_err append(struct kept *k, const struct kvp_tensor *v, uint32_t n, bool kept, struct kvp_error *e)
{
    struct kvp_tensor *p = realloc(k->tensors, ((size_t)k->n + n + 1) * sizeof(*p));

    if (!p)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a list of %" PRIu32 " tensors", k->n + n);
    k->tensors = p;
    for (uint32_t i = 0; i < n; i++)
        if (is_kept(&v[i]) == kept)
            k->tensors[k->n++] = v[i];
    return KVP_OK;
}

/* What is shared is stored once, whatever the lengths. */
static void add(struct kept *k, const struct kvp_memory *m)
{
    k->cache = num_add(&k->over, k->cache, m->cache_bytes - m->shared_bytes);
    k->peak = num_add(&k->over, k->peak, m->cache_peak_bytes - m->shared_bytes);
    k->metadata = num_add(&k->over, k->metadata, m->metadata_bytes);
    k->state = num_add(&k->over, k->state, m->state_bytes);
    k->shared = num_max(k->shared, m->shared_bytes);
}

/* cache = batch * (fixed + per token * longest) + shared + rounding: what shorter ones lack is in the rounding. */
static void settle(struct kvp_estimate *out, const struct kept *k)
{
    struct kvp_memory *m = &out->memory;
    const uint64_t rest = m->total_bytes - m->cache_bytes - m->state_bytes + k->state;
    const int64_t each = m->fixed_bytes_per_sequence + (int64_t)(m->bytes_per_token * out->workload.context);

    m->cache_bytes = k->cache + k->shared;
    m->cache_peak_bytes = k->peak + k->shared;
    m->metadata_bytes = k->metadata;
    m->state_bytes = k->state;
    m->shared_bytes = k->shared;
    m->rounding_bytes = (int64_t)k->cache - (int64_t)out->workload.batch * each;
    m->total_bytes = rest + m->cache_bytes;
    m->peak_bytes = rest + m->cache_peak_bytes;
}

struct request {
    const struct kvp_model *m;
    const struct kvp_stack *s;
    const struct kvp_options *o;
    const struct kvp_device *device;
    uint64_t generate;
};

static kvp_err group(struct kept *k, const struct request *q, uint64_t length, uint64_t count, struct kvp_error *e)
{
    const struct kvp_workload w = {.batch = count, .context = length, .generate = num_min(q->generate, length - 1)};
    struct kvp_estimate one;
    kvp_err rc;

    KVP_TRY(kvp_estimate(&one, q->m, q->s, &w, q->o, NULL, e));
    add(k, &one.memory);
    rc = append(k, one.tensors, one.n_tensors, true, e);
    kvp_estimate_free(&one);
    return rc;
}

static kvp_err groups(struct kept *k, const struct request *q, const uint64_t *sorted, uint64_t n, struct kvp_error *e)
{
    for (uint64_t i = 0, next; i < n; i = next) {
        for (next = i + 1; next < n && sorted[next] == sorted[i];)
            next++;
        KVP_TRY(group(k, q, sorted[i], next - i, e));
    }
    return k->over ? kvp_fail(e, KVP_ERANGE, "a sum over %" PRIu64 " lengths does not fit in 63 bits", n) : KVP_OK;
}

static kvp_err solve(struct kvp_estimate *out, const struct request *q, uint64_t *sorted, uint64_t n, struct kvp_error *e)
{
    const struct kvp_workload padded = {.batch = n, .context = sorted[n - 1], .generate = num_min(q->generate, sorted[n - 1] - 1)};
    struct kept k = {0};
    kvp_err rc;

    KVP_TRY(kvp_estimate(out, q->m, q->s, &padded, q->o, q->device, e));
    rc = append(&k, out->tensors, out->n_tensors, false, e);
    if (rc == KVP_OK)
        rc = groups(&k, q, sorted, n, e);
    if (rc != KVP_OK) {
        free(k.tensors);
        kvp_estimate_free(out);
        return rc;
    }
    settle(out, &k);
    out->token_steps = 0;
    for (uint64_t i = 0; i < n; i++)
        out->token_steps += sorted[i];
    estimate_parts(out, q->device);
    free(out->tensors);
    out->tensors = k.tensors;
    out->n_tensors = k.n;
    out->lengths = sorted;
    out->n_lengths = n;
    return KVP_OK;
}

kvp_err kvp_estimate_lengths(struct kvp_estimate *out, const struct kvp_model *m, const struct kvp_stack *s, const uint64_t *lengths,
                             uint64_t n, uint64_t generate, const struct kvp_options *o, const struct kvp_device *device, struct kvp_error *e)
{
    uint64_t *sorted = n && n < (1 << 24) ? malloc(n * sizeof(*sorted)) : NULL;
    kvp_err rc;

    if (ranks_parallel(o))
        rc = kvp_fail(e, KVP_ENOTSUP, "a list of lengths over several ranks is not supported");
    else if (!sorted)
        rc = kvp_fail(e, KVP_EINPUT, "expected from 1 to %d lengths, got %" PRIu64, (1 << 24) - 1, n);
    else
        rc = KVP_OK;
    for (uint64_t i = 0; rc == KVP_OK && i < n; i++) {
        if (!lengths[i])
            rc = kvp_fail(e, KVP_EINPUT, "a length of 0: expected at least 1");
        sorted[i] = lengths[i];
    }
    if (rc == KVP_OK) {
        qsort(sorted, n, sizeof(*sorted), by_value);
        rc = solve(out, &(struct request){m, s, o, device, generate}, sorted, n, e);
    }
    if (rc != KVP_OK)
        free(sorted);
    return rc;
}
