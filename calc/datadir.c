/* datadir.c - where data/ is. */
#include <kvproof/kvproof.h>

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char beside[PATH_MAX]; /* written once, before anyone reads it */
static pthread_once_t looked = PTHREAD_ONCE_INIT;

/* `folder`, resolved, into beside[] if it holds models/. */
static bool take(const char *folder)
{
    char models[PATH_MAX + 8];
    struct stat st;

    if (!realpath(folder, beside))
        return false;
    snprintf(models, sizeof(models), "%s/models", beside);
    return stat(models, &st) == 0 && S_ISDIR(st.st_mode);
}

static void look(void)
{
    static const char *const places[] = {"/../share/kvproof", "/../../data"};
    char exe[PATH_MAX], folder[PATH_MAX + 32];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    char *slash;

    exe[n > 0 ? n : 0] = 0;
    slash = strrchr(exe, '/');
    if (slash) {
        *slash = 0;
        for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
            snprintf(folder, sizeof(folder), "%s%s", exe, places[i]);
            if (take(folder))
                return;
        }
    }
    snprintf(beside, sizeof(beside), "%s", KVP_DATADIR);
}

const char *kvp_data_dir(void)
{
    const char *given = getenv("KVPROOF_DATA");

    if (given && *given)
        return given;
    pthread_once(&looked, look);
    return beside;
}
