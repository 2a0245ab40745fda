/* kinds.c - the ops whose timings are understood. Bytes are compulsory traffic, causal FLOPs the triangle,
 * items what a kernel gives to one slot, tiles their inner steps; constants of proportion are fitted. */
#include "calc/optime/rows.h"

#include <math.h>
#include <string.h>

static double width_of(const char *dtype)
{
    if (strncmp(dtype, "nvfp4", 5) == 0)
        return 0.5625; /* half a byte, and an fp8 scale for each 16 */
    if (strncmp(dtype, "fp8", 3) == 0 || strncmp(dtype, "int8", 4) == 0)
        return 1;
    return strncmp(dtype, "float32", 7) == 0 ? 4 : 2;
}

static void decode(const double *v, const char *(*word)(void *, const char *), void *ctx, double *term, double *at)
{
    const double heads = v[0], kv_heads = v[1], d = v[2], batch = v[3], step = v[4], window = v[5];
    const double seen = window > 0 ? fmin(step + 1, window) : step + 1, items = batch * kv_heads;
    const double kv = items * seen * 2 * d * width_of(word(ctx, "kv_cache_dtype"));

    term[0] = kv + batch * heads * d * 4;
    term[1] = 4 * batch * heads * d * seen;
    term[2] = fmax(1, items / 128);
    term[3] = fmax(1, items * ceil(seen / 128) / 128);
    at[0] = log2(kv);
    at[1] = log2(batch);
    at[2] = log2(kv_heads);
    at[3] = log2(heads / kv_heads);
}

static void prefill(const double *v, const char *(*word)(void *, const char *), void *ctx, double *term, double *at)
{
    const double heads = v[0], kv_heads = v[1], d = v[2], batch = v[3], isl = v[4], past = v[5], window = v[6];
    const double full = isl * past + isl * (isl + 1) / 2;
    const double band = window > 0 && window < past + isl ? fmin(full, isl * window) : full;
    const double blocks = batch * heads * ceil(isl / 128);

    term[0] = batch * (isl * heads * d * 4 + (isl + past) * 2 * kv_heads * d * width_of(word(ctx, "kv_cache_dtype")));
    term[1] = 4 * batch * heads * d * band;
    term[2] = fmax(1, blocks / 128);
    term[3] = fmax(1, blocks * ceil(band / isl / 128) / 128);
    at[0] = log2(batch);
    at[1] = log2(isl);
    at[2] = log2(heads);
    at[3] = log2(kv_heads);
}

/* Latent 512 and 64 rotated elements a token; a kernel works on at least 64 heads at a time. */
static void mla(const double *v, const char *(*word)(void *, const char *), void *ctx, double *term, double *at)
{
    const double heads = v[0], batch = v[1], seen = v[2] + 1, items = batch * ceil(heads / 64);
    const double kv = batch * seen * 576 * width_of(word(ctx, "kv_cache_dtype"));

    term[0] = kv + batch * heads * (576 + 512) * 2;
    term[1] = 2 * batch * fmax(heads, 64) * (576 + 512) * seen;
    term[2] = fmax(1, items / 128);
    term[3] = fmax(1, items * ceil(seen / 64) / 128);
    at[0] = log2(kv);
    at[1] = log2(batch);
    at[2] = log2(heads);
    at[3] = 0;
}

static void gemm(const double *v, const char *(*word)(void *, const char *), void *ctx, double *term, double *at)
{
    const double m = v[0], n = v[1], k = v[2], w = width_of(word(ctx, "gemm_dtype")), blocks = ceil(m / 128) * ceil(n / 128);

    term[0] = n * k * w + m * k * w + m * n * 2;
    term[1] = 2 * m * n * k;
    term[2] = fmax(1, blocks / 128);
    term[3] = fmax(1, ceil(blocks / 128)) * ceil(k / 64);
    at[0] = log2(m);
    at[1] = log2(n);
    at[2] = log2(k);
    /* a ragged last tile and rows that do not align cost what no size shows */
    at[3] = (m > 64 ? 4 * log2(ceil(m / 128) * 128 / m) : 0) + (fmod(m, 8) > 0 ? 1 : 0) + (fmod(m, 16) > 0 ? 0.5 : 0);
}

/* A scan, a step or a convolution: channels times tokens, beside a state that every sequence has. */
static void recurrence(double batch, double tokens, double width, double state, double *term, double *at)
{
    term[0] = batch * (tokens * width * 4 + state * 8);
    term[1] = 6 * batch * tokens * state;
    term[2] = fmax(1, batch * width / 64 / 128);
    term[3] = fmax(1, batch * width / 64 * ceil(tokens / 64) / 128);
    at[0] = log2(batch);
    at[1] = log2(tokens);
    at[2] = log2(width);
    at[3] = log2(state);
}

static double tokens_of(double seq_len, const char *phase)
{
    return strcmp(phase, "generation") == 0 ? 1 : fmax(1, seq_len);
}

static void mamba2(const double *v, const char *(*word)(void *, const char *), void *ctx, double *term, double *at)
{
    recurrence(v[0], tokens_of(v[1], word(ctx, "phase")), v[3] * v[4] + 2 * v[5] * v[2], v[3] * v[4] * v[2], term, at);
}

static void gdn(const double *v, const char *(*word)(void *, const char *), void *ctx, double *term, double *at)
{
    recurrence(v[0], tokens_of(v[1], word(ctx, "phase")), 2 * v[2] * v[3] + v[4] * v[5], v[4] * v[5] * v[3], term, at);
}

static const struct optime_kind kinds[] = {
    {"prefill_attention", {"num_heads", "num_key_value_heads", "head_dim", "batch_size", "isl", "step", "window_size"},
     {"batch_size", "isl"}, {6, 4, 6, 6}, prefill},
    {"decode_attention", {"num_heads", "num_key_value_heads", "head_dim", "batch_size", "step", "window_size"},
     {"batch_size", "step"}, {4, 6, 6, 6}, decode},
    {"mla_decode", {"num_heads", "batch_size", "step", "tp_size"}, {"batch_size", "step"}, {4, 6, 5, 1}, mla},
    {"gemm", {"m", "n", "k"}, {"n", "k"}, {3, 3, 3, 1}, gemm},
    {"mamba2", {"batch_size", "seq_len", "d_state", "nheads", "head_dim", "n_groups"}, {"batch_size", "seq_len"}, {4, 4, 4, 4}, mamba2},
    {"gated_delta_net", {"batch_size", "seq_len", "num_k_heads", "head_k_dim", "num_v_heads", "head_v_dim"},
     {"batch_size", "seq_len"}, {4, 4, 4, 4}, gdn},
};

const struct optime_kind *optime_kind_at(uint32_t i)
{
    return i < sizeof(kinds) / sizeof(kinds[0]) ? &kinds[i] : NULL;
}
