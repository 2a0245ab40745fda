/* fuzz_checkpoint.c - any bytes as the beginning of a checkpoint file: refused in one line, asked to go on, or
 * tensors that lie inside the file and do not overlap; a GGUF file goes on to be a model, or is refused. */
#include "tests/fuzz/fuzz.h"

#include "calc/checkpoint.h"

static void check_tensors(const struct checkpoint *c, uint64_t file_bytes)
{
    uint64_t sum = 0;

    for (size_t i = 0; i < c->n; i++) {
        FUZZ_HOLDS(c->v[i].dims <= CKPT_DIMS);
        FUZZ_HOLDS(c->v[i].bytes <= file_bytes && c->v[i].from <= file_bytes - c->v[i].bytes);
        sum += c->v[i].bytes;
        FUZZ_HOLDS(sum <= file_bytes);
    }
}

static void check_model(struct checkpoint *c)
{
    struct kvp_error e = {0};
    struct kvp_model m = {0};
    kvp_err rc = ckpt_sort(c, "fuzz", &e);

    if (rc == KVP_OK)
        rc = ckpt_gguf_model(&m, c, "fuzz", &e);
    if (rc == KVP_OK) {
        FUZZ_HOLDS(m.cls && m.classes && m.file_bytes);
    } else {
        fuzz_check_error(rc, &e);
    }
    kvp_model_free(&m);
}

static void one(const uint8_t *data, size_t size, uint64_t file_bytes)
{
    struct checkpoint c = {0};
    struct kvp_error e = {0};
    size_t need = 0;
    const kvp_err rc = ckpt_parse(&c, data, size, file_bytes, "fuzz", &need, &e);

    if (rc == KVP_NO) {
        FUZZ_HOLDS(need > size && need <= file_bytes && e.code == KVP_OK && !c.n);
    } else if (rc == KVP_OK) {
        check_tensors(&c, file_bytes);
        check_model(&c);
    } else {
        fuzz_check_error(rc, &e);
    }
    ckpt_free(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    one(data, size, size);
    one(data, size, (uint64_t)size + (1 << 20));
    return 0;
}
