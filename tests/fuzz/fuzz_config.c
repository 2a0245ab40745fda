/* fuzz_config.c - any bytes as a config.json: refused in one line, or a model whose parts agree. */
#include "tests/fuzz/fuzz.h"

#include <kvproof/kvproof.h>

static void check_class(const struct kvp_model *m, const struct kvp_layer_class *c)
{
    FUZZ_HOLDS(c->count > 0);
    if (c->mixer == KVP_MIX_ATTENTION) {
        FUZZ_HOLDS(c->heads && c->kv_heads && c->head_dim && c->v_head_dim);
        FUZZ_HOLDS(c->heads % c->kv_heads == 0);
        FUZZ_HOLDS(m->position != KVP_POS_ROPE || c->no_rope || c->head_dim % 2 == 0);
    }
    FUZZ_HOLDS(c->mixer != KVP_MIX_MLA || (c->heads && c->kv_rank));
    FUZZ_HOLDS(!c->cross_heads || (c->cross_kv_heads && c->cross_head_dim && c->cross_heads % c->cross_kv_heads == 0));
    FUZZ_HOLDS(!c->experts || c->experts_per_token <= c->experts);
}

static void check_model(const struct kvp_model *m)
{
    uint64_t layers = 0;

    FUZZ_HOLDS(m->vocab && m->width && m->layers && m->classes);
    FUZZ_HOLDS(m->position != KVP_POS_LEARNED || m->max_positions);
    FUZZ_HOLDS(m->classes <= m->layers && m->norm_eps > 0 && m->name[0] && m->model_type[0]);
    for (uint32_t i = 0; i < m->layers; i++)
        FUZZ_HOLDS(m->class_of[i] < m->classes);
    for (uint32_t i = 0; i < m->classes; i++) {
        layers += m->cls[i].count;
        check_class(m, &m->cls[i]);
    }
    FUZZ_HOLDS(layers == m->layers);
}

/* An estimate comes out, or one line says why not; the cache is the sum that it claims to be. */
static void check_estimate(const struct kvp_model *m)
{
    const struct kvp_workload w = {.batch = 2, .prompt = 40, .context = 48};
    const struct kvp_options o = {.with_vision = true, .with_mtp = true};
    struct kvp_stack none = {0};
    struct kvp_estimate est;
    struct kvp_error e = {0};
    const kvp_err rc = kvp_estimate(&est, m, &none, &w, &o, NULL, &e);
    const struct kvp_memory *x = &est.memory;

    if (rc != KVP_OK) {
        fuzz_check_error(rc, &e);
        return;
    }
    FUZZ_HOLDS((int64_t)x->cache_bytes == 2 * (x->fixed_bytes_per_sequence + (int64_t)x->bytes_per_token * 48) + (int64_t)x->shared_bytes +
                                              x->rounding_bytes);
    FUZZ_HOLDS(est.active_parameters <= est.parameters && x->cache_peak_bytes >= x->cache_bytes);
    kvp_estimate_free(&est);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvp_model m;
    struct kvp_error e = {0};
    kvp_err rc = kvp_model_parse(&m, (const char *)data, size, "fuzz/config.json", &e);

    if (rc != KVP_OK) {
        fuzz_check_error(rc, &e);
        FUZZ_HOLDS(!m.cls && !m.class_of);
        return 0;
    }
    check_model(&m);
    check_estimate(&m);
    FUZZ_HOLDS(kvp_model_truncate(&m, (m.layers + 1) / 2, &e) == KVP_OK);
    check_model(&m);
    kvp_model_free(&m);
    return 0;
}
