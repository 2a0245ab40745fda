/* tiny.h - tiny models of every dialect, with whatever each has that the others lack. */
#ifndef KVPROOF_TESTS_TINY_H
#define KVPROOF_TESTS_TINY_H

#include "validate/engine/engine.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TINY_VOCAB = 61 };

static const struct {
    const char *name, *config;
} tiny_models[] = {
    {"gpt2", "{\"model_type\":\"gpt2\",\"vocab_size\":61,\"n_positions\":48,\"n_embd\":24,\"n_layer\":2,\"n_head\":3,"
             "\"n_inner\":null,\"activation_function\":\"gelu_new\",\"layer_norm_epsilon\":1e-5,"
             "\"tie_word_embeddings\":true,\"torch_dtype\":\"float32\"}"},
    {"llama", "{\"model_type\":\"llama\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":3,"
              "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":40,\"hidden_act\":\"silu\","
              "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"max_position_embeddings\":8192,"
              "\"attention_bias\":true,\"mlp_bias\":true,\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\","
              "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,"
              "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":16}}"},
    {"mistral", "{\"model_type\":\"mistral\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":2,"
                "\"num_attention_heads\":4,\"num_key_value_heads\":1,\"intermediate_size\":24,\"hidden_act\":\"silu\","
                "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"max_position_embeddings\":256,\"sliding_window\":7,"
                "\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\"}"},
    {"qwen2", "{\"model_type\":\"qwen2\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":2,"
              "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":56,\"hidden_act\":\"silu\","
              "\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,\"max_position_embeddings\":256,"
              "\"use_sliding_window\":false,\"sliding_window\":16,\"max_window_layers\":2,"
              "\"tie_word_embeddings\":true,\"torch_dtype\":\"float32\"}"},
    {"qwen3", "{\"model_type\":\"qwen3\",\"vocab_size\":61,\"hidden_size\":24,\"num_hidden_layers\":2,"
              "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"intermediate_size\":40,"
              "\"hidden_act\":\"silu\",\"rms_norm_eps\":1e-6,\"rope_theta\":1000000.0,"
              "\"max_position_embeddings\":256,\"attention_bias\":false,\"use_sliding_window\":false,"
              "\"sliding_window\":null,\"max_window_layers\":2,\"tie_word_embeddings\":false,"
              "\"torch_dtype\":\"float32\"}"},
    {"gemma2", "{\"model_type\":\"gemma2\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":2,"
               "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":16,\"intermediate_size\":40,"
               "\"hidden_activation\":\"gelu_pytorch_tanh\",\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,"
               "\"max_position_embeddings\":256,\"sliding_window\":6,\"query_pre_attn_scalar\":24,"
               "\"attn_logit_softcapping\":2.0,\"final_logit_softcapping\":4.0,\"torch_dtype\":\"float32\"}"},
    {"mixtral", "{\"model_type\":\"mixtral\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":2,"
                "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"intermediate_size\":24,\"hidden_act\":\"silu\","
                "\"num_local_experts\":4,\"num_experts_per_tok\":2,\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,"
                "\"max_position_embeddings\":256,\"sliding_window\":null,\"tie_word_embeddings\":false,"
                "\"torch_dtype\":\"float32\"}"},
    {"deepseek_v3", "{\"model_type\":\"deepseek_v3\",\"vocab_size\":61,\"hidden_size\":32,\"num_hidden_layers\":2,"
                    "\"num_attention_heads\":4,\"num_key_value_heads\":4,\"intermediate_size\":40,\"hidden_act\":\"silu\","
                    "\"q_lora_rank\":12,\"kv_lora_rank\":20,\"qk_rope_head_dim\":6,\"qk_nope_head_dim\":10,\"v_head_dim\":14,"
                    "\"n_routed_experts\":8,\"n_shared_experts\":1,\"num_experts_per_tok\":3,\"moe_intermediate_size\":12,"
                    "\"n_group\":4,\"topk_group\":2,\"first_k_dense_replace\":1,\"topk_method\":\"noaux_tc\","
                    "\"rms_norm_eps\":1e-6,\"rope_theta\":10000.0,\"max_position_embeddings\":256,"
                    "\"tie_word_embeddings\":false,\"torch_dtype\":\"float32\"}"},
};
enum { TINY_MODELS = sizeof(tiny_models) / sizeof(tiny_models[0]) };

#define must(call)                                                       \
    do {                                                                 \
        struct kvp_error *e_ = &err;                                     \
        const kvp_err rc_ = (call);                                      \
        ck_assert_msg(rc_ == KVP_OK, "%s: %s", #call, e_->text);         \
    } while (0)

static inline void tiny_load(struct kvp_model *m, int i)
{
    struct kvp_error err = {0};

    must(kvp_model_parse(m, tiny_models[i].config, strlen(tiny_models[i].config), tiny_models[i].name, &err));
}

/* Has the model latents, which no pass over a part of a prompt knows? */
static inline bool tiny_is_whole(const struct kvp_model *m)
{
    return strcmp(m->model_type, "deepseek_v3") == 0;
}

/* Has it experts or latents, which nothing codes? */
static inline bool tiny_is_uncoded(const struct kvp_model *m)
{
    return strcmp(m->model_type, "mixtral") == 0 || strcmp(m->model_type, "deepseek_v3") == 0;
}

/* Token ids of every kind, the same each time: a linear congruential sequence. */
static inline void tiny_tokens(int32_t *out, uint64_t n, uint32_t vocab)
{
    uint32_t x = 12345;

    for (uint64_t i = 0; i < n; i++) {
        x = x * 1664525u + 1013904223u;
        out[i] = (int32_t)((x >> 8) % vocab);
    }
}

/* max |a - b| / max |b|; infinity where a is not finite. */
static inline double far_apart(const float *a, const float *b, uint64_t n)
{
    double apart = 0, largest = 0;

    for (uint64_t i = 0; i < n; i++) {
        const double d = fabs((double)a[i] - (double)b[i]);

        if (!isfinite(d))
            return INFINITY;
        apart = fmax(apart, d);
        largest = fmax(largest, fabs((double)b[i]));
    }
    return largest > 0 ? apart / largest : INFINITY;
}

/* The same by root mean squares, which one number of many does not decide. */
static inline double rms_apart(const float *a, const float *b, uint64_t n)
{
    double apart = 0, size = 0;

    for (uint64_t i = 0; i < n; i++) {
        const double d = (double)a[i] - (double)b[i];

        apart += d * d;
        size += (double)b[i] * (double)b[i];
    }
    return size > 0 && isfinite(apart) ? sqrt(apart / size) : INFINITY;
}

#endif
