/* fuzz_spec.c - any bytes as a technique: refused in one line, or a stack whose text means itself. The
 * input is specs separated by line breaks, added one after the other, as -t may be repeated. */
#include "tests/fuzz/fuzz.h"

#include <kvproof/spec.h>

enum { TEXT = 1024 };

static void check_axes(const struct kvp_stack *s)
{
    for (uint32_t i = 1; i < s->n; i++)
        FUZZ_HOLDS(s->spec[i - 1].axis < s->spec[i].axis);
}

/* Add the parts of `text` that `sep` separates; false when one is refused. */
static bool add_parts(struct kvp_stack *s, char *text, const char *sep, bool must)
{
    char *rest = text, *part;

    while ((part = strsep(&rest, sep))) {
        struct kvp_error e = {0};
        struct kvp_stack before = *s;
        kvp_err rc = kvp_stack_add(s, part, &e);

        check_axes(s);
        if (rc == KVP_OK)
            continue;
        fuzz_check_error(rc, &e);
        FUZZ_HOLDS(!must);
        FUZZ_HOLDS(s->n == before.n);
        return false;
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kvp_stack s = {0}, again = {0};
    char *input = malloc(size + 1), text[TEXT], copy[TEXT], short_text[8];

    if (!input)
        return 0;
    memcpy(input, data, size);
    input[size] = 0;
    add_parts(&s, input, "\n", false);
    free(input);

    kvp_stack_text(&s, text, sizeof(text));
    FUZZ_HOLDS(text[0] && strlen(text) + 1 < sizeof(text));
    strcpy(copy, text);
    add_parts(&again, copy, " ", true);
    kvp_stack_text(&again, copy, sizeof(copy));
    FUZZ_HOLDS(strcmp(text, copy) == 0);
    FUZZ_HOLDS(again.n == s.n);

    kvp_stack_text(&s, short_text, sizeof(short_text));
    FUZZ_HOLDS(strncmp(short_text, text, strlen(short_text)) == 0);
    FUZZ_HOLDS(strlen(short_text) ==
               (strlen(text) < sizeof(short_text) ? strlen(text) : sizeof(short_text) - 1));
    return 0;
}
