/* table.h - rows of text, printed as an aligned table, Markdown, CSV or JSON. */
#ifndef KVPROOF_CALC_TABLE_H
#define KVPROOF_CALC_TABLE_H

#include <kvproof/error.h>

#include <stdint.h>
#include <stdio.h>

enum { TABLE_COLUMNS = 8 };

struct table {
    uint32_t columns;
    const char *head[TABLE_COLUMNS];
    bool right[TABLE_COLUMNS];  /* aligned right */
    bool number[TABLE_COLUMNS]; /* an integer in JSON (an empty cell is null) */
    bool hidden[TABLE_COLUMNS]; /* not in tables for people */
    uint32_t rows, cap;
    char **cell; /* owned [rows * columns] */
    bool oom;
};

/* Add a row: `columns` texts follow, copied. */
void table_row(struct table *t, ...);
void table_free(struct table *t);

/* `format`: table, md, csv, json (an array), jsonl (a line per row). KVP_EINPUT for another. */
kvp_err table_print(FILE *f, const char *format, const struct table *t, struct kvp_error *e);
kvp_err table_format_check(const char *format, struct kvp_error *e);

#endif
