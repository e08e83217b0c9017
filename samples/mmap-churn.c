/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * mmap-churn [MODE [PAIRS [SIZE]]]: a block allocated and freed in a loop (default pinned 500 262144).
 *
 * MODE pinned: runs itself again with MALLOC_MMAP_THRESHOLD_=131072, as people do against a growing heap. Each turn
 * is now an mmap, a page fault and a munmap. MODE mallopt: the same by mallopt(M_MMAP_THRESHOLD, 131072), which
 * leaves no trace: the threshold should have risen at the first free, and did not. MODE dynamic: without either,
 * the first free raises the threshold and all further turns come from the heap. MODE program: mmap and munmap by
 * the program itself.
 *
 * To see: 500 pairs of mmap and munmap of one size, each alive for microseconds; with dynamic: one pair.
 *
 * Behind it: glibc sysmalloc(), __libc_free() (munmap_chunk), mallopt() (do_set_mmap_threshold).
 */
#define _GNU_SOURCE
#include "where.h"

#include <sys/mman.h>

#define SETTING "MALLOC_MMAP_THRESHOLD_"

static void *volatile block;

static bool turn(size_t size)
{
    bool mapped;

    block = malloc(size);
    account_require(block != NULL, "malloc gives a block");
    *(volatile char *)block = 1;
    mapped = where_is_mapped(block);
    free(block);
    return mapped;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "pinned";
    unsigned long pairs = account_argument(argc, argv, 2, 500);
    size_t size = account_argument(argc, argv, 3, 262144);
    bool program = strcmp(mode, "program") == 0;
    bool dynamic = strcmp(mode, "dynamic") == 0;
    unsigned long mapped = 0;
    struct account a;

    account_require(program || dynamic || strcmp(mode, "pinned") == 0 || strcmp(mode, "mallopt") == 0,
                    "the first argument is pinned, mallopt, dynamic or program");
    if (strcmp(mode, "pinned") == 0 && getenv(SETTING) == NULL) {
        account_require(setenv(SETTING, "131072", 1) == 0, "setenv");
        execv("/proc/self/exe", argv);
        account_require(false, "the program runs itself");
    }
    account_begin("mmap-churn");
    where_begin();
    if (strcmp(mode, "mallopt") == 0)
        account_require(mallopt(M_MMAP_THRESHOLD, 131072) == 1, "mallopt");
    block = told_malloc("makes the heap", 1000);

    for (unsigned long i = 0; i < pairs; i++) {
        if (program) {
            void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

            account_require(map != MAP_FAILED && munmap(map, size) == 0, "mmap and munmap");
            mapped++;
        } else {
            mapped += turn(size);
        }
    }
    account_open(&a, "churn");
    account_text(&a, "mode", mode);
    account_uint(&a, "turns", pairs);
    account_uint(&a, "mapped", mapped);
    account_uint(&a, "size", size);
    account_close(&a);
    account_end(mapped == (dynamic ? 1 : pairs));
    return 0;
}
