/* llama4.c - Llama 4's text part: chunked attention except where there is no rope, experts in every or in
 * every other layer, one shared expert of the experts' width.
 * Source: configuration_llama4.py and modeling_llama4.py in huggingface/transformers: intermediate_size is the
 * experts' width, intermediate_size_mlp the dense layers'; use_qk_norm is a norm without weights; an empty or
 * absent no_rope_layers means that every no_rope_layer_interval-th (4th) layer has no rope and no chunks. */
#include "calc/families/families.h"
#include "calc/families/llama_like.h"
#include "calc/families/moe.h"
#include "calc/families/tower.h"

static kvp_err is_rope(const struct kvp_reader *r, uint32_t i, bool *rope)
{
    static const char *const intervals[] = {"no_rope_layer_interval", "nope_layer_interval", NULL};
    const json_t *list = kvp_json_get(&r->j, "no_rope_layers");
    uint32_t interval = 4, flag;

    if (json_array_size(list)) {
        KVP_TRY(kvp_read_list(r, "no_rope_layers", &list));
        KVP_TRY(moe_number_at(r, "no_rope_layers", list, i, 1, &flag));
        *rope = flag;
        return KVP_OK;
    }
    KVP_TRY(kvp_read_count_of(r, intervals, &interval));
    if (!interval)
        return kvp_key_fail(r, KVP_EINPUT, intervals[0], "expected a number above 0");
    *rope = (i + 1) % interval != 0;
    return KVP_OK;
}

static kvp_err has_experts(const struct kvp_reader *r, uint32_t i, bool *has)
{
    const json_t *list = kvp_json_get(&r->j, "moe_layers");
    uint32_t step = 1, layer;

    *has = false;
    if (list && (!json_is_array(list) || json_array_size(list) > r->m->layers))
        return kvp_key_fail(r, KVP_EINPUT, "moe_layers", "expected a list of layers, each once");
    for (uint32_t k = 0; k < json_array_size(list); k++) {
        KVP_TRY(moe_number_at(r, "moe_layers", list, k, r->m->layers - 1, &layer));
        *has = *has || layer == i;
    }
    if (list)
        return KVP_OK;
    KVP_TRY(kvp_read_count(r, "interleave_moe_layer_step", &step));
    *has = step && (i + 1) % step == 0;
    return KVP_OK;
}

/* The vision tower: q, k, v, o and a plain feed-forward with biases, LayerNorm; two linears shrink its output,
 * and one brings it to the text's width. */
struct vision {
    uint32_t width, layers, ffn, patch, image, channels, in, out, last;
};

static kvp_err read_vision(const struct kvp_reader *v, struct vision *x)
{
    *x = (struct vision){768, 34, 5632, 14, 448, 3, 4096, 4096, 7680};
    KVP_TRY(kvp_read_count(v, "hidden_size", &x->width));
    KVP_TRY(kvp_read_count(v, "num_hidden_layers", &x->layers));
    KVP_TRY(kvp_read_count(v, "intermediate_size", &x->ffn));
    KVP_TRY(kvp_need_count(v, "patch_size", &x->patch));
    KVP_TRY(kvp_read_count(v, "image_size", &x->image));
    KVP_TRY(kvp_read_count(v, "num_channels", &x->channels));
    KVP_TRY(kvp_read_count(v, "projector_input_dim", &x->in));
    KVP_TRY(kvp_read_count(v, "projector_output_dim", &x->out));
    KVP_TRY(kvp_read_count(v, "vision_output_dim", &x->last));
    return x->patch <= 256 && x->image / x->patch <= 4096 && x->channels <= 256 && x->layers <= 4096
               ? KVP_OK
               : kvp_key_fail(v, KVP_EINPUT, "vision_config", "a patch, an image or a number of layers beyond reason");
}

static kvp_err add_vision(struct kvp_reader *r)
{
    struct kvp_reader v;
    struct vision x;
    uint32_t side;
    bool found;

    KVP_TRY(tower_open(r, "vision_config", &v, &found));
    if (!found)
        return KVP_OK;
    KVP_TRY(read_vision(&v, &x));
    side = x.image / x.patch;
    KVP_TRY(tower_add(r, "vision.patch_embedding", x.width, x.channels * x.patch * x.patch, 1));
    KVP_TRY(tower_add(r, "vision.positions", side * side + 1, x.width, 1));
    KVP_TRY(tower_add(r, "vision.vectors", x.width, 1, 5)); /* class embedding; weight and bias of two norms */
    KVP_TRY(tower_add(r, "vision.attention", x.width, x.width, 4 * x.layers));
    KVP_TRY(tower_add(r, "vision.fc", x.width, x.ffn, 2 * x.layers));
    KVP_TRY(tower_add(r, "vision.fc1.bias", x.ffn, 1, x.layers));
    KVP_TRY(tower_add(r, "vision.layer_vectors", x.width, 1, 9 * x.layers)); /* 5 biases, two norms */
    KVP_TRY(tower_add(r, "vision.adapter_in", x.in, x.ffn, 1));
    KVP_TRY(tower_add(r, "vision.adapter_out", x.out, x.in, 1));
    return tower_add(r, "vision.projector", r->m->width, x.last, 1);
}

static kvp_err numbers(struct kvp_reader *r)
{
    struct kvp_numbers *n = &r->m->numbers;
    bool qk_norm = true, tuned = true;

    KVP_TRY(kvp_read_flag(r, "use_qk_norm", &qk_norm));
    KVP_TRY(kvp_read_flag(r, "attn_temperature_tuning", &tuned));
    n->rope_neighbours = true;
    n->norm_qk_after = qk_norm;
    n->route = KVP_ROUTE_SIGMOID;
    n->route_first = true;
    if (!tuned)
        return KVP_OK;
    n->warm_every = 8192;
    n->warm_by = 0.1;
    KVP_TRY(kvp_json_real(&r->j, "floor_scale", &n->warm_every, NULL));
    return kvp_json_real(&r->j, "attn_scale", &n->warm_by, NULL);
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class moe = r->proto;
    uint32_t chunk = 8192, dense = 0;

    KVP_TRY(moe_read(r, &moe));
    moe.shared_width = moe.expert_width;
    KVP_TRY(kvp_read_count(r, "attention_chunk_size", &chunk));
    KVP_TRY(kvp_need_count(r, "intermediate_size_mlp", &dense));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        bool rope = false, experts = false;

        KVP_TRY(is_rope(r, i, &rope));
        KVP_TRY(has_experts(r, i, &experts));
        r->layer[i].no_rope = !rope;
        r->layer[i].chunk = rope ? chunk : 0;
        r->layer[i].ffn_width = dense;
        if (experts)
            moe_set_ffn(&r->layer[i], &moe);
    }
    KVP_TRY(numbers(r));
    return add_vision(r);
}

static const struct kvp_rule rules[] = {
    {"no_rope_layers", KVP_KEY_ANY, "read: layers without rope and without chunks"},
    {"no_rope_layer_interval", KVP_KEY_ANY, "read: the same, as a rule"},
    {"nope_layer_interval", KVP_KEY_ANY, "read: the same, as a rule"},
    {"interleave_moe_layer_step", KVP_KEY_ANY, "read: which layers have experts"},
    {"moe_layers", KVP_KEY_ANY, "read: which layers have experts"},
    {"layer_types", KVP_KEY_ANY, "what no_rope_layers says, again"},
    {"attention_chunk_size", KVP_KEY_ANY, "read: the chunk"},
    {"intermediate_size_mlp", KVP_KEY_ANY, "read: width of the dense layers"},
    {"for_llm_compressor", KVP_KEY_ANY, "how a tool loads experts"},
    {0},
};

const struct kvp_dialect family_llama4[] = {
    {
        .model_type = {"llama4_text"},
        .rules = {rules, kvp_rules_moe},
        .architectures = {"Llama4ForCausalLM"},
        LLAMA_LIKE,
        .absent = {[KVP_SIZE_KV_HEADS] = 8, [KVP_SIZE_HEAD_DIM] = 128, [KVP_SIZE_POSITIONS] = 131072},
        .bias = KVP_BIAS_ATTN,
        .window = KVP_WINDOW_HOOK,
        .layers = layers,
    },
    {
        .model_type = {"llama4"},
        .architectures = {"Llama4ForConditionalGeneration"},
        .nested = {"text_config"}, .inner = "llama4_text",
    },
    {.model_type = {0}},
};
