/* families.h - every file of families/: a list of dialects, closed by an empty row. */
#ifndef KVPROOF_CALC_FAMILIES_H
#define KVPROOF_CALC_FAMILIES_H

#include "calc/family.h"

extern const struct kvp_dialect family_llama[];
extern const struct kvp_dialect family_gemma[];
extern const struct kvp_dialect family_qwen[];
extern const struct kvp_dialect family_opt[];
extern const struct kvp_dialect family_bloom[];
extern const struct kvp_dialect family_gpt[];
extern const struct kvp_dialect family_falcon[];
extern const struct kvp_dialect family_mpt[];
extern const struct kvp_dialect family_phi[];
extern const struct kvp_dialect family_stablelm[];
extern const struct kvp_dialect family_starcoder2[];
extern const struct kvp_dialect family_chatglm[];
extern const struct kvp_dialect family_internlm[];
extern const struct kvp_dialect family_cohere[];
extern const struct kvp_dialect family_olmo[];
extern const struct kvp_dialect family_mixtral[];
extern const struct kvp_dialect family_dbrx[];
extern const struct kvp_dialect family_qwen_moe[];
extern const struct kvp_dialect family_deepseek[];
extern const struct kvp_dialect family_glm_moe[];
extern const struct kvp_dialect family_llama4[];
extern const struct kvp_dialect family_gpt_oss[];
extern const struct kvp_dialect family_minimax[];
extern const struct kvp_dialect family_mimo_v2[];
extern const struct kvp_dialect family_gemma3n[];
extern const struct kvp_dialect family_gemma4[];
extern const struct kvp_dialect family_step[];
extern const struct kvp_dialect family_falcon_h1[];
extern const struct kvp_dialect family_jamba[];
extern const struct kvp_dialect family_kimi_linear[];
extern const struct kvp_dialect family_lfm2[];
extern const struct kvp_dialect family_mamba[];
extern const struct kvp_dialect family_minimax_01[];
extern const struct kvp_dialect family_nemotron_h[];
extern const struct kvp_dialect family_qwen3_next[];
extern const struct kvp_dialect family_recurrent_gemma[];
extern const struct kvp_dialect family_rwkv[];
extern const struct kvp_dialect family_zamba2[];
extern const struct kvp_dialect family_bart[];
extern const struct kvp_dialect family_t5[];
extern const struct kvp_dialect family_whisper[];
extern const struct kvp_dialect family_llama_kin[];
extern const struct kvp_dialect family_exaone[];
extern const struct kvp_dialect family_minicpm[];
extern const struct kvp_dialect family_mistral[];
extern const struct kvp_dialect family_openelm[];
extern const struct kvp_dialect family_nemotron_nas[];
extern const struct kvp_dialect family_fuyu[];
extern const struct kvp_dialect family_mllama[];
extern const struct kvp_dialect family_molmo[];
extern const struct kvp_dialect family_wrappers[];

#endif
