#include "kernels/backend.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

#define PLUGIN "kvproof-cuda.so"

/* The folder of the running binary, without the last slash. */
static kvp_err binary_folder(char *out, size_t size, struct kvp_error *e)
{
    ssize_t n = readlink("/proc/self/exe", out, size - 1);

    if (n <= 0)
        return kvp_fail(e, KVP_ESYS, "/proc/self/exe cannot be read, so %s cannot be looked for", PLUGIN);
    out[n] = '\0';
    *strrchr(out, '/') = '\0';
    return KVP_OK;
}

/* $KVPROOF_CUDA decides alone when it is set; otherwise the first place that has the file. */
static kvp_err plugin_path(char *out, size_t size, struct kvp_error *e)
{
    static const char *const places[] = {"", "/../lib/kvproof"};
    const char *env = getenv("KVPROOF_CUDA");
    char folder[3072];

    if (env && *env) {
        if (access(env, R_OK) != 0)
            return kvp_fail(e, KVP_ENOTSUP, "device cuda: KVPROOF_CUDA names %s, which cannot be read", env);
        snprintf(out, size, "%s", env);
        return KVP_OK;
    }
    KVP_TRY(binary_folder(folder, sizeof(folder), e));
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        snprintf(out, size, "%s%s/%s", folder, places[i], PLUGIN);
        if (access(out, R_OK) == 0)
            return KVP_OK;
    }
    return kvp_fail(e, KVP_ENOTSUP,
                    "device cuda: %s is neither in %s nor in %s/../lib/kvproof (KVPROOF_CUDA can name it)", PLUGIN,
                    folder, folder);
}

/* An object that was opened stays open: its tables and the driver's threads live as long as we do. */
static kvp_err find_cuda(const struct kb_backend **out, struct kvp_error *e)
{
    static const struct kb_backend *found;
    const struct kb_backend *(*entry)(void), *b;
    char path[4096];
    void *so;

    if ((*out = found))
        return KVP_OK;
    KVP_TRY(plugin_path(path, sizeof(path), e));
    if (!(so = dlopen(path, RTLD_NOW | RTLD_LOCAL)))
        return kvp_fail(e, KVP_ENOTSUP, "device cuda: %s does not open: %s", path, dlerror());
    *(void **)&entry = dlsym(so, "kb_plugin");
    b = entry ? entry() : NULL;
    if (!b) {
        dlclose(so);
        return kvp_fail(e, KVP_ENOTSUP, "device cuda: %s exports no backend (kb_plugin)", path);
    }
    if (b->abi_version != KB_ABI_VERSION || b->size != sizeof(*b)) {
        kvp_fail(e, KVP_ENOTSUP, "device cuda: %s has interface %u of %u bytes, expected %u of %u bytes", path,
                 b->abi_version, b->size, KB_ABI_VERSION, (unsigned)sizeof(*b));
        dlclose(so);
        return KVP_ENOTSUP;
    }
    *out = found = b;
    return KVP_OK;
}

kvp_err kb_find(const struct kb_backend **out, const char *name, struct kvp_error *e)
{
    static const struct kb_backend *const built_in[] = {&kb_cpu, &kb_ref};

    for (size_t i = 0; i < sizeof(built_in) / sizeof(built_in[0]); i++)
        if (strcmp(name, built_in[i]->name) == 0) {
            *out = built_in[i];
            return KVP_OK;
        }
    if (strcmp(name, "cuda") == 0)
        return find_cuda(out, e);
    return kvp_fail(e, KVP_EINPUT, "device %s is not known: expected cpu, ref or cuda", name);
}
