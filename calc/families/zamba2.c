/* zamba2.c - Zamba2: Mamba-2 in every layer; in hybrid layers a transformer block, one of num_mem_blocks
 * shared ones in turn, runs first over the hidden state beside the embedding, and its output goes through a
 * projection of the layer's own. Low-rank adapters on the shared matrices are the layer's own too. Two
 * dialects: Hugging Face's (mamba_d_state, adapter_rank) and Zyphra's (state_size, lora_rank). Sources:
 * {configuration,modular}_zamba2.py of huggingface/transformers and of Zyphra/transformers_zamba2. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"

#include <string.h>

static const struct kvp_rule rules[] = {
    {"layers_block_type", KVP_KEY_ANY, "read: mamba or hybrid"},
    {"hybrid_layer_ids", KVP_KEY_ANY, "layers_block_type again"},
    {"attention_head_dim", KVP_KEY_ANY, "2 * width / heads, as the class has it"},
    {"attention_hidden_size", KVP_KEY_ANY, "2 * width, as the class has it"},
    {"chunk_size", KVP_KEY_ANY, "how a scan is computed"},
    {"kv_channels", KVP_KEY_ANY, "not the head size: attention reads twice the width"},
    {"mamba_headdim", KVP_KEY_ANY, "read: rows of a head's state"},
    {"n_mamba_heads", KVP_KEY_ANY, "read: Mamba-2's heads"},
    {"mamba_d_state", KVP_KEY_ANY, "read: the state's columns"},
    {"state_size", KVP_KEY_ANY, "read: the state's columns"},
    {"conv_dimension", KVP_KEY_ANY, "read: taps of the convolution"},
    {"adapter_rank", KVP_KEY_ANY, "read: the adapters' rank"},
    {"lora_rank", KVP_KEY_ANY, "read: the adapters' rank"},
    {"use_shared_block_lora", KVP_KEY_ANY, "read: adapters on the shared feed-forward"},
    {"use_shared_mlp_adapter", KVP_KEY_ANY, "read: adapters on the shared feed-forward"},
    {"use_shared_attention_lora", KVP_KEY_ANY, "read: adapters on q, k and v"},
    {"use_shared_attention_adapter", KVP_KEY_ANY, "read: adapters on q, k and v"},
    {"num_query_groups", KVP_KEY_ANY, "num_key_value_heads again"},
    {"add_bias_linear", KVP_KEY_FALSE, "biases of this class are not supported"},
    {"ft_lora", KVP_KEY_FALSE, "there would be another adapter"},
    {"sliding_window", KVP_KEY_FALSE, "attention of this class has no window"},
    {"mamba_d_conv", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_expand", KVP_KEY_ANY, "read: Mamba-2"},
    {"mamba_ngroups", KVP_KEY_ANY, "read: Mamba-2"},
    {"num_mem_blocks", KVP_KEY_ANY, "read: shared blocks"},
    {"use_mem_rope", KVP_KEY_ANY, "read: rotation"},
    {"use_conv_bias", KVP_KEY_ANY, "read: the convolution"},
    {"use_mamba_kernels", KVP_KEY_ANY, "which kernel, not what is stored"},
    {0},
};

static const struct kvp_mamba_keys mamba_keys = {
    .state = {{"mamba_d_state", "state_size"}, 64}, .conv = {{"mamba_d_conv", "conv_dimension"}, 4},
    .expand = {{"mamba_expand", "expansion_factor"}, 2}, .heads = {{"n_mamba_heads"}, 0},
    .head_dim = {{"mamba_headdim"}, 0}, .groups = {{"mamba_ngroups"}, 1}, .conv_bias = "use_conv_bias",
};

struct adapters {
    uint32_t rank;
    bool ffn, attention;
};

static kvp_err read_adapters(const struct kvp_reader *r, struct adapters *a)
{
    static const char *const ranks[] = {"adapter_rank", "lora_rank", NULL};

    a->rank = 128;
    a->ffn = true; /* unless the file says otherwise: the class has no word for it */
    KVP_TRY(kvp_read_count_of(r, ranks, &a->rank));
    KVP_TRY(kvp_read_flag(r, "use_shared_block_lora", &a->ffn));
    KVP_TRY(kvp_read_flag(r, "use_shared_mlp_adapter", &a->ffn));
    KVP_TRY(kvp_read_flag(r, "use_shared_attention_lora", &a->attention));
    return kvp_read_flag(r, "use_shared_attention_adapter", &a->attention);
}

/* The transformer block: heads of twice width / heads, over twice the width. */
static kvp_err read_block(const struct kvp_reader *r, struct kvp_layer_class *c)
{
    struct adapters a = {0};
    const uint32_t D = r->m->width;

    c->attn_in = 2 * D;
    c->head_dim = c->v_head_dim = 2 * D / c->heads;
    KVP_TRY(read_adapters(r, &a));
    KVP_TRY(kvp_add_extra(r, c->extra, "linear", D, D, 1, true));
    if (a.ffn) {
        KVP_TRY(kvp_add_extra(r, c->extra, "mlp_adapter_down", a.rank, D, 1, true));
        KVP_TRY(kvp_add_extra(r, c->extra, "mlp_adapter_up", 2 * c->ffn_width, a.rank, 1, true));
    }
    if (a.attention) {
        KVP_TRY(kvp_add_extra(r, c->extra, "qkv_adapter_down", a.rank, 2 * D, 3, true));
        KVP_TRY(kvp_add_extra(r, c->extra, "qkv_adapter_up", c->heads * c->head_dim, a.rank, 3, true));
    }
    return KVP_OK;
}

static kvp_err place(const struct kvp_reader *r, const struct kvp_layer_class *mamba, const struct kvp_layer_class *block,
                     uint32_t blocks)
{
    const json_t *types;
    uint32_t hybrids = 0;

    KVP_TRY(kvp_read_list(r, "layers_block_type", &types));
    if (!types)
        return kvp_key_fail(r, KVP_EINPUT, "layers_block_type", "it is missing: which layers are hybrid");
    for (uint32_t i = 0; i < r->m->layers; i++) {
        const char *type = kvp_word_at(types, i);
        const bool hybrid = strcmp(type, "hybrid") == 0;

        if (!hybrid && !kvp_is_mamba(type))
            return kvp_layer_kind_fail(r, "layers_block_type", i, type, "mamba and hybrid");
        memcpy(&r->layer[i], hybrid ? block : mamba, sizeof(*mamba));
        if (!hybrid)
            continue;
        if (hybrids++ >= blocks) {
            r->layer[i].shared_attn = true;
            continue;
        }
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "shared_input_norm", 2 * r->m->width, 1, 1, false));
        KVP_TRY(kvp_add_extra(r, r->layer[i].extra, "shared_mlp_norm", r->m->width, 1, 1, false));
    }
    return KVP_OK;
}

static kvp_err layers(struct kvp_reader *r)
{
    struct kvp_layer_class mamba, block;
    uint32_t blocks = 1;
    bool rope = false;

    KVP_TRY(kvp_read_count(r, "num_mem_blocks", &blocks));
    KVP_TRY(kvp_read_flag(r, "use_mem_rope", &rope));
    if (!rope)
        r->m->position = KVP_POS_NONE;
    memcpy(&block, &r->proto, sizeof(block));
    KVP_TRY(kvp_read_mamba2(r, &mamba_keys, &block));
    memcpy(&mamba, &block, sizeof(mamba));
    kvp_drop_attention(&mamba);
    kvp_drop_ffn(&mamba);
    KVP_TRY(read_block(r, &block));
    return place(r, &mamba, &block, blocks);
}

const struct kvp_dialect family_zamba2[] = {
    {
        .model_type = {"zamba2"},
        .architectures = {"Zamba2ForCausalLM", "Zamba2Model"},
        .rules = {rules},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},
                [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},
                [KVP_SIZE_KV_HEADS] = {"num_key_value_heads", "num_query_groups"},
                [KVP_SIZE_FFN] = {"intermediate_size", "ffn_hidden_size"}, [KVP_SIZE_POSITIONS] = {"max_position_embeddings"}},
        .layers_of = {"layers_block_type"},
        .absent = {[KVP_SIZE_POSITIONS] = 4096},
        .ffn_per_width = 4,
        .act_key = "hidden_act", .act = "gelu", .eps_key = "rms_norm_eps", .eps = 1e-5, .norms = 1,
        .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED, .bias = KVP_BIAS_NONE, .tied = true,
        .window = KVP_WINDOW_HOOK, .layers = layers,
    },
    {.model_type = {0}},
};
