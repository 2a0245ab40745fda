/* qwen3_next.c - Qwen3-Next, and the text part of Qwen3.5 and later: gated delta nets, every few layers
 * attention whose q_proj yields an output gate. Sources: {configuration,modeling}_{qwen3_next,qwen3_5,
 * qwen3_5_moe}.py of huggingface/transformers; vllm/model_executor/models/qwen3_next_mtp.py. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"
#include "calc/families/llama_like.h"
#include "calc/families/shared.h"

#include <inttypes.h>
#include <string.h>

static const struct kvp_rule rules[] = {
    {"layer_types", KVP_KEY_ANY, "read: linear_attention or full_attention"},
    {"linear_conv_kernel_dim", KVP_KEY_ANY, "read: taps of the convolution"},
    {"linear_key_head_dim", KVP_KEY_ANY, "read: rows of a head's state"},
    {"linear_value_head_dim", KVP_KEY_ANY, "read: columns of a head's state"},
    {"linear_num_key_heads", KVP_KEY_ANY, "read: heads of q and k"},
    {"linear_num_value_heads", KVP_KEY_ANY, "read: heads of v, and of the state"},
    {"num_experts", KVP_KEY_ANY, "read: experts a layer"},
    {"num_experts_per_tok", KVP_KEY_ANY, "read: experts a token"},
    {"shared_expert_intermediate_size", KVP_KEY_ANY, "read: width of the shared expert"},
    {"mlp_only_layers", KVP_KEY_ANY, "read: layers without experts"},
    {"mtp_num_hidden_layers", KVP_KEY_ANY, "read: prediction layers, counted on request"},
    {"num_nextn_predict_layers", KVP_KEY_ANY, "read: prediction layers, counted on request"},
    {"mtp_use_dedicated_embeddings", KVP_KEY_FALSE, "prediction layers would have an embedding of their own"},
    {"attn_output_gate", KVP_KEY_TRUE, "attention would have no gate"},
    {"use_sliding_window", KVP_KEY_FALSE, "this class has no window"},
    {"sliding_window", KVP_KEY_ANY, "nothing without use_sliding_window"},
    {"max_window_layers", KVP_KEY_ANY, "nothing without use_sliding_window"},
    {"full_attention_interval", KVP_KEY_ANY, "read: which layers are attention"},
    {"mamba_ssm_dtype", KVP_KEY_ANY, "read: what the state is stored in"},
    {"moe_intermediate_size", KVP_KEY_ANY, "read: width of an expert"},
    {"decoder_sparse_step", KVP_KEY_ANY, "read: which layers have experts"},
    {0},
};

static kvp_err read_delta(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    uint32_t keys;

    c->recurrent = KVP_REC_DELTA;
    c->conv = 4;
    c->state = c->rec_head_dim = 128;
    c->groups = 16;
    c->rec_heads = 32;
    KVP_TRY(kvp_need_count(r, "linear_conv_kernel_dim", &c->conv));
    KVP_TRY(kvp_need_count(r, "linear_key_head_dim", &c->state));
    KVP_TRY(kvp_need_count(r, "linear_value_head_dim", &c->rec_head_dim));
    KVP_TRY(kvp_need_count(r, "linear_num_key_heads", &c->groups));
    KVP_TRY(kvp_need_count(r, "linear_num_value_heads", &c->rec_heads));
    if (!c->groups || !c->rec_heads || c->rec_heads % c->groups)
        return kvp_key_fail(r, KVP_EINPUT, "linear_num_value_heads", "expected a multiple of linear_num_key_heads");
    KVP_TRY(kvp_channels(r, "linear_num_key_heads", c->groups, c->state, &keys));
    return kvp_channels(r, "linear_num_value_heads", c->rec_heads, c->rec_head_dim, &c->inner);
}

struct moe {
    uint32_t experts, per_token, width, shared, step;
    const json_t *dense; /* layers without experts */
};

static kvp_err read_moe(const struct kvp_reader *r, struct moe *x)
{
    x->step = 1;
    x->dense = kvp_json_get(&r->j, "mlp_only_layers");
    KVP_TRY(kvp_read_count(r, "num_experts", &x->experts));
    KVP_TRY(kvp_read_count(r, "decoder_sparse_step", &x->step));
    if (!x->experts)
        return KVP_OK;
    KVP_TRY(kvp_need_count(r, "num_experts_per_tok", &x->per_token));
    KVP_TRY(kvp_need_count(r, "moe_intermediate_size", &x->width));
    return kvp_read_count(r, "shared_expert_intermediate_size", &x->shared);
}

static bool has_experts(const struct moe *x, uint32_t i)
{
    return x->experts && x->step && (i + 1) % x->step == 0 && !(x->dense && kvp_list_has(x->dense, i));
}

static kvp_err fill_ffn(const struct kvp_reader *r, const struct moe *x, bool experts, struct kvp_layer_class *c)
{
    uint64_t width;

    c->ffn = KVP_FFN_GATED;
    if (experts) {
        c->experts = x->experts;
        c->experts_per_token = x->per_token;
        c->expert_width = x->width;
        c->shared_width = x->shared;
        c->shared_gate = x->shared != 0;
        return KVP_OK;
    }
    KVP_TRY(kvp_read_size(r, KVP_SIZE_FFN, &width));
    c->ffn_width = (uint32_t)width;
    return width ? KVP_OK : kvp_key_fail(r, KVP_EINPUT, "intermediate_size", "it is missing, and a layer is without experts");
}

/* An attention layer behind a projection of the last hidden state and the next token's embedding, each
 * normed, and a last norm. */
static kvp_err read_mtp(struct kvp_reader *r, const struct moe *x)
{
    static const char *const keys[] = {"mtp_num_hidden_layers", "num_nextn_predict_layers", NULL};
    /* Qwen3-Next's config is silent about its prediction layer; the checkpoint holds one. */
    uint32_t n = strcmp(r->d->model_type[0], "qwen3_next") == 0 ? 1 : 0;

    KVP_TRY(kvp_read_count_of(r, keys, &n));
    r->m->mtp_layers = n;
    if (!n)
        return KVP_OK;
    memcpy(&r->m->mtp, &r->proto, sizeof(r->proto));
    r->m->mtp.count = n;
    KVP_TRY(fill_ffn(r, x, x->experts != 0, &r->m->mtp));
    KVP_TRY(kvp_add_extra(r, r->m->mtp_extra, "fc", r->m->width, 2 * r->m->width, 1, true));
    return kvp_add_extra(r, r->m->mtp_extra, "norms", r->m->width, 1, 3, false);
}

static kvp_err attends(const struct kvp_reader *r, const json_t *types, uint32_t interval, uint32_t i, bool *out)
{
    const char *type = types ? kvp_word_at(types, i) : "";

    *out = types ? strcmp(type, "full_attention") == 0 : (i + 1) % interval == 0;
    if (!types || *out || strcmp(type, "linear_attention") == 0)
        return KVP_OK;
    return kvp_layer_kind_fail(r, "layer_types", i, type, "linear_attention and full_attention");
}

/* ---- the vision tower, as Qwen3-VL has it: only counted on request ------------------------------------ */

struct vision {
    uint32_t depth, width, ffn, patch, frames, channels, merge, out, positions;
};

static kvp_err read_vision(const struct kvp_reader *r, struct vision *x)
{
    KVP_TRY(kvp_read_count(r, "depth", &x->depth));
    KVP_TRY(kvp_read_count(r, "hidden_size", &x->width));
    KVP_TRY(kvp_read_count(r, "intermediate_size", &x->ffn));
    KVP_TRY(kvp_read_count(r, "patch_size", &x->patch));
    KVP_TRY(kvp_read_count(r, "temporal_patch_size", &x->frames));
    KVP_TRY(kvp_read_count(r, "in_channels", &x->channels));
    KVP_TRY(kvp_read_count(r, "spatial_merge_size", &x->merge));
    KVP_TRY(kvp_read_count(r, "out_hidden_size", &x->out));
    KVP_TRY(kvp_read_count(r, "num_position_embeddings", &x->positions));
    if (x->width > 1 << 16 || x->patch > 1 << 8 || x->frames > 1 << 4 || x->channels > 1 << 8 || x->merge > 1 << 4)
        return kvp_fail(r->j.e, KVP_EINPUT, "%s: vision_config: a size is too big", r->j.origin);
    return KVP_OK;
}

static kvp_err read_tower(struct kvp_reader *r)
{
    struct vision x = {27, 1152, 4304, 16, 2, 3, 2, r->m->width, 2304};
    struct kvp_reader v = *r;
    uint64_t merged;

    v.j.object = kvp_json_get(&r->top, "vision_config");
    if (!v.j.object)
        return KVP_OK;
    if (!json_is_object(v.j.object))
        return kvp_key_fail(r, KVP_EINPUT, "vision_config", "expected an object");
    KVP_TRY(read_vision(&v, &x));
    if (json_array_size(kvp_json_get(&v.j, "deepstack_visual_indexes")) != 0)
        return kvp_key_fail(r, KVP_ENOTSUP, "deepstack_visual_indexes", "there would be more mergers");
    merged = (uint64_t)x.width * x.merge * x.merge;
    KVP_TRY(kvp_tower_add(r, "patch_embed", x.width, (uint64_t)x.channels * x.frames * x.patch * x.patch, 1, true));
    KVP_TRY(kvp_tower_add(r, "pos_embed", x.positions, x.width, 1, false));
    KVP_TRY(kvp_tower_add(r, "norms", x.width, 1, 4ull * x.depth, false));
    KVP_TRY(kvp_tower_add(r, "qkv", 3ull * x.width, x.width, x.depth, true));
    KVP_TRY(kvp_tower_add(r, "proj", x.width, x.width, x.depth, true));
    KVP_TRY(kvp_tower_add(r, "fc1", x.ffn, x.width, x.depth, true));
    KVP_TRY(kvp_tower_add(r, "fc2", x.width, x.ffn, x.depth, true));
    KVP_TRY(kvp_tower_add(r, "merger.norm", x.width, 1, 2, false));
    KVP_TRY(kvp_tower_add(r, "merger.fc1", merged, merged, 1, true));
    return kvp_tower_add(r, "merger.fc2", x.out, merged, 1, true);
}

/* Norms of 1 + weight, a quarter of a head rotates unless the config says another part, experts by the softmax of all. */
static kvp_err read_numbers(struct kvp_reader *r)
{
    struct kvp_numbers *n = &r->m->numbers;

    n->norm_add_one = true;
    KVP_TRY(kvp_rotary_absent(r, 0.25));
    n->route = KVP_ROUTE_SOFTMAX;
    n->route_normalise = true;
    return kvp_read_flag(r, "norm_topk_prob", &n->route_normalise);
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class delta;
    struct moe moe = {0};
    const json_t *types;
    uint32_t interval = 4;

    KVP_TRY(kvp_read_list(r, "layer_types", &types));
    KVP_TRY(kvp_read_count(r, "full_attention_interval", &interval));
    if (!interval)
        return kvp_key_fail(r, KVP_EINPUT, "full_attention_interval", "expected a number above 0");
    KVP_TRY(kvp_read_state_dtype(r, "mamba_ssm_dtype"));
    KVP_TRY(read_numbers(r));
    KVP_TRY(read_moe(r, &moe));
    r->proto.gated_q = true;
    memcpy(&delta, &r->proto, sizeof(delta));
    kvp_drop_attention(&delta);
    KVP_TRY(read_delta(r, &delta));
    for (uint32_t i = 0; i < r->m->layers; i++) {
        bool full;

        KVP_TRY(attends(r, types, interval, i, &full));
        memcpy(&r->layer[i], full ? &r->proto : &delta, sizeof(delta));
        KVP_TRY(fill_ffn(r, &moe, has_experts(&moe, i), &r->layer[i]));
    }
    KVP_TRY(read_mtp(r, &moe));
    return read_tower(r);
}

#define NEXT_LIKE                                                                                                   \
    .rules = {rules}, LLAMA_LIKE,                                                                                   \
    .absent = {[KVP_SIZE_KV_HEADS] = 2, [KVP_SIZE_HEAD_DIM] = 256, [KVP_SIZE_POSITIONS] = 32768}, .own_ffn = true,  \
    .bias = KVP_BIAS_ATTN, .qk_norm = true, .window = KVP_WINDOW_HOOK, .layers = layers, .partial_rotary = true

const struct kvp_dialect family_qwen3_next[] = {
    {.model_type = {"qwen3_next"}, .architectures = {"Qwen3NextForCausalLM", "Qwen3NextModel"}, NEXT_LIKE},
    {.model_type = {"qwen3_5_text"}, .architectures = {"Qwen3_5ForCausalLM", "Qwen3_5TextModel"}, NEXT_LIKE},
    {.model_type = {"qwen3_5_moe_text"}, .architectures = {"Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextModel"}, NEXT_LIKE},
    {.model_type = {"qwen3_5"}, .architectures = {"Qwen3_5ForConditionalGeneration"}, .nested = {"text_config"}, .inner = "qwen3_5_text"},
    {.model_type = {"qwen3_5_moe"}, .architectures = {"Qwen3_5MoeForConditionalGeneration"}, .nested = {"text_config"},
     .inner = "qwen3_5_moe_text"},
    {.model_type = {0}},
};
