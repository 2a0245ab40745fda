/* mamba.c - models of Mamba layers only: Mamba, Mamba-2, Falcon-Mamba, and the original dialect of
 * state-spaces/mamba (no model_type; d_model, n_layer, ssm_cfg). Sources: configuration_{mamba,mamba2,
 * falcon_mamba}.py of huggingface/transformers; mamba_ssm/models/{config_mamba,mixer_seq_simple}.py and
 * mamba_ssm/modules/{mamba_simple,mamba2}.py for the defaults that a config leaves out. */
#include "calc/families/families.h"
#include "calc/families/hybrid.h"

#include <inttypes.h>
#include <string.h>

static const struct kvp_rule rules[] = {
    {"n_layer", KVP_KEY_ANY, "num_hidden_layers again"},
    {"state_size", KVP_KEY_ANY, "read: the state's columns"},
    {"time_step_rank", KVP_KEY_ANY, "read: Mamba-1's time step rank; nothing in Mamba-2"},
    {"ssm_cfg", KVP_KEY_FALSE, "it would change sizes that this class spells otherwise"},
    {"head_dim", KVP_KEY_ANY, "read: rows of a head's state"},
    {"num_heads", KVP_KEY_ANY, "read: Mamba-2's heads"},
    {"mixer_rms_eps", KVP_KEY_ANY, "an epsilon"},
    {"conv_kernel", KVP_KEY_ANY, "read: columns of the convolution"},
    {"n_groups", KVP_KEY_ANY, "read: Mamba-2"},
    {"use_conv_bias", KVP_KEY_ANY, "read: the convolution"},
    {"intermediate_size", KVP_KEY_ANY, "read: channels"},
    {"chunk_size", KVP_KEY_ANY, "how a scan is computed"},
    {"use_mambapy", KVP_KEY_ANY, "which kernel, not what is stored"},
    {"pad_vocab_size_multiple", KVP_KEY_ANY, "vocab_size is padded already"},
    {0},
};
static const struct kvp_rule original_rules[] = {
    {"attn_layer_idx", KVP_KEY_FALSE, "attention layers of this dialect are not supported"},
    {"attn_cfg", KVP_KEY_FALSE, "attention layers of this dialect are not supported"},
    {"d_intermediate", KVP_KEY_FALSE, "layers would have a feed-forward"},
    {"ssm_cfg", KVP_KEY_ANY, "read: the mixer"},
    {"pad_vocab_size_multiple", KVP_KEY_ANY, "read: the vocabulary's rounding"},
    {0},
};

/* ssm_cfg: arguments of the layer's class. */
static const struct kvp_rule ssm_rules[] = {
    {"layer", KVP_KEY_ANY, "read: Mamba1 or Mamba2"},
    {"d_state", KVP_KEY_ANY, "read: the state's columns"},
    {"headdim", KVP_KEY_ANY, "read: rows of a head's state"},
    {"dt_rank", KVP_KEY_ANY, "read: Mamba-1's time step rank"},
    {"D_has_hdim", KVP_KEY_FALSE, "D would be as wide as the heads"},
    {"rmsnorm", KVP_KEY_TRUE, "there would be no gated norm"},
    {"d_conv", KVP_KEY_ANY, "read: columns of the convolution"},
    {"d_ssm", KVP_KEY_ANY, "read: channels"},
    {"ngroups", KVP_KEY_ANY, "read: Mamba-2"},
    {"conv_bias", KVP_KEY_ANY, "read: the convolution"},
    {"chunk_size", KVP_KEY_ANY, "how a scan is computed"},
    {0},
};
static const struct kvp_dialect ssm_cfg = {.model_type = {"mamba_ssm (ssm_cfg)"}, .rules = {ssm_rules}};

static void fill(struct kvp_reader *r)
{
    for (uint32_t i = 0; i < r->m->layers; i++)
        memcpy(&r->layer[i], &r->proto, sizeof(r->proto));
}

static kvp_err mamba1_layers(struct kvp_reader *r)
{
    struct kvp_layer_class *c = &r->proto;
    uint32_t expand = 2;

    c->recurrent = KVP_REC_MAMBA1;
    c->state = 16;
    c->conv = 4;
    c->conv_bias = true;
    KVP_TRY(kvp_need_count(r, "state_size", &c->state));
    KVP_TRY(kvp_need_count(r, "conv_kernel", &c->conv));
    KVP_TRY(kvp_need_count(r, "expand", &expand));
    KVP_TRY(kvp_read_count(r, "intermediate_size", &c->inner)); /* Falcon-Mamba's expand is wrong, this is not */
    if (!c->inner)
        KVP_TRY(kvp_channels(r, "expand", expand, r->m->width, &c->inner));
    KVP_TRY(kvp_read_dt_rank(r, "time_step_rank", &c->dt_rank));
    KVP_TRY(kvp_read_flag(r, "use_bias", &c->rec_bias));
    KVP_TRY(kvp_read_flag(r, "use_conv_bias", &c->conv_bias));
    fill(r);
    return KVP_OK;
}

static const struct kvp_mamba_keys mamba2_keys = {
    .state = {{"state_size"}, 128}, .conv = {{"conv_kernel"}, 4}, .expand = {{"expand"}, 2},
    .heads = {{"num_heads"}, 128}, .head_dim = {{"head_dim"}, 64}, .groups = {{"n_groups"}, 8},
    .conv_bias = "use_conv_bias", .bias = "use_bias",
};

static kvp_err mamba2_layers(struct kvp_reader *r)
{
    KVP_TRY(kvp_read_mamba2(r, &mamba2_keys, &r->proto));
    fill(r);
    return KVP_OK;
}

/* ---- the original dialect ------------------------------------------------------------------------------ */

static const struct kvp_mamba_keys original_keys = {
    .state = {{"d_state"}, 128}, .conv = {{"d_conv"}, 4}, .expand = {{"expand"}, 2},
    .head_dim = {{"headdim"}, 64}, .groups = {{"ngroups"}, 1}, .inner = {{"d_ssm"}, 0},
    .conv_bias = "conv_bias", .bias = "bias",
};

static kvp_err original_mamba1(const struct kvp_reader *cfg, struct kvp_layer_class *c)
{
    uint32_t expand = 2;

    c->recurrent = KVP_REC_MAMBA1;
    c->state = 16;
    c->conv = 4;
    c->conv_bias = true;
    KVP_TRY(kvp_need_count(cfg, "d_state", &c->state));
    KVP_TRY(kvp_need_count(cfg, "d_conv", &c->conv));
    KVP_TRY(kvp_need_count(cfg, "expand", &expand));
    KVP_TRY(kvp_channels(cfg, "expand", expand, cfg->m->width, &c->inner));
    KVP_TRY(kvp_read_dt_rank(cfg, "dt_rank", &c->dt_rank));
    KVP_TRY(kvp_read_flag(cfg, "bias", &c->rec_bias));
    return kvp_read_flag(cfg, "conv_bias", &c->conv_bias);
}

/* The embedding has rows up to a multiple; the checkpoint holds them (50277 is 50280). */
static kvp_err pad_vocab(struct kvp_reader *r)
{
    uint32_t multiple = 8;

    KVP_TRY(kvp_read_count(r, "pad_vocab_size_multiple", &multiple));
    if (multiple)
        r->m->vocab = (r->m->vocab + multiple - 1) / multiple * multiple;
    return KVP_OK;
}

/* ssm_cfg holds keyword arguments of the layer's class; `layer` names it. */
static kvp_err original_layers(struct kvp_reader *r)
{
    const json_t *object = kvp_json_get(&r->j, "ssm_cfg");
    struct kvp_reader cfg = *r;
    const char *layer = "Mamba1";
    bool rms = true;

    KVP_TRY(kvp_read_flag(r, "rms_norm", &rms));
    KVP_TRY(kvp_read_flag(r, "tie_embeddings", &r->m->tied));
    KVP_TRY(pad_vocab(r));
    r->m->norm = rms ? KVP_NORM_RMS : KVP_NORM_LAYER;
    r->m->norm_vectors = rms ? 1 : 2;
    if (object && !json_is_object(object))
        return kvp_key_fail(r, KVP_EINPUT, "ssm_cfg", "expected an object");
    cfg.j.object = object ? object : json_null();
    if (object)
        KVP_TRY(kvp_dialect_check_keys(&cfg.j, &ssm_cfg));
    KVP_TRY(kvp_json_text(&cfg.j, "layer", &layer, NULL));
    KVP_TRY(strcmp(layer, "Mamba2") == 0 ? kvp_read_mamba2(&cfg, &original_keys, &r->proto) : original_mamba1(&cfg, &r->proto));
    fill(r);
    return KVP_OK;
}

#define MAMBA_LIKE                                                                                            \
    .rules = {rules},                                                                                         \
    .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},                            \
            [KVP_SIZE_LAYERS] = {"num_hidden_layers", "n_layer"}},                                            \
    .act_key = "hidden_act", .act = "silu", .eps_key = "layer_norm_epsilon", .eps = 1e-5, .norms = 1,         \
    .norm = KVP_NORM_RMS, .position = KVP_POS_NONE, .own_mixer = true, .own_ffn = true, .no_positions = true, \
    .bias = KVP_BIAS_NONE, .window = KVP_WINDOW_HOOK

const struct kvp_dialect family_mamba[] = {
    {.model_type = {"mamba"}, .architectures = {"MambaForCausalLM", "MambaModel"}, MAMBA_LIKE, .tied = true, .layers = mamba1_layers},
    {.model_type = {"falcon_mamba"}, .architectures = {"FalconMambaForCausalLM"}, MAMBA_LIKE, .tied = true, .layers = mamba1_layers},
    {.model_type = {"mamba2"}, .architectures = {"Mamba2ForCausalLM", "Mamba2Model"}, MAMBA_LIKE, .layers = mamba2_layers},
    {
        .model_type = {"mamba_ssm"},
        .architectures = {"MambaLMHeadModel"},
        .sign = "ssm_cfg",
        .rules = {original_rules},
        .key = {[KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"d_model"}, [KVP_SIZE_LAYERS] = {"n_layer"}},
        .eps = 1e-5, .norms = 1, .norm = KVP_NORM_RMS, .position = KVP_POS_NONE, .own_mixer = true, .own_ffn = true,
        .no_positions = true, .bias = KVP_BIAS_NONE, .window = KVP_WINDOW_HOOK, .tied = true, .layers = original_layers,
    },
    {.model_type = {0}},
};
