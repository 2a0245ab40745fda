/* search.h - the last integer at which something holds, when it nearly stops once: what is asked may rise
 * and fall by turns near the end (a KIVI cache of 4095 tokens is larger than one of 4096). */
#ifndef KVPROOF_CALC_SEARCH_H
#define KVPROOF_CALC_SEARCH_H

#include <kvproof/kvproof.h>

struct search {
    bool (*holds)(void *of, uint64_t x);
    double (*excess)(void *of, uint64_t x); /* optional, as good as straight: above 0 where it does not hold; infinite: no number */
    void *of;
    uint64_t lo, hi; /* asked about, both included */
    uint64_t wobble; /* beyond this many x in a row where it does not hold, it never holds again */
};

/* The largest x where it holds; lo - 1 when there is none. Where `excess` is given, the edge is narrowed down by Brent's method
 * (GSL, Brent-Dekker; Brent 1973, chapter 4) before it is bisected; the answer is the same. */
uint64_t search_last(const struct search *s);

/* How far a stack's bytes may rise and fall: its numbers of tokens are periods of that. */
uint64_t search_wobble(const struct kvp_stack *s);

#endif
