/* fuzz.h - what every fuzz target checks. A target is one file that defines LLVMFuzzerTestOneInput;
 * libFuzzer's main calls it (make fuzz), or replay.c's (make fuzz-replay). */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <kvproof/error.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_HOLDS(condition)                                                          \
    do {                                                                               \
        if (!(condition)) {                                                            \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                                   \
        }                                                                              \
    } while (0)

/* An error is wrong input, one line, and says something. */
static inline void fuzz_check_error(kvp_err rc, const struct kvp_error *e)
{
    FUZZ_HOLDS(e->code == rc);
    FUZZ_HOLDS(kvp_exit_status(rc) == 2);
    FUZZ_HOLDS(e->text[0] && !strchr(e->text, '\n'));
}

#endif
