/* sweep.c - points a second of kvp_program_point() on one core: built-in techniques, contexts, prompts and batches that
 * all differ, the best of five. Usage: sweep DEVICE MODEL prints every technique on one model; with several models it
 * prints the slowest pairs. */
#include <kvproof/kvproof.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLOWEST = 5 };

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const struct kvp_error *e)
{
    fprintf(stderr, "sweep: %s\n", e->text);
    exit(2);
}

static uint64_t sum; /* so that no point is left out */

static double once(struct kvp_program *p, uint64_t room, double seconds, struct kvp_error *why)
{
    const double begin = now();
    struct kvp_point x;
    uint64_t n = 0;

    do {
        for (int i = 0; i < 200; i++, n++) {
            const struct kvp_workload w = {.batch = 1 + n % 64, .context = room / 2 + n % (room / 2), .prompt = room / 4 + n % (room / 8)};

            if (kvp_program_point(p, &w, &x, why) != KVP_OK)
                return 0;
            sum += x.memory.peak_bytes;
        }
    } while (now() < begin + seconds);
    return (double)n / (now() - begin);
}

/* The best of five: what else runs on the machine only takes away. */
static double rate(struct kvp_program *p, uint64_t room, double seconds, struct kvp_error *why)
{
    double best = 0;

    for (int i = 0; i < 5 && why->code == KVP_OK; i++) {
        const double r = once(p, room, seconds / 5, why);

        best = r > best ? r : best;
    }
    return why->code == KVP_OK ? best : 0;
}

struct row {
    char text[256];
    double rate;
};

/* A technique on a model; rate 0: it does nothing there, and text says why. */
static struct row measure(const struct kvp_model *m, const struct kvp_device *d, uint32_t technique, double seconds)
{
    const uint64_t room = m->position == KVP_POS_LEARNED && m->max_positions < 4096 ? m->max_positions : 4096;
    const struct kvp_workload w = {.batch = 1, .prompt = room / 4, .generate = room - room / 4, .context = room};
    struct kvp_options o = {0};
    struct kvp_stack s = {0};
    struct kvp_error e = {0};
    struct kvp_program *p = NULL;
    struct row r = {{0}, 0};
    char spec[128];

    if (kvp_technique_example(technique, m, &w, spec, sizeof(spec), &e) != KVP_OK || kvp_stack_add(&s, spec, &e) != KVP_OK)
        die(&e);
    p = kvp_program_new(m, &s, &o, d, &e);
    r.rate = p ? rate(p, room, seconds, &e) : 0;
    snprintf(r.text, sizeof(r.text), "%s%s%.100s", spec, e.text[0] ? ": " : "", e.text);
    kvp_program_free(p);
    return r;
}

static void one_model(const struct kvp_model *m, const struct kvp_device *d, double seconds)
{
    printf("%s on %s, one core\n", m->name, d->name);
    for (uint32_t i = 0; kvp_technique_at(i); i++) {
        const struct row r = measure(m, d, i, seconds);

        printf("%12.0f points/s  %s\n", r.rate, r.text);
    }
}

static int by_rate(const void *a, const void *b)
{
    const double x = ((const struct row *)a)->rate, y = ((const struct row *)b)->rate;

    return (x > y) - (x < y);
}

static void keep_slow(struct row *slow, const struct kvp_model *m, const struct row *r)
{
    if (r->rate <= 0 || r->rate >= slow[SLOWEST - 1].rate)
        return;
    slow[SLOWEST - 1].rate = r->rate;
    snprintf(slow[SLOWEST - 1].text, sizeof(slow->text), "%.80s, %.150s", m->name, r->text);
    qsort(slow, SLOWEST, sizeof(*slow), by_rate);
}

static void load(struct kvp_model *m, const char *name)
{
    struct kvp_error e = {0};

    if (kvp_model_load(m, name, &e) != KVP_OK)
        die(&e);
}

static void slowest_of(char **names, int models, const struct kvp_device *d)
{
    struct row slow[SLOWEST] = {{{0}, 1e30}, {{0}, 1e30}, {{0}, 1e30}, {{0}, 1e30}, {{0}, 1e30}};
    unsigned n = 0;

    for (int k = 0; k < models; k++) {
        struct kvp_model m;

        load(&m, names[k]);
        for (uint32_t i = 0; kvp_technique_at(i); i++) {
            const struct row r = measure(&m, d, i, 0.02);

            keep_slow(slow, &m, &r);
            n += r.rate > 0;
        }
        kvp_model_free(&m);
    }
    printf("the slowest of %u pairs of a model and a technique on %s, one core\n", n, d->name);
    for (int i = 0; i < SLOWEST && slow[i].text[0]; i++)
        printf("%12.0f points/s  %s\n", slow[i].rate, slow[i].text);
}

int main(int argc, char **argv)
{
    struct kvp_error e = {0};
    struct kvp_device d;
    struct kvp_model m;

    if (argc < 3) {
        fprintf(stderr, "usage: sweep DEVICE MODEL...\n");
        return 2;
    }
    if (kvp_device_load(&d, argv[1], &e) != KVP_OK)
        die(&e);
    if (argc > 3) {
        slowest_of(argv + 2, argc - 2, &d);
        return 0;
    }
    load(&m, argv[2]);
    one_model(&m, &d, 0.5);
    kvp_model_free(&m);
    return 0;
}
