/* formats.c - which tensors a weight matrix becomes in a format: one row a format. */
#include "calc/weights.h"

#include "calc/num.h"

struct store_plan store_of_model(const struct kvp_model *m, enum kvp_format plain)
{
    (void)m;
    return (struct store_plan){.plain = plain};
}

void store_lower(struct tensors *t, const struct store_plan *s, const struct weight *x)
{
    char name[48];

    snprintf(name, sizeof(name), "%s.%s", x->name, x->bias ? "bias" : "weight");
    if (x->cols)
        TENSOR(t, name, KVP_TAG_WEIGHTS, x->cls, x->count, s->plain, x->rows, x->cols);
    else
        TENSOR(t, name, KVP_TAG_WEIGHTS, x->cls, x->count, s->plain, x->rows);
}

uint64_t store_bytes(bool *over, const struct store_plan *s, enum kvp_role role, uint64_t rows, uint64_t cols, bool linear)
{
    (void)role;
    (void)linear;
    return format_bytes(over, s->plain, num_mul(over, rows, cols ? cols : 1));
}
