/* plan.h - what every layer keeps between steps, before any byte is counted.
 *
 * A plan has one entry per layer class of the model. It starts as the dense cache (the baseline
 * technique) and the stack's techniques rewrite it in the order of their axes. Then it is lowered to
 * tensors, and everything else (rest, peak, the fixed + per-token form) is read off it. */
#ifndef KVPROOF_CALC_PLAN_H
#define KVPROOF_CALC_PLAN_H

#include "calc/num.h"
#include "calc/tensors.h"
#include "calc/weights.h"

#include <kvproof/kvproof.h>

#define PLAN_NO_LIMIT UINT64_MAX

/* How many tokens a tensor holds after a query has seen `seen` tokens, as functions of the numbers in
 * `cap` and `residual` (a technique gives them a meaning). `held` never falls, unless `most` is there. */
struct law {
    uint64_t (*held)(const struct law *l, uint64_t seen);
    /* (optional) stored tokens that the decode step of token `seen` reads. NULL: held. */
    uint64_t (*read)(const struct law *l, uint64_t seen);
    /* (optional) most tokens' room while a prompt of `prompt` grows to `seen`. NULL: held(seen). */
    uint64_t (*most)(const struct law *l, uint64_t prompt, uint64_t seen);
    /* (optional) room in a strip made for max_len tokens. NULL: held(max_len). */
    uint64_t (*strip)(const struct law *l, uint64_t max_len);
    bool endless; /* another token always adds one: counts in bytes_per_token */
    uint64_t cap; /* PLAN_NO_LIMIT: none */
    uint64_t residual;
    uint64_t dropped; /* tokens of the prompt that were not kept */
    double share;     /* of the tokens, rounded up, are held (law_share) */
    uint64_t chosen;  /* units that a decode step reads of all that are held */
};

uint64_t law_ring(const struct law *l, uint64_t seen);           /* min(seen - dropped, cap) */
uint64_t law_ring_before(const struct law *l, uint64_t seen);    /* the ring, without the newest token */
uint64_t law_share(const struct law *l, uint64_t seen);          /* ceil(share * ring) */

/* One kind of tensor of a class: [batch, heads, tokens / unit, width], or with channels_first
 * [batch, heads, width, tokens / unit]. In pages the first index is the page and the tokens are the
 * page's. */
struct part {
    const char *name;
    enum kvp_tag tag; /* CACHE or METADATA */
    enum kvp_format format;
    uint64_t heads, width, unit;
    bool channels_first;
    struct law law;
    uint64_t layers; /* of the class, how many keep one; the class's count unless a technique shares it */
    bool replicated; /* every tensor-parallel rank keeps it whole (latents); else heads are divided */
    uint64_t shared; /* of the tokens held, this many are stored once for the whole batch */
    bool rows;            /* plain rows of k or v, written one by one: can grow, can be paged */
    bool attended;        /* attention reads it */
    bool append_prefill, append_decode; /* written by cache_append in that phase */
    bool follows_growth;  /* reallocated along with the rows of a growing store */
    bool strips;          /* a store that reserves a strip reserves it for this too */
    uint32_t paged_as;    /* index of the part whose tokens decide the pages; UINT32_MAX: never paged */
    bool merged;          /* its technique counts what is written to it */
    uint64_t row;         /* set last: bytes of `unit` tokens, when so many more always add as much; else 0 */
    /* Set by the store, or by plan_build when there is none. */
    uint64_t slots, slots_most; /* tokens' room per sequence: at rest, and at its highest */
    uint64_t block, pages;      /* pages > 0: slots = pages * block */
    bool grows;
    uint64_t null;              /* pages that belong to no sequence */
};

enum { PLAN_MAX_PARTS = 24 };

struct plan_class {
    uint32_t count;
    uint32_t first; /* the model's number of its first layer */
    const struct kvp_layer_class *model;
    uint64_t band; /* prefill: query i sees keys with i - j < band; PLAN_NO_LIMIT: all j <= i */
    uint64_t span; /* decode: most keys a query sees, itself included */
    uint32_t n_parts;
    bool expanded;  /* MLA: keys and values of the heads are stored, not the latent */
    uint32_t kind;  /* of plan_group() */
    uint32_t alike; /* layers of this class and of all behind it on `next`: of one model class; 0: it is on another's */
    uint32_t next;  /* the next class of the same model class; 0: none */
    bool last_only; /* prefill computes only the last token here, and every token's k and v (YOCO's upper half) */
    struct part parts[PLAN_MAX_PARTS];
};

enum { PLAN_MAX_SCRATCH = 12, PLAN_MAX_META = 4 };

/* Metadata of a store beside its tables, once for the whole batch: [a, b]. */
struct plan_meta {
    const char *name;
    enum kvp_format format;
    uint64_t a, b;
};

struct technique;

struct plan_scratch {
    const char *name;
    enum kvp_format format;
    uint64_t shape[3];
};

/* Layers of a class that are on one side of what bends a cost (select.c). */
struct plan_tally {
    uint32_t first, count;
    uint64_t sum, most; /* prompt tokens that they keep: all together, one */
};
enum { SELECT_SIDES = 4 };

/* What plan_open() found, and room that plan_fill() uses again. */
struct plan_opened {
    const struct technique *technique[KVP_AXES]; /* of each spec of the stack */
    struct store_plan weights;                   /* before any technique */
    enum kvp_format kv;
    uint64_t encoder_tokens;
    struct plan_class *unsplit, *split; /* owned: the model's classes; room for one a layer */
    uint32_t *group_of, *head;          /* owned: [layers] in `split`; [model classes] room */
    uint32_t *kind;                     /* owned: [layers] room for whoever calls plan_group() */
    struct plan_tally *tally;           /* owned: [model classes][SELECT_SIDES] room */
    bool sums;                          /* nobody will ask for single layers, only for sums over them */
    uint64_t *tables;                   /* owned: room for plan.tables */
};

struct plan {
    const struct kvp_model *model; /* the given one, or `rewritten` when a technique changed it */
    const struct kvp_options *o;   /* as given */
    struct kvp_model rewritten;    /* owned; zero when none did */
    const struct kvp_stack *stack;
    struct plan_opened opened;
    /* From here on: what plan_fill() begins with zeros. */
    struct kvp_workload w; /* resolved */
    enum kvp_format kv;
    struct store_plan weights;     /* how weights are stored */
    uint64_t encoder_tokens;       /* what cross-attention reads, per sequence */
    uint64_t chunk;                /* tokens of a prompt in one pass; the prompt unless it is chunked */
    uint32_t n_classes;
    struct plan_class *cls; /* [n_classes] the model's classes, until plan_split() */
    uint32_t n_tables;
    uint64_t *tables; /* pages per sequence, each different number once */
    uint32_t n_scratch;
    struct plan_scratch scratch[PLAN_MAX_SCRATCH]; /* what the technique's kernels need beside the cache */
    bool over; /* a count did not fit */
    uint64_t asked;  /* the workload's context; w.context is less when a technique keeps part of the prompt elsewhere */
    uint64_t hit;    /* prompt tokens that all sequences but the first find computed */
    uint64_t budget; /* most tokens of a pass, all sequences together; 0: no limit */
    uint32_t n_meta;
    struct plan_meta meta[PLAN_MAX_META];
};

/* Build it: the composition table, then every technique's check and rewrite. KVP_EINPUT, KVP_ENOTSUP,
 * KVP_ERANGE with the reason. plan_free() on success. */
kvp_err plan_build(struct plan *out, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_workload *w,
                   const struct kvp_options *o, enum kvp_format kv, struct kvp_error *e);
void plan_free(struct plan *p);

/* The same in two steps: what no workload changes, then a workload, as often as wanted. plan_free() when
 * plan_open() succeeded; a plan_fill() that failed may be followed by another. `rewritten`: the stack has
 * changed this model already. */
kvp_err plan_open(struct plan *out, const struct kvp_model *m, const struct kvp_stack *s, const struct kvp_options *o,
                  enum kvp_format kv, bool rewritten, struct kvp_error *e);
kvp_err plan_fill(struct plan *p, const struct kvp_workload *w, struct kvp_error *e);

/* Divide the model's classes, before their parts differ: layers of one model class and one kind[layer] become a class
 * (each its own on a model where some read others' rows).
 * plan_split(): each layer its own, for techniques whose budgets differ from layer to layer. KVP_ENOMEM. */
kvp_err plan_group(struct plan *p, const uint32_t *kind, struct kvp_error *e);
kvp_err plan_split(struct plan *p, struct kvp_error *e);
/* Or one by one: forget the classes, then put in `count` layers like this one. Only where single layers do not matter. */
kvp_err plan_begin_split(struct plan *p, struct kvp_error *e);
struct plan_class *plan_put(struct plan *p, uint32_t layer, uint32_t count);
uint32_t plan_class_of(const struct plan *p, uint32_t layer);

/* For techniques: a new part, at most PLAN_MAX_PARTS a class: tokens whole, never paged, its law a ring
 * without a limit. */
struct part *plan_add_part(struct plan_class *c, const char *name);
uint32_t plan_take_parts(struct plan_class *c, struct part was[PLAN_MAX_PARTS]); /* copy them out and drop them; how many */
struct part *plan_find_part(struct plan_class *c, const char *name); /* NULL: none */

/* Rows that attention reads: k and v, or an MLA latent; not a state, not an encoder's keys. */
static inline bool part_is_row(const struct part *x)
{
    return x->rows && x->attended;
}
bool class_has_rows(const struct plan_class *c);
/* KVP_ENOTSUP, "not applicable: no KV cache", when no layer keeps any: a technique has nothing to act on. */
kvp_err plan_has_rows(const struct plan *p, struct kvp_error *e);
void plan_add_table(struct plan *p, uint64_t pages);
void plan_add_scratch(struct plan *p, const char *name, enum kvp_format f, uint64_t a, uint64_t b, uint64_t c);

void plan_add_meta(struct plan *p, const char *name, enum kvp_format f, uint64_t a, uint64_t b);

/* The class whose k and v this one reads: itself, or the nearest before it of its kind when it stores none. */
const struct plan_class *plan_owner(const struct plan *p, uint32_t cls);

/* Sequences that a prefill pass works on together. */
uint64_t plan_pass_width(const struct plan *p);

/* A part that never changes its size: a recurrent state, an encoder's keys. `tokens` rows of it. */
struct part *plan_add_fixed(struct plan *p, struct plan_class *c, const char *name, enum kvp_tag tag, enum kvp_format f,
                            uint64_t heads, uint64_t tokens, uint64_t width);

/* What the class's recurrence keeps (state.c). */
void plan_add_state(struct plan *p, struct plan_class *c);

/* Bytes of `tokens` tokens of a part, one sequence, one layer. */
uint64_t part_bytes(bool *over, const struct part *p, uint64_t tokens);
uint64_t part_read(const struct part *p, uint64_t seen);

/* Lower the cache and the state to tensors, as allocated at rest, and add up the totals of memory that are about it. */
void plan_tensors(struct plan *p, struct tensors *out);
void plan_totals(struct plan *p, struct kvp_memory *m);

#endif
