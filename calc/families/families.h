/* families.h - every file of families/: a list of dialects, closed by an empty row. */
#ifndef KVPROOF_CALC_FAMILIES_H
#define KVPROOF_CALC_FAMILIES_H

#include "calc/family.h"

extern const struct kvp_dialect family_llama[];

#endif
