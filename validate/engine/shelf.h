/* shelf.h - weights that outlive an engine: runs of one model, one after another, whose stacks leave weights as they are.
 *
 * An engine that is given a shelf runs on the shelf's device. It finds its weights there or builds them, counts them in its own
 * ledger as if it had asked for them just now, and puts them back when it closes. One that needs others clears the shelf first, so
 * that no two sets are ever held. */
#ifndef KVPROOF_ENGINE_SHELF_H
#define KVPROOF_ENGINE_SHELF_H

#include "validate/engine/weights.h"
#include <kvproof/spec.h>

/* What makes two sets of weights the same. */
struct shelf_key {
    const struct kvp_model *m; /* the caller's, which lives as long as the shelf */
    const char *dir;           /* likewise; NULL: random */
    uint64_t seed;
    enum kvp_format format;
};

struct shelf {
    struct ledger led; /* of what lies here, and nothing while an engine has it */
    struct shelf_key key;
    struct weights w;
    bool full;
    uint64_t taken; /* how often an engine found what it needs */
};

/* Does the stack leave the model and its weights as they are? */
bool shelf_serves(const struct kvp_stack *s);

/* The shelf's device, opened by whoever comes first. */
kvp_err shelf_device(struct shelf *s, const struct kb_backend *be, const struct kb_options *o, struct kb_dev **dev, struct kvp_error *e);
/* Weights of that key move to *w and `led`; false when there are none. */
bool shelf_take(struct shelf *s, const struct shelf_key *k, struct weights *w, struct ledger *led);
void shelf_put(struct shelf *s, const struct shelf_key *k, struct weights *w);
void shelf_clear(struct shelf *s);
void shelf_close(struct shelf *s); /* and its device; zeroed is fine */

#endif
