/* dump.c - what a cache holds, as JSON lines */
#include "validate/caches/dump.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

kvp_err dump_fetch(void **out, const struct cache_env *env, const struct led_mem *mem, struct kvp_error *e)
{
    const struct ledger *l = env->led;
    kvp_err rc;

    *out = NULL;
    if (!mem->buf)
        return KVP_OK;
    *out = malloc(mem->bytes);
    if (!*out)
        return kvp_fail(e, KVP_ENOMEM, "out of memory to dump %" PRIu64 " bytes of cache", mem->bytes);
    rc = l->be->read(l->dev, (struct kb_span){mem->buf, 0}, *out, mem->bytes, e);
    if (rc != KVP_OK) {
        free(*out);
        *out = NULL;
    }
    return rc;
}

void dump_begin(struct dump *d, FILE *f, uint32_t layer, const char *name, enum kvp_format format,
                const uint64_t shape[4])
{
    *d = (struct dump){.f = f, .first = true};
    fprintf(f,
            "{\"layer\":%" PRIu32 ",\"name\":\"%s\",\"format\":\"%s\",\"shape\":[%" PRIu64 ",%" PRIu64
            ",%" PRIu64 ",%" PRIu64 "],\"data\":[",
            layer, name, kvp_format_name(format), shape[0], shape[1], shape[2], shape[3]);
}

static void comma(struct dump *d)
{
    if (!d->first)
        fputc(',', d->f);
    d->first = false;
}

/* IEEE 754 binary16: 1 sign, 5 exponent, 10 fraction bits. */
static double from_f16(uint16_t h)
{
    const int exponent = h >> 10 & 31, fraction = h & 1023;
    const double sign = h >> 15 ? -1 : 1;

    if (exponent == 31)
        return fraction ? (double)NAN : sign * (double)INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

static double value(enum kvp_format format, const void *bytes, uint64_t i)
{
    const unsigned char *p = bytes;
    uint16_t half;
    uint32_t word;
    float x;

    if (format == KVP_F32) {
        memcpy(&x, p + 4 * i, sizeof(x));
        return (double)x;
    }
    if (format == KVP_I32) {
        memcpy(&word, p + 4 * i, sizeof(word));
        return (double)(int32_t)word;
    }
    memcpy(&half, p + 2 * i, sizeof(half));
    if (format == KVP_F16)
        return from_f16(half);
    word = (uint32_t)half << 16;
    memcpy(&x, &word, sizeof(x));
    return (double)x;
}

void dump_values(struct dump *d, enum kvp_format format, const void *bytes, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++) {
        const double v = value(format, bytes, i);

        comma(d);
        if (isfinite(v))
            fprintf(d->f, "%.9g", v);
        else
            fputs("null", d->f);
    }
}

void dump_int(struct dump *d, int64_t v)
{
    comma(d);
    fprintf(d->f, "%" PRId64, v);
}

void dump_row(struct dump *d, enum kvp_format format, const void *bytes, uint64_t n)
{
    const unsigned char *p = bytes;

    if (format == KVP_F32 || format == KVP_F16 || format == KVP_BF16) {
        dump_values(d, format, bytes, n);
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        dump_int(d, format == KVP_INT4 ? p[i / 2] >> i % 2 * 4 & 15 : format == KVP_INT8 ? (signed char)p[i] : p[i]);
}

void dump_end(struct dump *d)
{
    fputs("]}\n", d->f);
}

kvp_err dump_number(const struct cache_env *env, uint32_t layer, const char *name, struct kb_span at, FILE *f, struct kvp_error *e)
{
    const struct ledger *l = env->led;
    struct dump d;
    float x;

    KVP_TRY(l->be->read(l->dev, at, &x, sizeof(x), e));
    dump_begin(&d, f, layer, name, KVP_F32, (const uint64_t[]){1, 1, 1, 1});
    dump_values(&d, KVP_F32, &x, 1);
    dump_end(&d);
    return KVP_OK;
}

static void positions_begin(FILE *f, uint32_t layer, int64_t head, int64_t batch)
{
    fprintf(f, "{\"layer\":%" PRIu32 ",\"head\":%" PRId64 ",\"batch\":%" PRId64 ",\"positions\":[", layer,
            head, batch);
}

void dump_positions(FILE *f, uint32_t layer, int64_t head, int64_t batch, const uint64_t *pos, uint64_t n)
{
    positions_begin(f, layer, head, batch);
    for (uint64_t i = 0; i < n; i++)
        fprintf(f, "%s%" PRIu64, i ? "," : "", pos[i]);
    fputs("]}\n", f);
}

void dump_range(FILE *f, uint32_t layer, uint64_t from, uint64_t to)
{
    positions_begin(f, layer, -1, -1);
    for (uint64_t p = from; p < to; p++)
        fprintf(f, "%s%" PRIu64, p > from ? "," : "", p);
    fputs("]}\n", f);
}

kvp_err dump_done(FILE *f, struct kvp_error *e)
{
    return fflush(f) != 0 || ferror(f) ? kvp_fail(e, KVP_ESYS, "writing the cache dump failed") : KVP_OK;
}
