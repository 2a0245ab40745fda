/* gp.h - writing a gnuplot program, and running it. */
#ifndef KVPROOF_GP_H
#define KVPROOF_GP_H

#include <kvproof/error.h>

/* Where a program's picture goes. */
struct gp_target {
    const char *terminal; /* gnuplot's words: "pngcairo", "svg fontscale 1.25" */
    double mark;          /* scale of point sizes; the program's variable `mark` */
    const char *file;     /* for `set output`; NULL: gnuplot's stdout */
};

/* A program under way. The canvas is in pixels, its origin at the top left as a reader's eye; gp_y() turns
 * that into gnuplot's screen fraction. */
struct gp {
    FILE *f;
    const struct gp_target *target;
    double width, height;
};

/* First lines: terminal, canvas, encoding. No text is enhanced: names may hold _ ^ { } and stay as they are. */
void gp_begin(struct gp *g, double width, double height);
double gp_x(const struct gp *g, double pixel);
double gp_y(const struct gp *g, double pixel);

/* Where on the canvas the next plot's axes lie. */
void gp_panel(struct gp *g, double left, double top, double right, double bottom);

/* One quoted gnuplot string. Quotes, backquotes (gnuplot would run what they enclose), backslashes, $ and @
 * are written in octal; control characters become spaces. */
void gp_quote(FILE *f, const char *text);

/* `set label` at a place on the canvas; `style` is gnuplot's ("right textcolor ..."). */
#ifdef __GNUC__
__attribute__((format(printf, 5, 6)))
#endif
void gp_label(struct gp *g, double x, double y, const char *style, const char *fmt, ...);

/* A legend's entry: a mark and its meaning. `point` is a gnuplot point type, rgb 0xRRGGBB. */
void gp_mark(struct gp *g, double x, double y, int point, double size, unsigned rgb, const char *text);

/* "4.00 GiB", "12.5 MiB", "96 B". */
void gp_bytes(double bytes, char *buf, size_t n);

/* Colours that stay apart for colour-blind eyes (Okabe and Ito 2008), and marks to go with them. */
unsigned gp_colour(size_t i);
int gp_point(size_t i, bool filled);

/* Run gnuplot over `program`; its stdout goes to the open file `fd`. KVP_ESYS with what it said. */
kvp_err gp_run(const char *program, size_t size, int fd, struct kvp_error *e);

#endif
