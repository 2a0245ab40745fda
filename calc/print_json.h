/* print_json.h - an estimate as JSON, schema "kvproof-estimate/1". */
#ifndef KVPROOF_CALC_PRINT_JSON_H
#define KVPROOF_CALC_PRINT_JSON_H

#include "calc/print.h"

#include <kvproof/kvproof.h>

#include <stdio.h>

/* The word that tables and JSON say for a tag. */
const char *print_tag(enum kvp_tag tag);

/* One object; on one line when `lines`. Numbers of bytes and FLOPs are integers; time is null without a
 * device. */
kvp_err print_json(FILE *f, bool lines, bool detail, const struct kvp_model *m, const struct kvp_stack *s,
                   const struct kvp_estimate *est, const struct kvp_device *device, struct kvp_error *e);

#endif
