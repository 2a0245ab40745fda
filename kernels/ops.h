/* ops.h - the arguments of every kernel. */
#ifndef KVPROOF_OPS_H
#define KVPROOF_OPS_H

#include "kernels/ops/act.h"
#include "kernels/ops/attn_decode.h"
#include "kernels/ops/attn_kivi.h"
#include "kernels/ops/attn_merged.h"
#include "kernels/ops/attn_pages.h"
#include "kernels/ops/attn_prefill.h"
#include "kernels/ops/attn_sinks.h"
#include "kernels/ops/attn_slots.h"
#include "kernels/ops/cache_write.h"
#include "kernels/ops/embed.h"
#include "kernels/ops/gemm.h"
#include "kernels/ops/h2o_scores.h"
#include "kernels/ops/h2o_select.h"
#include "kernels/ops/h2o_step.h"
#include "kernels/ops/kivi.h"
#include "kernels/ops/kivi_pack_k.h"
#include "kernels/ops/kivi_pack_v.h"
#include "kernels/ops/norm.h"
#include "kernels/ops/page_bounds.h"
#include "kernels/ops/page_select.h"
#include "kernels/ops/pair_merge.h"
#include "kernels/ops/read_probe.h"
#include "kernels/ops/rope.h"
#include "kernels/ops/top_tokens.h"
#include "kernels/ops/tova_step.h"
#include "kernels/ops/window_scores.h"

#endif
