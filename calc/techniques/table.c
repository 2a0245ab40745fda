/* table.c - every technique, one row each, in the order of `kvproof list techniques`. */
#include "calc/technique.h"

extern const struct technique technique_dense, technique_window, technique_h2o, technique_kivi, technique_contiguous,
    technique_growing, technique_paged;
extern const struct technique technique_gqa, technique_mqa, technique_mla, technique_xc_cache, technique_recurrent, technique_cla,
    technique_yoco, technique_lorc, technique_prefix, technique_continuous_batching, technique_chunked_prefill;
extern const struct technique technique_streaming_llm, technique_pyramidkv, technique_snapkv, technique_adakv, technique_tova, technique_quest, technique_duo, technique_minicache;
extern const struct technique technique_kv, technique_w, technique_smoothquant;

static const struct technique *const techniques[] = {
    &technique_dense, /* the baseline stays first */
    &technique_window,
    &technique_streaming_llm,
    &technique_h2o,
    &technique_pyramidkv,
    &technique_snapkv,
    &technique_adakv,
    &technique_tova,
    &technique_quest,
    &technique_duo,
    &technique_minicache,
    &technique_kivi,
    &technique_contiguous,
    &technique_growing,
    &technique_paged,
    &technique_gqa,
    &technique_mqa,
    &technique_mla,
    &technique_xc_cache,
    &technique_recurrent,
    &technique_cla,
    &technique_yoco,
    &technique_lorc,
    &technique_prefix,
    &technique_continuous_batching,
    &technique_chunked_prefill,
    &technique_kv,
    &technique_w,
    &technique_smoothquant,
};

const struct technique *technique_at(uint32_t i)
{
    return i < sizeof(techniques) / sizeof(techniques[0]) ? techniques[i] : NULL;
}

const struct technique *technique_find(const char *name, size_t len)
{
    const struct technique *t;

    for (uint32_t i = 0; (t = technique_at(i)); i++)
        if (strlen(t->info.name) == len && strncmp(t->info.name, name, len) == 0)
            return t;
    return NULL;
}

const struct kvp_technique_info *kvp_technique_at(uint32_t i)
{
    const struct technique *t = technique_at(i);

    return t ? &t->info : NULL;
}

kvp_err kvp_technique_example(uint32_t i, const struct kvp_model *m, const struct kvp_workload *w, char *buf, size_t n,
                              struct kvp_error *e)
{
    const struct technique *t = technique_at(i);
    char params[128] = "";

    if (!t)
        return kvp_fail(e, KVP_EINPUT, "there is no technique number %u", i);
    if (t->example)
        t->example(m, w, params, sizeof(params));
    snprintf(buf, n, "%s%s%s", t->info.name, *params ? ":" : "", params);
    return KVP_OK;
}

bool kvp_technique_variant(uint32_t i, uint32_t k, char *buf, size_t n)
{
    const struct technique *t = technique_at(i);

    if (n)
        *buf = '\0';
    for (uint32_t j = 0; t && t->variants && t->variants[j]; j++)
        if (j == k) {
            snprintf(buf, n, "%s:%s", t->info.name, t->variants[k]);
            return true;
        }
    return false;
}

uint64_t spec_int(const struct kvp_spec *s, const char *key)
{
    const struct kvp_param *p = kvp_spec_param(s, key);

    return p ? (uint64_t)p->i : 0;
}
