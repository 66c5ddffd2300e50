"""A disk with bad sectors: a small library, loaded before all others, that lets calls on one file fail with EIO."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CC = shutil.which("cc")

# The file that BAD_DISK names holds "OPERATION FIRST PATH": what fails, from which byte on, of which file.
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int bad(const char *operation, int fd, long long end)
{
    char wanted[16], path[4096], link[64], opened[4096];
    long long first;
    const char *name = getenv("BAD_DISK");
    FILE *file = name ? fopen(name, "r") : NULL;
    if (!file)
        return 0;
    int fields = fscanf(file, "%15s %lld %4095[^\n]", wanted, &first, path);
    fclose(file);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, opened, sizeof opened - 1);
    if (fields != 3 || length < 0)
        return 0;
    opened[length] = 0;
    return !strcmp(wanted, operation) && !strcmp(path, opened) && end > first;
}

static long long total(const struct iovec *pieces, int n)
{
    long long sum = 0;
    for (int i = 0; i < n; i++)
        sum += pieces[i].iov_len;
    return sum;
}

#define CALL(kind, name, operation, end, declared, passed) \
    kind name declared                                     \
    {                                                      \
        kind(*real) declared = dlsym(RTLD_NEXT, #name);    \
        if (bad(operation, fd, end)) {                     \
            errno = EIO;                                   \
            return -1;                                     \
        }                                                  \
        return real passed;                                \
    }

CALL(ssize_t, pread, "read", at + (long long)n, (int fd, void *to, size_t n, off_t at), (fd, to, n, at))
CALL(ssize_t, pread64, "read", at + (long long)n, (int fd, void *to, size_t n, off64_t at), (fd, to, n, at))
CALL(ssize_t, preadv, "read", at + total(v, n), (int fd, const struct iovec *v, int n, off_t at), (fd, v, n, at))
CALL(ssize_t, preadv64, "read", at + total(v, n), (int fd, const struct iovec *v, int n, off64_t at), (fd, v, n, at))
CALL(ssize_t, preadv2, "read", at + total(v, n), (int fd, const struct iovec *v, int n, off_t at, int f), (fd, v, n, at, f))
CALL(ssize_t, preadv64v2, "read", at + total(v, n), (int fd, const struct iovec *v, int n, off64_t at, int f), (fd, v, n, at, f))
CALL(ssize_t, pwrite, "write", at + (long long)n, (int fd, const void *from, size_t n, off_t at), (fd, from, n, at))
CALL(ssize_t, pwrite64, "write", at + (long long)n, (int fd, const void *from, size_t n, off64_t at), (fd, from, n, at))
CALL(int, fsync, "sync", 1, (int fd), (fd))
CALL(int, fdatasync, "sync", 1, (int fd), (fd))
"""  # noqa: E501


@dataclass(frozen=True)
class BadDisk:
    """The library, built in `folder`. Programs started with `environ` have the disk; others a good one."""

    folder: Path

    def __post_init__(self) -> None:
        assert CC
        library = self.folder / "bad_disk.so"
        build = [CC, "-x", "c", "-shared", "-fPIC", "-O1", "-o", str(library), "-", "-ldl"]
        subprocess.run(build, input=_SOURCE, text=True, check=True)

    @property
    def environ(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self.folder / "bad_disk.so"), "BAD_DISK": str(self.folder / "bad")}

    def spoil(self, operation: str, path: Path, first: int = 0) -> None:
        """From now on "read", "write" or "sync" fails on a file, where it touches byte `first` or one behind it."""
        new = self.folder / "bad.new"
        new.write_text(f"{operation} {first} {path}\n")
        new.replace(self.folder / "bad")

    def mend(self) -> None:
        """All works again."""
        (self.folder / "bad").unlink()
