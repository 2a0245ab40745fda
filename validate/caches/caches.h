/* caches.h - the caches of table.c, one file each */
#ifndef KVPROOF_CACHES_CACHES_H
#define KVPROOF_CACHES_CACHES_H

#include "validate/caches/cache.h"

extern const struct cache_ops cache_dense, cache_window, cache_h2o, cache_kivi, cache_kv;
extern const struct cache_ops cache_streaming_llm, cache_streaming_llm_once, cache_snapkv, cache_pyramidkv,
    cache_tova, cache_quest, cache_duo, cache_minicache, cache_adakv, cache_h2o_flexgen, cache_lorc;

#endif
