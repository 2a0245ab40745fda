/* dense.c - every token, or as many as the model's own windows let its layers see */
#include "validate/caches/caches.h"
#include "validate/caches/rows.h"

const struct cache_ops cache_dense = {.name = "dense", .axis = KVP_AXIS_SELECT, ROWS_OPS};
