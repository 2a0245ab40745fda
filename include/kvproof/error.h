/* error.h - how everything in kvproof fails.
 *
 * A function that can fail returns kvp_err and fills a caller-owned struct kvp_error. The first
 * error is the cause: a later kvp_fail() on the same struct leaves it alone. Libraries return;
 * only a command's main prints (one line on stderr) and exits with kvp_exit_status().
 *
 * Header-only on purpose: the analytic half, the kernels and the CUDA plugin all need it, and none
 * of them may link another. */
#ifndef KVPROOF_ERROR_H
#define KVPROOF_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/*    symbol   exit  meaning                                              */
#define KVP_ERR_MAP(X)                                                     \
    X(OK, 0, "no error")                                                   \
    X(NO, 1, "the answer is no: does not fit, or outside tolerance")       \
    X(EINPUT, 2, "the input is wrong")                                     \
    X(ERANGE, 2, "a count does not fit in 64 bits")                        \
    X(ENOTSUP, 2, "this combination is not defined or not supported here") \
    X(ENOMEM, 3, "out of memory")                                          \
    X(ESYS, 3, "the system failed")

typedef enum {
#define KVP_ERR_X(sym, status, text) KVP_##sym,
    KVP_ERR_MAP(KVP_ERR_X)
#undef KVP_ERR_X
} kvp_err;

struct kvp_error {
    kvp_err code;
    char text[480];
};

/* The exit status of a command that ended with `code`: 0 yes, 1 no, 2 wrong input, 3 system. */
static inline int kvp_exit_status(kvp_err code)
{
    static const int status[] = {
#define KVP_ERR_X(sym, st, text) st,
        KVP_ERR_MAP(KVP_ERR_X)
#undef KVP_ERR_X
    };
    return status[code];
}

/* Fill *e unless it is NULL or already set, and return `code`, so that `return kvp_fail(...)` is
 * one step. The message is one sentence with the values in it, naming the file, key or flag and
 * what was expected; no full stop. Control characters of quoted input become '?': one error is one line. */
#ifdef __GNUC__
__attribute__((format(printf, 3, 4), unused))
#endif
static kvp_err kvp_fail(struct kvp_error *e, kvp_err code, const char *fmt, ...)
{
    if (e && e->code == KVP_OK) {
        va_list ap;

        e->code = code;
        va_start(ap, fmt);
        vsnprintf(e->text, sizeof(e->text), fmt, ap);
        va_end(ap);
        for (char *c = e->text; *c; c++)
            if ((unsigned char)*c < ' ' || *c == 127)
                *c = '?';
    }
    return code;
}

#define KVP_TRY(call)          \
    do {                       \
        kvp_err rc_ = (call);  \
        if (rc_ != KVP_OK)     \
            return rc_;        \
    } while (0)

#ifdef __cplusplus
}
#endif
#endif
