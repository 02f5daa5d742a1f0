// Walks over a directory and reads all files in it: what many programs do, to see how its system calls come.
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static long long bytes;

static int visit(const char *path, const struct stat *status, int kind, struct FTW *place) {
    (void)status;
    (void)place;
    if (kind != FTW_F)
        return 0;
    int fd = open(path, O_RDONLY);
    char buffer[16384];
    ssize_t count;
    while ((count = read(fd, buffer, sizeof buffer)) > 0)
        bytes += count;
    close(fd);
    return 0;
}

int main(int count, char **arguments) {
    (void)count;
    nftw(arguments[1], visit, 16, FTW_PHYS);
    printf("%lld\n", bytes);
    return 0;
}
