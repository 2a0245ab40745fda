#include "calc/sweep.h"

#include "calc/num.h"
#include "calc/print_sheet.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_VALUES = 1 << 24 };

/* ---- lists ---------------------------------------------------------------------------------------- */

struct reader {
    struct sweep_list *out;
    const char *flag, *text, *at;
    uint64_t least;
    size_t cap;
    struct kvp_error *e;
};

static kvp_err bad(const struct reader *r)
{
    return kvp_fail(r->e, KVP_EINPUT, "--%s %s: expected numbers and ranges such as 1k,4k or 1k-128k*2 or 1-64+1, each at least %" PRIu64,
                    r->flag, r->text, r->least);
}

/* 4096, 32k, 1M: suffixes are powers of 1024. */
static kvp_err number(struct reader *r, uint64_t *out)
{
    static const char suffix[] = "kmg";
    const char *s;
    char *end;

    if (!isdigit((unsigned char)*r->at))
        return bad(r);
    errno = 0;
    *out = strtoull(r->at, &end, 10);
    s = *end ? strchr(suffix, tolower((unsigned char)*end)) : NULL;
    if (errno || (s && *out > UINT64_MAX >> (10 * (s - suffix + 1))))
        return bad(r);
    if (s)
        *out <<= 10 * (s - suffix + 1);
    r->at = end + (s ? 1 : 0);
    return KVP_OK;
}

static kvp_err push(struct reader *r, uint64_t v)
{
    struct sweep_list *l = r->out;

    if (v < r->least)
        return bad(r);
    if (l->n == MOST_VALUES)
        return kvp_fail(r->e, KVP_EINPUT, "--%s %s: more than %d values", r->flag, r->text, MOST_VALUES);
    if (l->n == r->cap) {
        const size_t cap = r->cap ? 2 * r->cap : 64;
        uint64_t *p = realloc(l->v, cap * sizeof(*p));

        if (!p)
            return kvp_fail(r->e, KVP_ENOMEM, "out of memory for a list of %zu values", cap);
        l->v = p;
        r->cap = cap;
    }
    l->v[l->n++] = v;
    return KVP_OK;
}

/* FIRST-LAST, with *FACTOR or +STEP. */
static kvp_err range(struct reader *r, uint64_t first)
{
    uint64_t last, by = 1;
    char how = '+';

    r->at++;
    KVP_TRY(number(r, &last));
    if (*r->at == '*' || *r->at == '+') {
        how = *r->at++;
        KVP_TRY(number(r, &by));
    }
    if (last < first || by < (how == '*' ? 2 : 1) || (how == '*' && !first))
        return bad(r);
    for (uint64_t v = first;;) {
        const uint64_t room = how == '*' ? last / v : last - v;

        KVP_TRY(push(r, v));
        if (how == '*' ? room < by : room < by)
            return KVP_OK;
        v = how == '*' ? v * by : v + by;
    }
}

static kvp_err read_list(struct reader *r)
{
    do {
        uint64_t v;

        r->at += r->out->n ? 1 : 0; /* the comma */
        KVP_TRY(number(r, &v));
        KVP_TRY(*r->at == '-' ? range(r, v) : push(r, v));
    } while (*r->at == ',');
    return *r->at ? bad(r) : KVP_OK;
}

kvp_err sweep_list_parse(struct sweep_list *out, const char *flag, const char *text, uint64_t least, struct kvp_error *e)
{
    struct reader r = {.out = out, .flag = flag, .text = text, .at = text, .least = least, .e = e};
    kvp_err rc;

    *out = (struct sweep_list){0};
    rc = read_list(&r);
    if (rc != KVP_OK) {
        free(out->v);
        *out = (struct sweep_list){0};
    }
    return rc;
}

/* ---- the product ---------------------------------------------------------------------------------- */

struct product {
    const struct sweep_list *list[4]; /* slowest first */
    size_t at[4];
};

static size_t length(const struct sweep_list *l)
{
    return l->n ? l->n : 1;
}

static uint64_t value(const struct product *p, int i)
{
    return p->list[i]->n ? p->list[i]->v[p->at[i]] : 0;
}

static bool next(struct product *p)
{
    for (int i = 3; i >= 0; i--) {
        if (++p->at[i] < length(p->list[i]))
            return true;
        p->at[i] = 0;
    }
    return false;
}

static struct kvp_workload workload(const struct product *p, const struct sweep *s, const struct kvp_model *m)
{
    struct kvp_workload w = {.batch = p->list[0]->n ? value(p, 0) : 1, .generate = value(p, 1), .prompt = value(p, 2), .context = value(p, 3)};

    if (!s->context.n && !s->prompt.n && !s->generate.n)
        w.context = m->max_positions;
    return w;
}

static kvp_err model_rows(struct sheet *out, const struct sweep *s, const struct kvp_model *m, struct kvp_error *e)
{
    struct product at = {.list = {&s->batch, &s->generate, &s->prompt, &s->context}};
    struct kvp_program *p = kvp_program_new(m, s->stack, s->options, s->device, e);
    kvp_err rc = KVP_OK;

    if (!p)
        return e->code;
    rc = sheet_begin(out, m, s->stack, s->options, s->device, e);
    do {
        const struct kvp_workload w = workload(&at, s, m);
        struct kvp_error why;
        struct kvp_point x;

        why.code = KVP_OK;
        if (rc == KVP_OK && kvp_program_point(p, &w, &x, &why) == KVP_OK)
            rc = sheet_point(out, &x, e);
        else if (rc == KVP_OK)
            rc = sheet_refused(out, &w, &why, e);
    } while (rc == KVP_OK && next(&at));
    kvp_program_free(p);
    return rc;
}

kvp_err sweep_print(FILE *f, const struct sweep *s, const struct kvp_model *models, size_t n, struct kvp_error *e)
{
    struct sheet *out;
    kvp_err rc = sheet_open(&out, f, s->format, e);

    for (size_t i = 0; rc == KVP_OK && i < n; i++)
        rc = model_rows(out, s, &models[i], e);
    return sheet_close(out, rc, e);
}
