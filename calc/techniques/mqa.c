/* mqa.c - multi-query attention: one key-value head for all query heads, gqa.c at its end. */
#include "calc/techniques/gqa.h"

static kvp_err mqa_rewrite(struct kvp_model *m, const struct kvp_spec *s, struct kvp_error *e)
{
    (void)s;
    return gqa_group(m, "mqa", 1, e);
}

const struct technique technique_mqa = {
    .info = {.name = "mqa", .axis = KVP_AXIS_MIXER, .summary = "all query heads read one key-value head",
             .source = "Shazeer 2019, arXiv:1911.02150, section 3", .params = ""},
    .model_rewrite = mqa_rewrite,
};
