/* tower.h - what only --with-vision counts, shape by shape. */
#ifndef KVPROOF_CALC_FAMILIES_TOWER_H
#define KVPROOF_CALC_FAMILIES_TOWER_H

#include "calc/family.h"

/* A reader over the object under `key` of the whole file; *found false when there is none. */
kvp_err tower_open(const struct kvp_reader *r, const char *key, struct kvp_reader *out, bool *found);
/* `n` more matrices of [rows, cols] (cols 1: vectors) into m->tower. Nothing where one of the three is 0. */
kvp_err tower_add(struct kvp_reader *r, const char *name, uint32_t rows, uint32_t cols, uint32_t n);

#endif
