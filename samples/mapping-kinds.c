/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mapping-kinds: the four kinds of mappings, and what can be done to a part of one.
 *
 * Private or shared x anonymous or file. Private anonymous is plain memory (what malloc asks for); shared anonymous
 * survives fork as one memory and is a tmpfs file to the kernel ("/dev/zero (deleted)"); a private file mapping
 * copies on write; a shared one writes to the file. Two more that look like one thing and are another: /dev/zero
 * mapped private is anonymous memory with a file's name, a memfd is anonymous memory to the program and a file to
 * the kernel. Then a PROT_NONE guard page, mprotect of a middle and munmap of a middle, which split a region.
 *
 * To see: six regions of 16 pages with their kinds; one split in three by mprotect; one cut in two by munmap.
 *
 * Behind it: kernel mmap_region(), shmem_zero_setup(), mprotect_fixup(), __split_vma(), do_vmi_munmap().
 */
#define _GNU_SOURCE
#include "calls.h"

enum { PAGE = 4096, LENGTH = 16 * PAGE };

static int scratch_file(void)
{
    static char template[] = "/tmp/memtrace-sample-XXXXXX";
    int fd = mkostemp(template, O_CLOEXEC);

    account_require(fd >= 0, "a file in /tmp");
    account_require(unlink(template) == 0, "the file is unlinked");
    account_require(ftruncate(fd, LENGTH) == 0, "the file has a length");
    return fd;
}

int main(void)
{
    const int rw = PROT_READ | PROT_WRITE;
    char *private_anonymous, *shared_anonymous, *private_file, *shared_file, *zero, *memory_file, *guard;
    int file, zero_fd, memfd;
    char byte = 0;

    account_begin("mapping-kinds");
    file = scratch_file();
    zero_fd = open("/dev/zero", O_RDWR | O_CLOEXEC);
    account_require(zero_fd >= 0, "/dev/zero opens");
    memfd = memfd_create("mapping-kinds", MFD_CLOEXEC);
    account_require(memfd >= 0 && ftruncate(memfd, LENGTH) == 0, "a memfd");

    private_anonymous = must_mmap("private-anonymous", NULL, LENGTH, rw, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    shared_anonymous = must_mmap("shared-anonymous", NULL, LENGTH, rw, MAP_SHARED | MAP_ANONYMOUS, -1);
    private_file = must_mmap("private-file", NULL, LENGTH, rw, MAP_PRIVATE, file);
    shared_file = must_mmap("shared-file", NULL, LENGTH, rw, MAP_SHARED, file);
    zero = must_mmap("private-dev-zero", NULL, LENGTH, rw, MAP_PRIVATE, zero_fd);
    memory_file = must_mmap("memfd", NULL, LENGTH, rw, MAP_SHARED, memfd);

    /* Each is written once; only the shared file mapping reaches the file. */
    private_anonymous[0] = shared_anonymous[0] = zero[0] = memory_file[0] = 'a';
    private_file[0] = 'p';
    account_require(pread(file, &byte, 1, 0) == 1 && byte == 0, "a private write stays out of the file");
    shared_file[0] = 's';
    account_require(pread(file, &byte, 1, 0) == 1 && byte == 's', "a shared write is in the file");
    account_require(private_file[0] == 'p', "the private copy is unchanged");

    guard = must_mmap("guard", NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    errno = 0;
    account_require(pread(file, guard, 1, 0) == -1 && errno == EFAULT, "nobody can write to the guard");

    account_require(told_mprotect("read-only middle", private_anonymous + 4 * PAGE, 8 * PAGE, PROT_READ) == 0,
                    "mprotect of a part");
    account_require(told_munmap("hole in the middle", shared_file + 4 * PAGE, 8 * PAGE) == 0, "munmap of a part");
    account_require(told_mprotect("over the hole", shared_file, LENGTH, PROT_READ) == -ENOMEM,
                    "mprotect over a hole changes the part before it, and fails");

    close(file);
    close(zero_fd);
    close(memfd);
    account_end(true);
    return 0;
}
