/* describe.c - a checkpoint against the model that its config describes: the same number of elements, or what
 * differs first.
 *
 * Names of buffers and of stored copies: the modules that register them in huggingface/transformers (inv_freq,
 * rotary_emb, GPT-2's and GPT-NeoX's causal masks, position_ids, BART's final_logits_bias) and gguf-py's
 * constants.py (rope_freqs, rope_factors_*, attn_rot_embd). Names only say what to leave out, what belongs to a tower
 * or to the extra prediction layers, and where a difference is; sizes are the config's. */
#include "calc/checkpoint.h"

#include "calc/num.h"
#include "calc/weights.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum group { TEXT, TOWER, MTP, GROUPS };

static bool ends_with(const char *s, const char *end)
{
    const size_t n = strlen(s), k = strlen(end);

    return n >= k && strcmp(s + n - k, end) == 0;
}

static bool any(const char *name, const char *const *list, bool (*hit)(const char *name, const char *word))
{
    for (; *list; list++)
        if (hit(name, *list))
            return true;
    return false;
}

static bool holds(const char *s, const char *word)
{
    return strstr(s, word) != NULL;
}

/* ---- what is no weight ------------------------------------------------------------------------------- */

static bool is_buffer(const struct ckpt_tensor *t)
{
    static const char *const ends[] = {"inv_freq",           "masked_bias",              "position_ids",
                                       "rope_freqs.weight",  "rope_factors_long.weight", "rope_factors_short.weight",
                                       "attn_rot_embd.weight", "final_logits_bias",      "embed_positions.weights", NULL};
    static const char *const masks[] = {".attn.bias", ".attention.bias", NULL};

    return any(t->name, ends, ends_with) || holds(t->name, "rotary_emb.") || (t->dims == 4 && any(t->name, masks, ends_with));
}

static bool is_head(const char *name)
{
    static const char *const heads[] = {"lm_head.weight", "embed_out.weight", "output_layer.weight", NULL};

    return any(name, heads, ends_with) || strcmp(name, "output.weight") == 0;
}

/* A copy of what another tensor holds: a tied head, T5's and BART's two more embeddings. */
static bool is_copy(const struct kvp_model *m, const struct checkpoint *c, const struct ckpt_tensor *t)
{
    static const char *const twins[] = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight", NULL};

    if (m->tied && is_head(t->name))
        return true;
    return any(t->name, twins, ends_with) && (ckpt_find(c, "shared.weight") || ckpt_find(c, "model.shared.weight"));
}

/* The N of "...layers.N...."; false where there is none, or where it is a tower's or an encoder's. */
static bool layer_of(const char *name, uint64_t *out)
{
    static const char *const lists[] = {"layers.", "h.", "blocks.", "blk.", "layer.", "block.", NULL};
    static const char *const others[] = {"vision", "visual", "audio", "image", "speech", "encoder", "tower", "mtp", NULL};

    for (const char *at = name; at; at = strchr(at, '.'), at = at ? at + 1 : NULL)
        for (const char *const *l = lists; *l; l++) {
            const size_t n = strlen(*l);
            char before[256], *end;

            if (strncmp(at, *l, n) != 0 || at[n] < '0' || at[n] > '9')
                continue;
            snprintf(before, sizeof(before), "%.*s", (int)(at - name), name);
            *out = strtoull(at + n, &end, 10);
            return *end == '.' && !any(before, others, holds);
        }
    return false;
}

static enum group group_of(const struct kvp_model *m, const char *name)
{
    static const char *const tower[] = {"vision",       "visual",    "audio",     "image",     "speech", "projector",
                                        "mlp1.",        "resampler", "connector", "patch_embed", "siglip", NULL};
    uint64_t layer;

    if (m->towers && any(name, tower, holds))
        return TOWER;
    if (m->mtp_layers && (holds(name, "mtp.") || (layer_of(name, &layer) && layer >= m->layers)))
        return MTP;
    return TEXT;
}

/* ---- sums -------------------------------------------------------------------------------------------- */

struct sums {
    uint64_t bytes[GROUPS], elements[GROUPS], total;
    bool plain, head, over;
};

static bool counts(const struct kvp_model *m, const struct checkpoint *c, const struct ckpt_tensor *t)
{
    return !is_buffer(t) && !is_copy(m, c, t);
}

static struct sums add_up(const struct kvp_model *m, const struct checkpoint *c)
{
    struct sums s = {.plain = m->quant.format == KVP_WF_PLAIN};

    for (size_t i = 0; i < c->n; i++) {
        const struct ckpt_tensor *t = &c->v[i];
        const enum group g = group_of(m, t->name);

        if (!counts(m, c, t))
            continue;
        s.bytes[g] = num_add(&s.over, s.bytes[g], t->bytes);
        s.elements[g] = num_add(&s.over, s.elements[g], t->elements);
        s.total = num_add(&s.over, s.total, t->elements);
        s.plain = s.plain && t->plain;
        s.head = s.head || is_head(t->name);
    }
    return s;
}

/* ---- what differs ------------------------------------------------------------------------------------ */

static uint32_t embed_width(const struct kvp_model *m)
{
    return m->embed_width ? m->embed_width : m->width;
}

static kvp_err differ_embedding(const struct kvp_model *m, const struct checkpoint *c, const char *origin, struct kvp_error *e)
{
    static const char *const names[] = {"embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight",
                                        "tok_embeddings.weight", "token_embd.weight", "shared.weight", NULL};

    for (size_t i = 0; i < c->n; i++) {
        const struct ckpt_tensor *t = &c->v[i];

        if (t->dims != 2 || !any(t->name, names, ends_with) || group_of(m, t->name) != TEXT)
            continue;
        if (t->shape[0] != m->vocab)
            return kvp_fail(e, KVP_EINPUT, "%s: %.80s has %" PRIu64 " rows, and the config says a vocabulary of %" PRIu32, origin, t->name,
                            t->shape[0], m->vocab);
        if (t->shape[1] != embed_width(m))
            return kvp_fail(e, KVP_EINPUT, "%s: %.80s has %" PRIu64 " columns, and the config says a width of %" PRIu32, origin, t->name,
                            t->shape[1], embed_width(m));
    }
    return KVP_OK;
}

/* Elements of a layer of each class, by the config. */
struct by_class {
    uint64_t *elements;
    uint32_t n;
    bool over;
};

static void add_class(struct walk *w, const struct weight *x)
{
    struct by_class *b = w->to;

    if (x->cls < b->n)
        b->elements[x->cls] = num_add(&b->over, b->elements[x->cls], NUM_PROD(&b->over, x->count, x->rows, x->cols ? x->cols : 1));
}

static kvp_err differ_layer(const struct kvp_model *m, const uint64_t *files, const uint64_t *classes, const char *origin, struct kvp_error *e)
{
    for (uint32_t l = 0; l < m->layers; l++) {
        const uint32_t cls = m->class_of[l];

        if (classes[cls] % m->cls[cls].count == 0 && files[l] != classes[cls] / m->cls[cls].count)
            return kvp_fail(e, KVP_EINPUT, "%s: layer %" PRIu32 " has %" PRIu64 " elements by its tensors and %" PRIu64 " by the config", origin, l,
                            files[l], classes[cls] / m->cls[cls].count);
    }
    return KVP_OK;
}

static kvp_err differ_layers(const struct kvp_model *m, const struct checkpoint *c, const char *origin, struct kvp_error *e)
{
    struct by_class b = {calloc(m->classes + 1, sizeof(uint64_t)), m->classes, false};
    uint64_t *files = calloc(m->layers, sizeof(*files)), layer, most = 0;
    kvp_err rc = KVP_OK;

    if (!b.elements || !files)
        rc = kvp_fail(e, KVP_ENOMEM, "out of memory for %" PRIu32 " layers", m->layers);
    for (size_t i = 0; rc == KVP_OK && i < c->n; i++) {
        if (!counts(m, c, &c->v[i]) || group_of(m, c->v[i].name) != TEXT || !layer_of(c->v[i].name, &layer))
            continue;
        most = num_max(most, layer + 1);
        if (layer < m->layers)
            files[layer] = num_add(&b.over, files[layer], c->v[i].elements);
    }
    if (rc == KVP_OK && most && most != m->layers)
        rc = kvp_fail(e, KVP_EINPUT, "%s: its tensors' names count %" PRIu64 " layers, and the config says %" PRIu32, origin, most, m->layers);
    if (rc == KVP_OK && most) {
        weights_each(&(struct walk){.m = m, .each = add_class, .to = &b});
        rc = differ_layer(m, files, b.elements, origin, e);
    }
    free(b.elements);
    free(files);
    return rc;
}

static kvp_err differ(const struct kvp_model *m, const struct checkpoint *c, uint64_t found, uint64_t want, const char *origin, struct kvp_error *e)
{
    KVP_TRY(differ_embedding(m, c, origin, e));
    KVP_TRY(differ_layers(m, c, origin, e));
    return kvp_fail(e, KVP_EINPUT, "%s: its weights have %" PRIu64 " elements, and the config says %" PRIu64 " (a config.json itself is read without this check)", origin, found,
                    want);
}

/* ---- all of it --------------------------------------------------------------------------------------- */

static void take_groups(struct kvp_model *m, const struct sums *s)
{
    m->file_bytes = s->bytes[TEXT];
    m->file_elements = s->elements[TEXT];
    m->file_tower_bytes = s->bytes[TOWER];
    m->file_mtp_bytes = s->bytes[MTP];
}

/* The files hold a head or they do not, whatever the config's class is (a backbone saved alone). */
static void take_head(struct kvp_model *m, const struct sums *s)
{
    const uint64_t head = (m->head_rows ? (uint64_t)m->head_rows : m->vocab) * embed_width(m);
    bool over = false;
    const uint64_t ours = weight_parameters(&over, m, false, false, NULL);

    if (m->tied || m->head_bias)
        return;
    if (!s->head && !m->no_head && ours == num_add(&over, s->elements[TEXT], head))
        m->no_head = m->no_logits = true;
    else if (s->head && m->no_head && num_add(&over, ours, head) == s->elements[TEXT])
        m->no_head = m->no_logits = false;
}

/* What a step reads is worked out from shapes, so it needs one format for the matrices of a mixed file. */
static void take_format(struct kvp_model *m, const struct checkpoint *c)
{
    uint64_t of[KVP_FORMATS] = {0}, plain = 0;
    enum kvp_format most = KVP_F32;
    bool over = false;

    for (size_t i = 0; i < c->n; i++) {
        uint64_t *sum = c->v[i].plain ? &plain : &of[c->v[i].format];

        *sum = num_add(&over, *sum, c->v[i].elements);
    }
    for (int f = KVP_F32 + 1; f < KVP_FORMATS; f++)
        if (of[f] > of[most] || most == KVP_F32)
            most = (enum kvp_format)f;
    if (of[most] <= plain)
        return;
    m->quant = (struct kvp_quant){.format = KVP_WF_GGML, .ggml = most, .embed = true, .head = true, .method = "gguf"};
}

kvp_err ckpt_describe(struct kvp_model *m, const struct checkpoint *c, const char *origin, struct kvp_error *e)
{
    struct sums s = add_up(m, c);
    uint64_t want;
    bool over = false;

    if (s.over)
        return kvp_fail(e, KVP_EINPUT, "%s: its bytes do not fit in 63 bits", origin);
    if (!s.plain && !c->gguf) {
        take_groups(m, &s);
        m->file_elements = 0;
        return KVP_OK;
    }
    if (c->gguf)
        take_format(m, c);
    take_head(m, &s);
    want = weight_parameters(&over, m, false, false, NULL);
    if (over)
        return kvp_fail(e, KVP_EINPUT, "%s: the config's sizes do not fit in 63 bits", origin);
    if (s.elements[TEXT] == want) {
        take_groups(m, &s);
        return KVP_OK;
    }
    for (int with = 0; with < 4; with++) /* names that say nothing of towers: the sum is right, its parts are unknown */
        if (s.total == weight_parameters(&over, m, with & 1, with & 2, NULL))
            return KVP_OK;
    return differ(m, c, s.elements[TEXT], want, origin, e);
}
