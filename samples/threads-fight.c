/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * threads-fight [SEED [THREADS [CALLS]]]: who was last? (default 1 8 200)
 *
 * THREADS threads map, unmap and protect overlapping ranges of one region at the same time, CALLS calls each, fixed
 * and placed by the kernel. The order in which the kernel applied them decides what is left. Nobody touches the
 * memory. After the join the program reads its own map and sets mark 1 (own-maps.h).
 *
 * To see: whether a trace holds the calls in the order the kernel applied them; exit order alone does not.
 *
 * Behind it: kernel mmap_write_lock() in vm_mmap_pgoff(), __vm_munmap(), do_mprotect_pkey().
 */
#define _GNU_SOURCE
#include "account.h"
#include "own-maps.h"
#include "seeded.h"

#include <pthread.h>
#include <sys/mman.h>

enum { REGION_PAGES = 256, THREADS_MAX = 64 };
#define PAGE 4096UL

static pthread_barrier_t all_ready, all_done;
static char *region;
static unsigned long seed, calls;

static void *fight(void *argument)
{
    unsigned long index = (unsigned long)(uintptr_t)argument;
    uint64_t state = seed * 1000 + index;
    unsigned long mmaps = 0, munmaps = 0, mprotects = 0, failed = 0;
    struct account a;

    pthread_barrier_wait(&all_ready);
    for (unsigned long i = 0; i < calls; i++) {
        unsigned long first = seeded_below(&state, REGION_PAGES);
        unsigned long pages = 1 + seeded_below(&state, 32);
        unsigned long kind = seeded_below(&state, 8);
        int prot = (int)seeded_below(&state, 4); /* none, read, write, both */
        char *at = region + first * PAGE;
        const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
        void *placed;

        if (pages > REGION_PAGES - first)
            pages = REGION_PAGES - first;
        if (kind < 3) {
            mmaps++;
            failed += mmap(at, pages * PAGE, prot, anonymous | MAP_FIXED, -1, 0) == MAP_FAILED;
        } else if (kind < 5) {
            munmaps++;
            failed += munmap(at, pages * PAGE) != 0;
        } else if (kind < 7) {
            mprotects++;
            failed += mprotect(at, pages * PAGE, prot) != 0;
        } else {
            /* Freed at once: the next thread may get the same address while this munmap is on its way out. */
            mmaps++;
            munmaps++;
            placed = mmap(NULL, pages * PAGE, prot, anonymous, -1, 0);
            failed += placed == MAP_FAILED || munmap(placed, pages * PAGE) != 0;
        }
    }
    account_open(&a, "thread");
    account_uint(&a, "index", index);
    account_uint(&a, "mmap", mmaps);
    account_uint(&a, "munmap", munmaps);
    account_uint(&a, "mprotect", mprotects);
    account_uint(&a, "failed", failed);
    account_close(&a);
    pthread_barrier_wait(&all_done); /* no stack is given back while others still map and unmap */
    return NULL;
}

int main(int argc, char **argv)
{
    unsigned long count = account_argument(argc, argv, 2, 8);
    pthread_t threads[THREADS_MAX];
    struct account a;
    void *map;

    seed = account_argument(argc, argv, 1, 1);
    calls = account_argument(argc, argv, 3, 200);
    account_begin("threads-fight");
    account_require(count >= 1 && count <= THREADS_MAX, "1 to 64 threads");
    pthread_barrier_init(&all_ready, NULL, (unsigned)count);
    pthread_barrier_init(&all_done, NULL, (unsigned)count);
    map = mmap(NULL, REGION_PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    account_require(map != MAP_FAILED, "the region");
    region = map;
    account_open(&a, "start");
    account_uint(&a, "seed", seed);
    account_uint(&a, "threads", count);
    account_uint(&a, "calls", calls);
    account_uint(&a, "region_start", (uintptr_t)region);
    account_uint(&a, "region_end", (uintptr_t)region + REGION_PAGES * PAGE);
    account_close(&a);

    for (unsigned long i = 0; i < count; i++)
        account_require(pthread_create(&threads[i], NULL, fight, (void *)(uintptr_t)i) == 0, "a thread starts");
    for (unsigned long i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    own_maps_mark(1, count * calls);
    account_end(true);
    return 0;
}
