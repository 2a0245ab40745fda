#include "calc/table.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static bool make_room(struct table *t)
{
    const uint32_t cap = t->cap ? 2 * t->cap : 32;
    char **cell;

    if (t->rows < t->cap)
        return true;
    cell = realloc(t->cell, (size_t)cap * t->columns * sizeof(*cell));
    if (!cell)
        return false;
    t->cell = cell;
    t->cap = cap;
    return true;
}

void table_row(struct table *t, ...)
{
    va_list ap;

    if (!make_room(t)) {
        t->oom = true;
        return;
    }
    va_start(ap, t);
    for (uint32_t c = 0; c < t->columns; c++) {
        char *copy = strdup(va_arg(ap, const char *));

        t->oom = t->oom || !copy;
        t->cell[(size_t)t->rows * t->columns + c] = copy;
    }
    va_end(ap);
    t->rows++;
}

void table_free(struct table *t)
{
    for (size_t i = 0; i < (size_t)t->rows * t->columns; i++)
        free(t->cell[i]);
    free(t->cell);
    t->cell = NULL;
    t->rows = t->cap = 0;
}

static const char *at(const struct table *t, uint32_t r, uint32_t c)
{
    return t->cell[(size_t)r * t->columns + c];
}

/* ---- for people ----------------------------------------------------------------------------------- */

static int width(const struct table *t, uint32_t c)
{
    size_t w = strlen(t->head[c]);

    for (uint32_t r = 0; r < t->rows; r++)
        w = strlen(at(t, r, c)) > w ? strlen(at(t, r, c)) : w;
    return (int)w;
}

static uint32_t last_shown(const struct table *t)
{
    uint32_t last = 0;

    for (uint32_t c = 0; c < t->columns; c++)
        last = t->hidden[c] ? last : c;
    return last;
}

static void print_aligned_row(FILE *f, const struct table *t, const char *(*text)(const struct table *, uint32_t, uint32_t), uint32_t r)
{
    const uint32_t last = last_shown(t);

    for (uint32_t c = 0; c < t->columns; c++) {
        const int w = width(t, c);

        if (t->hidden[c])
            continue;
        if (t->right[c])
            fprintf(f, "%*s", w, text(t, r, c));
        else
            fprintf(f, "%-*s", c == last ? 0 : w, text(t, r, c));
        fputs(c == last ? "\n" : "  ", f);
    }
}

static const char *head(const struct table *t, uint32_t r, uint32_t c)
{
    (void)r;
    return t->head[c];
}

static void print_aligned(FILE *f, const struct table *t)
{
    print_aligned_row(f, t, head, 0);
    for (uint32_t r = 0; r < t->rows; r++)
        print_aligned_row(f, t, at, r);
}

/* `s`, with `escape` before every `special`. */
static void print_escaped(FILE *f, const char *s, char special, char escape)
{
    for (; *s; s++) {
        if (*s == special)
            fputc(escape, f);
        fputc(*s, f);
    }
}

static void print_markdown(FILE *f, const struct table *t)
{
    for (uint32_t c = 0; c < t->columns; c++)
        if (!t->hidden[c])
            fprintf(f, "| %s ", t->head[c]);
    fputs("|\n", f);
    for (uint32_t c = 0; c < t->columns; c++)
        fputs(t->hidden[c] ? "" : t->right[c] ? "|---:" : "|---", f);
    fputs("|\n", f);
    for (uint32_t r = 0; r < t->rows; r++) {
        for (uint32_t c = 0; c < t->columns; c++) {
            if (t->hidden[c])
                continue;
            fputs("| ", f);
            print_escaped(f, at(t, r, c), '|', '\\');
            fputs(" ", f);
        }
        fputs("|\n", f);
    }
}

/* ---- for programs ---------------------------------------------------------------------------------- */

static void print_csv_cell(FILE *f, const char *s)
{
    if (!strpbrk(s, ",\"\r\n")) {
        fputs(s, f);
        return;
    }
    fputc('"', f);
    print_escaped(f, s, '"', '"');
    fputc('"', f);
}

static void print_csv(FILE *f, const struct table *t)
{
    for (uint32_t c = 0; c < t->columns; c++)
        fprintf(f, "%s%s", c ? "," : "", t->head[c]);
    fputc('\n', f);
    for (uint32_t r = 0; r < t->rows; r++) {
        for (uint32_t c = 0; c < t->columns; c++) {
            fputs(c ? "," : "", f);
            print_csv_cell(f, at(t, r, c));
        }
        fputc('\n', f);
    }
}

static json_t *row_json(const struct table *t, uint32_t r)
{
    json_t *o = json_object();

    for (uint32_t c = 0; o && c < t->columns; c++) {
        const char *s = at(t, r, c);

        json_object_set_new(o, t->head[c], !t->number[c] ? json_string(s) : *s ? json_integer(strtoll(s, NULL, 10)) : json_null());
    }
    return o;
}

static void print_json(FILE *f, const struct table *t)
{
    json_t *a = json_array();

    for (uint32_t r = 0; r < t->rows; r++)
        json_array_append_new(a, row_json(t, r));
    json_dumpf(a, f, JSON_INDENT(2));
    fputc('\n', f);
    json_decref(a);
}

static void print_jsonl(FILE *f, const struct table *t)
{
    for (uint32_t r = 0; r < t->rows; r++) {
        json_t *o = row_json(t, r);

        json_dumpf(o, f, JSON_COMPACT);
        fputc('\n', f);
        json_decref(o);
    }
}

static const struct {
    const char *name;
    void (*print)(FILE *f, const struct table *t);
} formats[] = {{"table", print_aligned}, {"json", print_json}, {"jsonl", print_jsonl}, {"csv", print_csv}, {"md", print_markdown}};
enum { N_FORMATS = sizeof(formats) / sizeof(formats[0]) };

kvp_err table_format_check(const char *format, struct kvp_error *e)
{
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strcmp(formats[i].name, format) == 0)
            return KVP_OK;
    return kvp_fail(e, KVP_EINPUT, "-o %s: expected table, json, jsonl, csv or md", format);
}

kvp_err table_print(FILE *f, const char *format, const struct table *t, struct kvp_error *e)
{
    KVP_TRY(table_format_check(format, e));
    if (t->oom)
        return kvp_fail(e, KVP_ENOMEM, "out of memory for a table");
    for (size_t i = 0; i < N_FORMATS; i++)
        if (strcmp(formats[i].name, format) == 0)
            formats[i].print(f, t);
    return ferror(f) ? kvp_fail(e, KVP_ESYS, "cannot write the output") : KVP_OK;
}
