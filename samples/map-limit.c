/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * map-limit [PAGES]: ENOMEM without any lack of memory (default: as many pages as vm.max_map_count has mappings).
 *
 * One anonymous mapping; every second page of it becomes read-only. Each mprotect cuts the rest in three, so that
 * the process has two mappings more. At vm.max_map_count (65530 by default) the kernel refuses the next one with
 * ENOMEM, though the program uses 256 MiB of addresses and not a single page of memory.
 *
 * To see: half as many successful mprotects as there are mappings allowed, then one that fails with ENOMEM, and an
 * mmap that works again once the mapping is gone.
 *
 * Behind it: split_vma() and do_mmap() in mm/ (sysctl_max_map_count).
 */
#define _GNU_SOURCE
#include "account.h"

#include <sys/mman.h>

enum { PAGE = 4096 };

static unsigned long limit(void)
{
    char text[32] = "";
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY);

    account_require(fd != -1 && read(fd, text, sizeof text - 1) > 0, "vm.max_map_count can be read");
    close(fd);
    return strtoul(text, NULL, 10);
}

/* Lines of /proc/self/maps, counted without malloc; the kernel's [vsyscall] is no mapping of the process. */
static unsigned long mappings(void)
{
    static char block[1 << 16];
    unsigned long lines = 0;
    ssize_t n;
    int fd = open("/proc/self/maps", O_RDONLY);
    bool vsyscall = false;
    char tail[16] = "";

    account_require(fd != -1, "/proc/self/maps can be read");
    while ((n = read(fd, block, sizeof block)) > 0) {
        for (ssize_t i = 0; i < n; i++)
            lines += block[i] == '\n';
        if (n >= 11) {
            memcpy(tail, block + n - 11, 11);
            vsyscall = memcmp(tail, "[vsyscall]\n", 11) == 0;
        }
    }
    close(fd);
    return lines - vsyscall;
}

int main(int argc, char **argv)
{
    unsigned long allowed = limit();
    unsigned long pages = account_argument(argc, argv, 1, allowed);
    unsigned long split = 0, at_limit;
    struct account a;
    int error = 0;
    char *map;

    account_begin("map-limit");
    map = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    account_require(map != MAP_FAILED, "mmap");
    for (unsigned long i = 1; i + 1 < pages; i += 2) {
        if (mprotect(map + i * PAGE, PAGE, PROT_READ) != 0) {
            error = errno;
            break;
        }
        split++;
    }
    at_limit = mappings();

    account_open(&a, "limit");
    account_uint(&a, "max_map_count", allowed);
    account_uint(&a, "mprotects", split);
    account_int(&a, "errno", error);
    account_uint(&a, "maps", at_limit);
    account_ptr(&a, "start", map);
    account_uint(&a, "length", pages * PAGE);
    account_close(&a);

    account_require(munmap(map, pages * PAGE) == 0, "munmap");
    account_end(pages < allowed ? error == 0 : error == ENOMEM && at_limit >= allowed);
    return 0;
}
