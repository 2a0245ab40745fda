#include "calc/print_json.h"

#include <jansson.h>

#define INT(v) (json_int_t)(v)

const char *print_tag(enum kvp_tag tag)
{
    static const char *const names[] = {"weights", "cache", "metadata", "state", "activation", "workspace"};

    return names[tag];
}

static json_t *class_json(uint32_t cls)
{
    return cls == UINT32_MAX ? json_null() : json_integer(cls);
}

static json_t *techniques_json(const struct kvp_stack *s)
{
    json_t *a = json_array();
    char text[256];

    for (uint32_t i = 0; i < s->n; i++) {
        kvp_spec_text(&s->spec[i], text, sizeof(text));
        json_array_append_new(a, json_string(text));
    }
    return a;
}

static json_t *tensors_json(const struct kvp_estimate *est)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < est->n_tensors; i++) {
        const struct kvp_tensor *x = &est->tensors[i];
        json_t *shape = json_array();

        for (uint32_t d = 0; d < x->dims; d++)
            json_array_append_new(shape, json_integer(INT(x->shape[d])));
        json_array_append_new(a, json_pack("{s:s, s:s, s:o, s:I, s:o, s:s, s:I}", "name", x->name, "tag", print_tag(x->tag), "class",
                                           class_json(x->cls), "count", INT(x->count), "shape", shape, "format",
                                           kvp_format_name(x->format), "bytes", INT(x->bytes)));
    }
    return a;
}

static json_t *parts_json(const struct kvp_estimate *est)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < est->n_parts; i++)
        json_array_append_new(a, json_pack("{s:s, s:I, s:s}", "name", est->parts[i].name, "bytes", INT(est->parts[i].bytes), "how",
                                           est->parts[i].how));
    return a;
}

static json_t *bytes_json(const struct kvp_memory *m)
{
    const struct {
        const char *key;
        json_int_t value;
    } rows[] = {
        {"weights_bytes", INT(m->weights_bytes)},
        {"cache_bytes", INT(m->cache_bytes)},
        {"kv_bytes", INT(m->cache_bytes - m->metadata_bytes)},
        {"metadata_bytes", INT(m->metadata_bytes)},
        {"state_bytes", INT(m->state_bytes)},
        {"activation_bytes", INT(m->activation_bytes)},
        {"workspace_bytes", INT(m->workspace_bytes)},
        {"device_context_bytes", INT(m->device_context_bytes)},
        {"total_bytes", INT(m->total_bytes)},
        {"peak_bytes", INT(m->peak_bytes)},
        {"cache_peak_bytes", INT(m->cache_peak_bytes)},
        {"fixed_bytes_per_sequence", INT(m->fixed_bytes_per_sequence)},
        {"bytes_per_token", INT(m->bytes_per_token)},
        {"shared_bytes", INT(m->shared_bytes)},
        {"rounding_bytes", INT(m->rounding_bytes)},
    };
    json_t *o = json_object();

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        json_object_set_new(o, rows[i].key, json_integer(rows[i].value));
    return o;
}

static json_t *memory_json(const struct kvp_estimate *est, bool detail)
{
    json_t *o = bytes_json(&est->memory);

    json_object_set_new(o, "parts", parts_json(est));
    if (detail)
        json_object_set_new(o, "tensors", tensors_json(est));
    return o;
}

static json_t *lengths_json(const struct kvp_estimate *est)
{
    json_t *a = json_array();

    for (uint64_t i = 0; i < est->n_lengths; i++)
        json_array_append_new(a, json_integer(INT(est->lengths[i])));
    return a;
}

static json_t *ranks_json(const struct kvp_estimate *est)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < est->n_ranks; i++)
        json_array_append_new(a, json_pack("{s:I, s:I, s:I, s:b, s:o}", "rank", INT(i), "stage", INT(est->ranks[i].stage), "layers",
                                           INT(est->ranks[i].layers), "worst", est->ranks[i].worst, "memory",
                                           bytes_json(&est->ranks[i].memory)));
    return a;
}

static json_t *time_json(const struct kvp_estimate *est, const struct kvp_device *d)
{
    if (!d)
        return json_pack("{s:n, s:n, s:n, s:s, s:n}", "ttft_s", "tpot_s", "tokens_per_s", "basis", est->basis, "interval");
    return json_pack("{s:f, s:f, s:f, s:s, s:{s:[f,f], s:[f,f]}}", "ttft_s", est->ttft_s, "tpot_s", est->tpot_s, "tokens_per_s",
                     est->tokens_per_s, "basis", est->basis, "interval", "ttft_s", est->ttft_lo, est->ttft_hi, "tpot_s", est->tpot_lo,
                     est->tpot_hi);
}

static json_t *device_json(const struct kvp_estimate *est, const struct kvp_device *d)
{
    if (!d)
        return json_null();
    return json_pack("{s:s, s:I, s:s, s:f, s:b, s:f, s:f, s:f, s:f, s:s}", "name", d->name, "memory_bytes", INT(d->memory_bytes), "memory_source", d->memory_source,
                     "memory_share", print_share(d), "fits", print_fits(est, d), "bandwidth_bytes_per_s", d->bandwidth,
                     "flops_f32_per_s", d->flops_f32, "flops_f16_per_s", d->flops_f16, "launch_s", d->launch_s, "source", d->source);
}

static json_t *ops_json(const struct kvp_estimate *est, bool timed)
{
    json_t *a = json_array();

    for (uint32_t i = 0; i < est->n_ops; i++) {
        const struct kvp_op_cost *x = &est->ops[i];

        json_array_append_new(a, json_pack("{s:s, s:s, s:o, s:I, s:I, s:I, s:I, s:I, s:o}", "phase",
                                           x->phase == KVP_PREFILL ? "prefill" : "decode", "op", kvp_op_name(x->op), "class",
                                           class_json(x->cls), "calls", INT(x->calls), "flops", INT(x->flops), "flops_full",
                                           INT(x->flops_full), "read_bytes", INT(x->read_bytes), "written_bytes",
                                           INT(x->written_bytes), "seconds", timed ? json_real(x->seconds) : json_null()));
    }
    return a;
}

kvp_err print_json(FILE *f, bool lines, bool detail, const struct kvp_model *m, const struct kvp_stack *s,
                   const struct kvp_estimate *est, const struct kvp_device *device, struct kvp_error *e)
{
    const struct kvp_workload *w = &est->workload;
    json_t *o = json_pack("{s:s, s:s, s:{s:s,s:I,s:I,s:I}, s:{s:I,s:I,s:I,s:I}, s:o, s:{s:s,s:s}, s:o, s:{s:I,s:I,s:I}, s:{s:I,s:I}, s:o, s:o}",
                          "schema", "kvproof-estimate/1", "kvproof", KVP_VERSION, "model", "name", m->name, "parameters",
                          INT(est->parameters), "active_parameters", INT(est->active_parameters), "layers", INT(m->layers), "workload", "context", INT(w->context), "prompt",
                          INT(w->prompt), "generate", INT(w->generate), "batch", INT(w->batch), "techniques", techniques_json(s),
                          "formats", "weights", kvp_format_name(est->weights), "kv", kvp_format_name(est->kv), "memory",
                          memory_json(est, detail), "flops", "prefill", INT(est->flops_prefill), "prefill_causal",
                          INT(est->flops_prefill_causal), "decode_step", INT(est->flops_decode), "traffic", "prefill_bytes",
                          INT(est->traffic_prefill), "decode_step_bytes", INT(est->traffic_decode), "time",
                          time_json(est, device), "device", device_json(est, device));

    if (!o)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for JSON");
    if (est->n_lengths) {
        json_object_set_new(json_object_get(o, "workload"), "lengths", lengths_json(est));
        json_object_set_new(json_object_get(o, "workload"), "token_steps", json_integer(INT(est->token_steps)));
        json_object_set_new(json_object_get(o, "workload"), "static_token_steps", json_integer(INT(est->static_token_steps)));
    }
    if (est->n_ranks)
        json_object_set_new(o, "ranks", ranks_json(est));
    if (detail)
        json_object_set_new(o, "ops", ops_json(est, device != NULL));
    if (json_dumpf(o, f, lines ? JSON_COMPACT : JSON_INDENT(2)) != 0 || fputc('\n', f) == EOF) {
        json_decref(o);
        return kvp_fail(e, KVP_ESYS, "cannot write the output");
    }
    json_decref(o);
    return KVP_OK;
}
