/* replay.c DIR... - run a fuzz target over every file of the folders, each in a child of its own, without
 * libFuzzer. The last line is "N passed, M failed"; exit 0 when none failed and at least one ran. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <limits.h>
#include <sys/wait.h>
#include <unistd.h>

static int passed, failed;

/* The whole file in memory of its exact size, so that a read past its end is seen. */
static uint8_t *read_all(const char *path, size_t *size)
{
    FILE *fp = fopen(path, "rb");
    long n = -1;
    uint8_t *data = NULL;

    if (fp && fseek(fp, 0, SEEK_END) == 0)
        n = ftell(fp);
    if (n >= 0 && fseek(fp, 0, SEEK_SET) == 0)
        data = malloc(n ? (size_t)n : 1);
    *size = data ? fread(data, 1, (size_t)n, fp) : 0;
    if (fp)
        fclose(fp);
    if (data && *size != (size_t)n) {
        free(data);
        return NULL;
    }
    return data;
}

static int run(const char *path)
{
    size_t size;
    uint8_t *data = read_all(path, &size);

    if (!data)
        return 1;
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 0;
}

static void replay(const char *path)
{
    int status = 1;
    pid_t child = fork();

    if (child == 0)
        exit(run(path));
    if (child > 0 && waitpid(child, &status, 0) == child && status == 0) {
        passed++;
        return;
    }
    failed++;
    printf("FAIL: %s\n", path);
}

static int replay_folder(const char *folder)
{
    struct dirent **files;
    int n = scandir(folder, &files, NULL, alphasort);

    if (n < 0) {
        perror(folder);
        return 1;
    }
    for (int i = 0; i < n; i++) {
        char path[PATH_MAX];

        snprintf(path, sizeof(path), "%s/%s", folder, files[i]->d_name);
        if (files[i]->d_name[0] != '.')
            replay(path);
        free(files[i]);
    }
    free(files);
    return 0;
}

int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        failed += replay_folder(argv[i]);
    printf("%d passed, %d failed\n", passed, failed);
    return failed || !passed;
}
