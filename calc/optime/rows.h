/* rows.h - timings of single ops, made anywhere, one a line of a CSV file with a header.
 *
 * Which op a file is about shows in its columns (kinds.c); a row becomes a class (one per combination of
 * its words: GPU, framework, kernel, data types), a cell (what is held out together), the work it takes and
 * the coordinates in which neighbours are near. */
#ifndef KVPROOF_CALC_OPTIME_ROWS_H
#define KVPROOF_CALC_OPTIME_ROWS_H

#include <kvproof/error.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { OPTIME_COORDS = 4, OPTIME_TERMS = 4 };

struct optime_row {
    const char *line;                /* as in the file, without its end; points into the file's text */
    size_t len;
    uint32_t cls;                    /* index into the file's classes */
    uint64_t cell;                   /* equal for rows of one cell */
    double term[OPTIME_TERMS];       /* bytes, FLOPs, work items, tiles: never negative */
    double at[OPTIME_COORDS];        /* log2 of sizes */
    double ms;                       /* measured; 0: the file has no such column */
};

struct optime_file {
    char *text;
    const char *header;
    size_t header_len;
    const struct optime_kind *kind;
    uint32_t n_classes;
    char **cls;
    uint32_t n;
    struct optime_row *row;
};

/* A kind of op: its columns, and what they mean. One row of kinds.c. */
struct optime_kind {
    const char *name;
    const char *needs[12];  /* numeric columns that must be there; v[] below is in this order */
    const char *cell[3];    /* the columns that make a cell */
    double reach[OPTIME_COORDS]; /* how far, in log2 of each coordinate, neighbours resemble each other */
    /* Work and coordinates of a row. `words` asks for a text column: "" when the file has none. */
    void (*work)(const double *v, const char *(*word)(void *ctx, const char *column), void *ctx, double *term, double *at);
};
const struct optime_kind *optime_kind_at(uint32_t i); /* NULL past the end */

/* KVP_EINPUT naming file, line and column. `timed`: latency_ms must be there. optime_close() on success. */
kvp_err optime_open(struct optime_file *out, const char *path, bool timed, struct kvp_error *e);
void optime_close(struct optime_file *f);

#endif
