/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * refused [SIGNAL]: memory calls that fail, one after the other, each for another reason, with arguments of every sign and
 * width; then the end, by a signal if one is named. No libc function of these names stands between: syscall(2) only.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

enum { PAGE = 4096 };
#define RW (PROT_READ | PROT_WRITE)
#define ANON (MAP_PRIVATE | MAP_ANONYMOUS)

static int wrong;

static void fails(int error, long ret)
{
    if (ret != -1 || errno != error)
        wrong++;
}

int main(int argc, char **argv)
{
    struct rlimit data = {64 << 20, RLIM_INFINITY};
    long top = syscall(SYS_brk, 0);
    long p = syscall(SYS_mmap, 0, 4 * PAGE, RW, ANON, -1, 0);

    syscall(SYS_munmap, p + PAGE, PAGE);
    fails(EEXIST, syscall(SYS_mmap, p, PAGE, RW, ANON | MAP_FIXED_NOREPLACE, -1, 0));
    fails(EINVAL, syscall(SYS_mmap, 0, 0L, RW, ANON, -1, 0L));
    fails(EINVAL, syscall(SYS_mmap, p + 1, PAGE, RW, ANON | MAP_FIXED, -1, 0L));
    fails(ENOMEM, syscall(SYS_mmap, 0, 1L << 62, RW, ANON, -1, 0L));
    fails(ENOMEM, syscall(SYS_mmap, 0, -1L, RW, ANON, -1, 0L));
    fails(EBADF, syscall(SYS_mmap, 0, PAGE, PROT_READ, MAP_PRIVATE, 1000, 0L));
    fails(EINVAL, syscall(SYS_mmap, 0, PAGE, PROT_READ, MAP_ANONYMOUS, -1, 0L));
    fails(EINVAL, syscall(SYS_mmap, 0, PAGE, PROT_READ, ANON, -1, 1L));
    fails(EINVAL, syscall(SYS_munmap, p + 1, PAGE));
    fails(EINVAL, syscall(SYS_munmap, p, 0L));
    fails(EINVAL, syscall(SYS_munmap, -4096L, PAGE));
    fails(ENOMEM, syscall(SYS_mprotect, p, 4 * PAGE, PROT_READ)); /* as far as the hole */
    fails(EINVAL, syscall(SYS_mprotect, p, PAGE, 0x7000));
    fails(EINVAL, syscall(SYS_mprotect, p + 7, PAGE, PROT_READ));
    fails(ENOMEM, syscall(SYS_madvise, p, 4 * PAGE, MADV_DONTNEED));
    fails(EINVAL, syscall(SYS_madvise, p, PAGE, 9999));
    fails(EFAULT, syscall(SYS_mremap, p + PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE, 0L));
    fails(EINVAL, syscall(SYS_mremap, p, PAGE, 0L, MREMAP_MAYMOVE, 0L));
    fails(EINVAL, syscall(SYS_mremap, p, PAGE, PAGE, MREMAP_FIXED, p + 8 * PAGE));
    fails(ENOMEM, syscall(SYS_mlock, p, 4 * PAGE));
    fails(EINVAL, syscall(SYS_mlock2, p, PAGE, 64));
    fails(EINVAL, syscall(SYS_mlockall, 0));
    fails(EINVAL, syscall(SYS_shmat, 1 << 30, 0L, 0));
    fails(EINVAL, syscall(SYS_shmdt, p + 3));
    fails(EINVAL, syscall(SYS_pkey_mprotect, p, PAGE, PROT_READ, 77));

    setrlimit(RLIMIT_DATA, &data);
    if (syscall(SYS_brk, top + (1L << 30)) != top) /* refused: the break as it was */
        wrong++;
    fails(ENOMEM, syscall(SYS_mmap, 0, 1L << 30, RW, ANON, -1, 0L));
    if (argc > 1)
        kill(getpid(), atoi(argv[1]));
    return wrong;
}
