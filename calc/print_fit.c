/* print_fit.c - what fits, as a table for people and as JSON, schema "kvproof-fit/1". */
#include "calc/fit.h"
#include "calc/print.h"
#include "calc/table.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define INT(v) (json_int_t)(v)

static json_t *relief_json(const struct fit_relief *r)
{
    return json_pack("{s:s, s:s, s:b, s:I, s:I, s:o}", "what", r->what, "cost", fit_cost_name(r->cost), "fits", r->fits, "max_context",
                     INT(r->max_context), "max_batch", INT(r->max_batch), "reason", r->reason[0] ? json_string(r->reason) : json_null());
}

static json_t *chosen_json(const struct fit_answer *a, uint32_t i)
{
    return i == UINT32_MAX ? json_null() : relief_json(&a->relief[i]);
}

static json_t *tried_json(const struct fit_answer *a)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < a->n_reliefs; i++)
        json_array_append_new(list, relief_json(&a->relief[i]));
    return list;
}

static json_t *devices_json(const struct fit_answer *a)
{
    json_t *list = json_array();

    for (uint32_t i = 0; i < a->n_devices; i++)
        json_array_append_new(list, json_pack("{s:s, s:b, s:I}", "name", a->devices[i].name, "fits", a->devices[i].fits, "max_context",
                                              INT(a->devices[i].max_context)));
    return list;
}

static json_t *fewest_json(const struct fit_answer *a)
{
    return a->min_devices ? json_integer(a->min_devices) : json_null();
}

static kvp_err print_json(FILE *f, bool line, const struct fit *q, const struct fit_answer *a, struct kvp_error *e)
{
    const struct kvp_workload *w = &q->workload;
    char stack[512];
    json_t *o;
    bool bad;

    kvp_stack_text(q->stack, stack, sizeof(stack));
    o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:f, s:{s:I,s:I,s:I,s:I}, s:b, s:I, s:I, s:I, s:I, s:f, s:o, s:I, s:I}", "schema", "kvproof-fit/1",
                  "kvproof", KVP_VERSION, "model", q->model->name, "techniques", stack, "device", q->device->name, "memory_bytes",
                  INT(q->device->memory_bytes), "memory_share", print_share(q->device), "workload", "context", INT(w->context), "prompt",
                  INT(w->prompt), "generate", INT(w->generate), "batch", INT(w->batch), "fits", a->fits, "peak_bytes", INT(a->peak_bytes),
                  "room_bytes", INT(a->room_bytes), "max_context", INT(a->max_context), "max_batch", INT(a->max_batch), "max_concurrency",
                  a->max_concurrency, "min_devices", fewest_json(a), "min_devices_tp", INT(a->min_devices ? a->tp : 0), "min_devices_pp",
                  INT(a->min_devices ? a->pp : 0));
    if (!o)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for JSON");
    json_object_set_new(o, "kv_pool_bytes", json_integer(INT(a->kv_pool_bytes)));
    json_object_set_new(o, "sequence_bytes", json_integer(INT(a->sequence_bytes)));
    json_object_set_new(o, "slots", json_integer(INT(a->slots)));
    json_object_set_new(o, "kv_pool_tokens", json_integer(INT(a->kv_pool_tokens)));
    json_object_set_new(o, "kv_pool_blocks", json_integer(INT(a->kv_pool_blocks)));
    json_object_set_new(o, "block", json_integer(INT(a->block)));
    json_object_set_new(o, "bound_by", json_pack("{s:s, s:s}", "context", a->context_bound, "batch", a->batch_bound));
    json_object_set_new(o, "relief", chosen_json(a, a->cheapest));
    json_object_set_new(o, "longest_relief", chosen_json(a, a->longest));
    json_object_set_new(o, "tried", tried_json(a));
    json_object_set_new(o, "devices", devices_json(a));
    bad = json_dumpf(o, f, line ? JSON_COMPACT : JSON_INDENT(2)) != 0 || fputc('\n', f) == EOF;
    json_decref(o);
    return bad ? kvp_fail(e, KVP_ESYS, "cannot write the output") : KVP_OK;
}

static void row(struct table *t, const char *name, uint64_t v, const char *how)
{
    char text[32];

    snprintf(text, sizeof(text), "%" PRIu64, v);
    table_row(t, name, text, how);
}

static void relief(struct table *t, const char *name, const struct fit_answer *a, uint32_t i)
{
    char how[200];

    if (i == UINT32_MAX) {
        table_row(t, name, "", "nothing that was tried makes the context longer");
        return;
    }
    snprintf(how, sizeof(how), "largest context with %s (%s)", a->relief[i].what, fit_cost_name(a->relief[i].cost));
    row(t, name, a->relief[i].max_context, how);
}

static void answers(struct table *t, const struct fit *q, const struct fit_answer *a)
{
    char how[400], value[64];

    *t = (struct table){.columns = 3, .head = {"what", "value", "how"}, .right = {[1] = true}};
    row(t, "room", a->room_bytes, "bytes: memory x the share that may be used");
    row(t, "peak", a->peak_bytes, a->fits ? "bytes at the given workload: fits" : "bytes at the given workload: does not fit");
    snprintf(how, sizeof(how), "at batch %" PRIu64 "; the next is stopped by: %s", q->workload.batch, a->context_bound);
    row(t, "largest context", a->max_context, how);
    snprintf(how, sizeof(how), "at context %" PRIu64 "; the next is stopped by: %s", q->workload.context, a->batch_bound);
    row(t, "largest batch", a->max_batch, how);
    row(t, "KV pool", a->kv_pool_bytes, "bytes: room - weights, activation, workspace, device context, what sequences share");
    snprintf(how, sizeof(how), "bytes: cache and state of context %" PRIu64, q->workload.context);
    row(t, "sequence", a->sequence_bytes, how);
    snprintf(how, sizeof(how), "KV pool x %" PRIu64 " / sequence", a->slots);
    row(t, "KV pool tokens", a->kv_pool_tokens, how);
    snprintf(how, sizeof(how), "whole blocks of %" PRIu64 " tokens", a->block);
    row(t, "KV pool blocks", a->kv_pool_blocks, how);
    snprintf(value, sizeof(value), "%.4f", a->max_concurrency);
    table_row(t, "concurrency", value, "KV pool / sequence");
    snprintf(how, sizeof(how), "tensor parallel %" PRIu32 ", pipeline %" PRIu32, a->tp, a->pp);
    row(t, "fewest devices", a->min_devices, a->min_devices ? how : "not with any number up to 4096");
    relief(t, "cheapest relief", a, a->cheapest);
    relief(t, "longest relief", a, a->longest);
}

static void tried(struct table *t, const struct fit_answer *a)
{
    *t = (struct table){.columns = 6, .head = {"with", "cost", "fits", "largest context", "largest batch", "reason"}, .right = {[3] = true, [4] = true}};
    for (uint32_t i = 0; i < a->n_reliefs; i++) {
        const struct fit_relief *r = &a->relief[i];
        char context[32], batch[32];

        snprintf(context, sizeof(context), "%" PRIu64, r->max_context);
        snprintf(batch, sizeof(batch), "%" PRIu64, r->max_batch);
        if (r->reason[0])
            table_row(t, r->what, fit_cost_name(r->cost), "", "", "", r->reason);
        else
            table_row(t, r->what, fit_cost_name(r->cost), r->fits ? "yes" : "no", context, batch, "");
    }
}

static void devices(struct table *t, const struct fit_answer *a)
{
    *t = (struct table){.columns = 3, .head = {"device", "fits", "largest context"}, .right = {[2] = true}};
    for (uint32_t i = 0; i < a->n_devices; i++) {
        char context[32];

        snprintf(context, sizeof(context), "%" PRIu64, a->devices[i].max_context);
        table_row(t, a->devices[i].name, a->devices[i].fits ? "yes" : "no", context);
    }
}

kvp_err fit_print(FILE *f, const char *format, const struct fit *q, const struct fit_answer *a, struct kvp_error *e)
{
    struct table t[3];
    kvp_err rc = KVP_OK;

    KVP_TRY(table_format_check(format, e));
    if (strncmp(format, "json", 4) == 0)
        return print_json(f, strcmp(format, "jsonl") == 0, q, a, e);
    answers(&t[0], q, a);
    tried(&t[1], a);
    devices(&t[2], a);
    if (strcmp(format, "csv") != 0)
        fprintf(f, "%s on %s, %.2f of its memory\n\n", q->model->name, q->device->name, print_share(q->device));
    for (int i = 0; i < 3; i++) {
        if (i && strcmp(format, "csv") != 0) /* CSV is one table */
            fputc('\n', f);
        if (rc == KVP_OK && (i == 0 || strcmp(format, "csv") != 0))
            rc = table_print(f, format, &t[i], e);
        table_free(&t[i]);
    }
    return rc;
}
