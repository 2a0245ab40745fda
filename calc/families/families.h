/* families.h - every file of families/: a list of dialects, closed by an empty row. */
#ifndef KVPROOF_CALC_FAMILIES_H
#define KVPROOF_CALC_FAMILIES_H

#include "calc/family.h"

extern const struct kvp_dialect family_llama[];
extern const struct kvp_dialect family_gpt[];
extern const struct kvp_dialect family_opt[];
extern const struct kvp_dialect family_bloom[];
extern const struct kvp_dialect family_falcon[];
extern const struct kvp_dialect family_mpt[];
extern const struct kvp_dialect family_phi[];
extern const struct kvp_dialect family_stablelm[];
extern const struct kvp_dialect family_starcoder2[];
extern const struct kvp_dialect family_chatglm[];
extern const struct kvp_dialect family_internlm[];
extern const struct kvp_dialect family_cohere[];
extern const struct kvp_dialect family_olmo[];
extern const struct kvp_dialect family_bart[];
extern const struct kvp_dialect family_t5[];
extern const struct kvp_dialect family_whisper[];

#endif
