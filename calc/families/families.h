/* families.h - every file of families/: a list of dialects, closed by an empty row. */
#ifndef KVPROOF_CALC_FAMILIES_H
#define KVPROOF_CALC_FAMILIES_H

#include "calc/family.h"

extern const struct kvp_dialect family_llama[];
extern const struct kvp_dialect family_mixtral[];
extern const struct kvp_dialect family_dbrx[];
extern const struct kvp_dialect family_qwen_moe[];
extern const struct kvp_dialect family_deepseek[];
extern const struct kvp_dialect family_glm_moe[];
extern const struct kvp_dialect family_llama4[];
extern const struct kvp_dialect family_gpt_oss[];
extern const struct kvp_dialect family_minimax[];
extern const struct kvp_dialect family_mimo_v2[];
extern const struct kvp_dialect family_gemma4[];
extern const struct kvp_dialect family_step[];

#endif
