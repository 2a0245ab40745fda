/* fuzz_config.c - any bytes as a config.json: refused in one line, or a model whose parts agree. */
#include "tests/fuzz/fuzz.h"

#include <kvproof/model.h>

static void check_model(const struct kvp_model *m)
{
    uint64_t layers = 0;

    FUZZ_HOLDS(m->vocab && m->width && m->layers && m->classes && m->max_positions);
    FUZZ_HOLDS(m->classes <= m->layers && m->norm_eps > 0 && m->name[0] && m->model_type[0]);
    for (uint32_t i = 0; i < m->layers; i++)
        FUZZ_HOLDS(m->class_of[i] < m->classes);
    for (uint32_t i = 0; i < m->classes; i++) {
        const struct kvp_layer_class *c = &m->cls[i];

        layers += c->count;
        FUZZ_HOLDS(c->count && c->heads && c->kv_heads && c->head_dim && c->ffn_width);
        FUZZ_HOLDS(c->heads % c->kv_heads == 0);
        FUZZ_HOLDS(m->position != KVP_POS_ROPE || c->head_dim % 2 == 0);
    }
    FUZZ_HOLDS(layers == m->layers);
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
    FUZZ_HOLDS(kvp_model_truncate(&m, (m.layers + 1) / 2, &e) == KVP_OK);
    check_model(&m);
    kvp_model_free(&m);
    return 0;
}
