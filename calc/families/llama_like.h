/* llama_like.h - the spellings that Llama and everything after it share. */
#ifndef KVPROOF_CALC_LLAMA_LIKE_H
#define KVPROOF_CALC_LLAMA_LIKE_H

#define LLAMA_KEYS                                                                                 \
    {                                                                                              \
        [KVP_SIZE_VOCAB] = {"vocab_size"}, [KVP_SIZE_WIDTH] = {"hidden_size"},                     \
        [KVP_SIZE_LAYERS] = {"num_hidden_layers"}, [KVP_SIZE_HEADS] = {"num_attention_heads"},     \
        [KVP_SIZE_KV_HEADS] = {"num_key_value_heads"}, [KVP_SIZE_HEAD_DIM] = {"head_dim"},         \
        [KVP_SIZE_FFN] = {"intermediate_size"},                                                    \
        [KVP_SIZE_POSITIONS] = {"max_position_embeddings", "max_sequence_length"},                 \
    }
#define LLAMA_LIKE                                                                                  \
    .key = LLAMA_KEYS, .act_key = "hidden_act", .act = "silu", .eps_key = "rms_norm_eps", .eps = 1e-6, \
    .norm = KVP_NORM_RMS, .position = KVP_POS_ROPE, .ffn = KVP_FFN_GATED

extern const struct kvp_rule kvp_rules_llama[]; /* keys that Llama-like classes share */

#endif
