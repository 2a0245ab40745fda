/* cli.c - the command line as a user waits for it, each figure beside its target: rows a second that `kvproof sweep`
 * writes as CSV to a file, with and without a device, dense and for the slowest technique; and wall time and memory of
 * `kvproof estimate` from start to exit. Rows are held against one core's time, the kernel's part of it included (the
 * command has one thread); beside it stands the wall clock, which also counts what else runs on the machine.
 * Usage: cli KVPROOF MODEL DEVICE */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RUNS = 21, ROUNDS = 3, ROWS = 524288, PROBE_ROWS = 8192, MOST_ARGS = 24, MOST_TECHNIQUES = 64 };

static const char *kvproof, *model, *device;
static char csv[] = "/tmp/kvproof-bench-XXXXXX";

struct run {
    double wall_s, cpu_s, rss_mib;
    int status;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    perror(what);
    exit(3);
}

/* In the child: nothing on the terminal. */
static void start(char *const *argv)
{
    const int null = open("/dev/null", O_WRONLY);

    if (null < 0 || dup2(null, STDOUT_FILENO) < 0 || dup2(null, STDERR_FILENO) < 0)
        _exit(126);
    execv(argv[0], argv);
    _exit(127);
}

static struct run run(char *const *argv)
{
    struct run r = {0};
    struct rusage u;
    const double begin = now();
    const pid_t child = fork();

    if (child < 0)
        die("fork");
    if (child == 0)
        start(argv);
    if (wait4(child, &r.status, 0, &u) != child)
        die("wait4");
    r.wall_s = now() - begin;
    r.cpu_s = (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
    r.rss_mib = (double)u.ru_maxrss / 1024; /* Linux counts in KiB */
    return r;
}

/* ---- sweeps --------------------------------------------------------------------------------------- */

/* Lines after the first whose last cell, the error, is empty. */
static uint64_t rows_with_numbers(void)
{
    static char buf[1 << 16];
    FILE *f = fopen(csv, "r");
    uint64_t n = 0;
    char before = ',';
    size_t got;

    if (!f)
        die(csv);
    while ((got = fread(buf, 1, sizeof(buf), f)) > 0)
        for (size_t i = 0; i < got; i++) {
            n += buf[i] == '\n' && before == ',';
            before = buf[i];
        }
    if (ferror(f))
        die(csv);
    fclose(f);
    return n;
}

struct sweep {
    const char *technique; /* or NULL */
    bool timed;            /* on the device */
    unsigned rows;
};

static struct run sweep(const struct sweep *s)
{
    char contexts[32];
    const char *argv[MOST_ARGS] = {kvproof, "sweep", model, "-c", contexts, "-b", "1-64", "-o", "csv", "--out", csv};
    int n = 11;

    snprintf(contexts, sizeof(contexts), "2048-%u", 2047 + s->rows / 64);
    if (s->technique) {
        argv[n++] = "-t";
        argv[n++] = s->technique;
    }
    if (s->timed) {
        argv[n++] = "-d";
        argv[n++] = device;
    }
    return run((char *const *)argv);
}

struct rate {
    double cpu, wall; /* rows a second; 0: refused */
};

static double larger(double a, double b)
{
    return a > b ? a : b;
}

/* The best of a few: what else runs on the machine only takes away. */
static struct rate rate(const struct sweep *s, int rounds)
{
    struct rate best = {0};

    for (int i = 0; i < rounds; i++) {
        const struct run r = sweep(s);

        if (r.status != 0 || rows_with_numbers() != s->rows)
            return (struct rate){0};
        best.cpu = larger(best.cpu, (double)s->rows / r.cpu_s);
        best.wall = larger(best.wall, (double)s->rows / r.wall_s);
    }
    return best;
}

static void row(double value, const char *unit, const char *target, bool met, const char *what, const char *aside)
{
    printf("%12.*f %-7s target %-20s %-7s %s", value < 1000 ? 2 : 0, value, unit, target, met ? "met" : "MISSED", what);
    printf(" %s\n", aside);
}

/* Names of `kvproof list techniques`, from its CSV. */
static int techniques(char name[][64])
{
    char command[4096], line[4096];
    FILE *f;
    int n = -1; /* the head */

    snprintf(command, sizeof(command), "'%s' list techniques -o csv", kvproof);
    f = popen(command, "r");
    if (!f)
        die("popen");
    while (fgets(line, sizeof(line), f) && n < MOST_TECHNIQUES) {
        line[strcspn(line, ",\n")] = '\0';
        if (n >= 0)
            snprintf(name[n], 64, "%.63s", line);
        n++;
    }
    if (pclose(f) != 0)
        die(command);
    return n;
}

/* The technique with fewest rows a second on the device, by short sweeps. */
static const char *slowest(void)
{
    static char name[MOST_TECHNIQUES][64];
    const int n = techniques(name);
    double least = 1e30;
    int at = 0;

    for (int i = 0; i < n; i++) {
        const struct rate r = rate(&(struct sweep){name[i], true, PROBE_ROWS}, 2);

        if (r.cpu > 0 && r.cpu < least) {
            least = r.cpu;
            at = i;
        }
    }
    return name[at];
}

static void sweeps(void)
{
    const char *slow = slowest();
    char what[192], aside[64];

    printf("kvproof sweep %s, %d rows of CSV to a file, one core\n", model, ROWS);
    for (int i = 0; i < 4; i++) {
        const struct sweep s = {i / 2 ? slow : NULL, i % 2, ROWS};
        const struct rate r = rate(&s, ROUNDS);

        snprintf(what, sizeof(what), "%s%s%s%s", i / 2 ? "the slowest technique, " : "", i / 2 ? slow : "dense",
                 s.timed ? ", times on " : ", bytes and FLOPs only", s.timed ? device : "");
        snprintf(aside, sizeof(aside), "(%.0f by the wall clock)", r.wall);
        row(r.cpu, "rows/s", i / 2 ? "100000" : "500000", r.cpu >= (i / 2 ? 100000 : 500000), what, aside);
    }
}

/* ---- one estimate --------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void estimate(void)
{
    const char *argv[] = {kvproof, "estimate", model, "-d", device, NULL};
    double wall[RUNS], cpu[RUNS], rss = 0;
    char aside[64];

    for (int i = 0; i < RUNS; i++) {
        const struct run r = run((char *const *)argv);

        if (!WIFEXITED(r.status) || WEXITSTATUS(r.status) > 1) {
            fprintf(stderr, "cli: kvproof estimate %s -d %s ended with status %d\n", model, device, r.status);
            exit(3);
        }
        wall[i] = r.wall_s * 1e3;
        cpu[i] = r.cpu_s * 1e3;
        rss = larger(rss, r.rss_mib);
    }
    qsort(wall, RUNS, sizeof(*wall), by_value);
    qsort(cpu, RUNS, sizeof(*cpu), by_value);
    snprintf(aside, sizeof(aside), "(%.2f ms of processor time)", cpu[RUNS / 2]);
    printf("kvproof estimate %s -d %s, from start to exit, %d runs\n", model, device, RUNS);
    row(wall[RUNS / 2], "ms", "under 20", wall[RUNS / 2] < 20, "median wall time", aside);
    row(rss, "MiB", "under 30", rss < 30, "largest resident set", "");
}

int main(int argc, char **argv)
{
    int fd;

    if (argc != 4) {
        fprintf(stderr, "usage: cli KVPROOF MODEL DEVICE\n");
        return 2;
    }
    kvproof = argv[1];
    model = argv[2];
    device = argv[3];
    fd = mkstemp(csv);
    if (fd < 0)
        die(csv);
    close(fd);
    sweeps();
    estimate();
    unlink(csv);
    return 0;
}
