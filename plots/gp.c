#include "plots/gp.h"

#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* ---- writing -------------------------------------------------------------------------------------- */

void gp_quote(FILE *f, const char *text)
{
    fputc('"', f);
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            fputc(' ', f);
        else if (strchr("\"'`\\$@", *p))
            fprintf(f, "\\%03o", (unsigned char)*p);
        else
            fputc(*p, f);
    }
    fputc('"', f);
}

void gp_begin(struct gp *g, double width, double height)
{
    g->width = width;
    g->height = height;
    fprintf(g->f,
            "set encoding utf8\nset terminal %s noenhanced size %.0f,%.0f font 'sans-serif,11' "
            "background '#ffffff'\nmark = %g\n",
            g->target->terminal, width, height, g->target->mark);
    if (g->target->file) {
        fprintf(g->f, "set output ");
        gp_quote(g->f, g->target->file);
        fputc('\n', g->f);
    }
}

double gp_x(const struct gp *g, double pixel)
{
    return pixel / g->width;
}

double gp_y(const struct gp *g, double pixel)
{
    return 1 - pixel / g->height;
}

void gp_panel(struct gp *g, double left, double top, double right, double bottom)
{
    fprintf(g->f,
            "set lmargin at screen %.5f\nset rmargin at screen %.5f\n"
            "set tmargin at screen %.5f\nset bmargin at screen %.5f\n",
            gp_x(g, left), gp_x(g, right), gp_y(g, top), gp_y(g, bottom));
}

void gp_label(struct gp *g, double x, double y, const char *style, const char *fmt, ...)
{
    char text[640];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    fprintf(g->f, "set label ");
    gp_quote(g->f, text);
    fprintf(g->f, " at screen %.5f,%.5f %s\n", gp_x(g, x), gp_y(g, y), style);
}

void gp_mark(struct gp *g, double x, double y, int point, double size, unsigned rgb, const char *text)
{
    fprintf(g->f, "set label '' at screen %.5f,%.5f point pt %d ps %.2f*mark lc rgb '#%06x'\n", gp_x(g, x),
            gp_y(g, y), point, size, rgb);
    gp_label(g, x + 12, y, "left font 'sans-serif,10' textcolor rgb '#222222'", "%s", text);
}

void gp_bytes(double bytes, char *buf, size_t n)
{
    static const struct {
        double unit;
        const char *name;
    } units[] = {{0x1p30, "GiB"}, {0x1p20, "MiB"}, {0x1p10, "KiB"}};

    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (bytes >= units[i].unit) {
            snprintf(buf, n, "%.2f %s", bytes / units[i].unit, units[i].name);
            return;
        }
    snprintf(buf, n, "%.0f B", bytes);
}

unsigned gp_colour(size_t i)
{
    static const unsigned palette[] = {0x333333, 0x0072b2, 0xd55e00, 0x009e73, 0xcc79a7, 0xe69f00, 0x56b4e9};

    return palette[i % (sizeof(palette) / sizeof(palette[0]))];
}

int gp_point(size_t i, bool filled)
{
    /* circle, square, triangle up, diamond, triangle down, pentagon */
    static const int open[] = {6, 4, 8, 12, 10, 14};

    return open[i % (sizeof(open) / sizeof(open[0]))] + filled;
}

/* ---- running --------------------------------------------------------------------------------------- */

static kvp_err no_gnuplot(const char *why, struct kvp_error *e)
{
    return kvp_fail(e, KVP_ESYS, "gnuplot does not start (%s): install it, e.g. apt-get install gnuplot-nox", why);
}

/* gnuplot with stdin from a pipe, stdout to `out` and stderr to `err`. *in is the pipe's end to write to. */
static kvp_err spawn(int out, int err, pid_t *pid, FILE **in, struct kvp_error *e)
{
    char *const argv[] = {(char[]){"gnuplot"}, NULL};
    posix_spawn_file_actions_t fa;
    int p[2], rc;

    if (pipe2(p, O_CLOEXEC) != 0)
        return kvp_fail(e, KVP_ESYS, "gnuplot: no pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, p[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&fa, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&fa, err, STDERR_FILENO);
    rc = posix_spawnp(pid, argv[0], &fa, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    close(p[0]);
    if (rc != 0) {
        close(p[1]);
        return no_gnuplot(strerror(rc), e);
    }
    *in = fdopen(p[1], "w");
    if (!*in)
        close(p[1]);
    return KVP_OK;
}

/* The line that says what is wrong: gnuplot first repeats the command after its prompt and points at the
 * place with a caret. */
static void first_complaint(FILE *err, char *buf, size_t n)
{
    char line[240];

    snprintf(buf, n, "it said nothing");
    rewind(err);
    while (fgets(line, sizeof(line), err)) {
        const char *text = line + strspn(line, " \t^\n");

        if (!*text || strncmp(text, "gnuplot>", 8) == 0 || strncmp(text, "multiplot>", 10) == 0)
            continue;
        snprintf(buf, n, "%.*s", (int)strcspn(text, "\n"), text);
        return;
    }
}

static kvp_err converse(const char *program, size_t size, int fd, FILE *err, struct kvp_error *e)
{
    char said[240];
    FILE *in = NULL;
    pid_t pid;
    int status = 0;
    bool sent;

    KVP_TRY(spawn(fd, fileno(err), &pid, &in, e));
    sent = in && fwrite(program, 1, size, in) == size;
    sent = in && fclose(in) == 0 && sent;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    if (sent && status == 0)
        return KVP_OK;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127) /* POSIX lets spawn say it this way too */
        return no_gnuplot("not found", e);
    first_complaint(err, said, sizeof(said));
    return kvp_fail(e, KVP_ESYS, "gnuplot refused the chart: %s", said);
}

kvp_err gp_run(const char *program, size_t size, int fd, struct kvp_error *e)
{
    FILE *err = tmpfile();
    kvp_err rc;

    if (!err)
        return kvp_fail(e, KVP_ESYS, "gnuplot: no temporary file for its messages: %s", strerror(errno));
    rc = converse(program, size, fd, err, e);
    fclose(err);
    return rc;
}
