/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * syscall-churn [MODE [BATCHES [CALLS [SIZE]]]]: what one system call costs (default mmap 20 1000 262144).
 *
 * MODE mmap: CALLS/2 pairs of mmap and munmap of SIZE bytes per batch. MODE getppid: CALLS calls of getppid, which a
 * memory tracer has no reason to stop. MODE malloc-churn: CALLS/2 pairs of malloc and free of SIZE bytes with the
 * threshold pinned by mallopt, so that each is an mmap or a munmap by malloc. The best batch is what the machine
 * can do undisturbed; compare it alone, under a tracer and under another.
 *
 * Prints one JSON object on stdout:
 *     {"mode", "batches", "calls_per_batch", "size", "best_ns_per_call", "median_ns_per_call", "total_ns"}
 *
 * Behind it: clock_gettime(CLOCK_MONOTONIC), which is in the vdso and no system call.
 */
#define _GNU_SOURCE
#include "account.h"

#include <malloc.h>
#include <sys/mman.h>
#include <time.h>

enum { BATCHES_MAX = 10000 };

static uint64_t batch_ns[BATCHES_MAX];

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

static void churn_mmap(unsigned long calls, size_t size)
{
    for (unsigned long i = 0; i < calls; i += 2) {
        void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        account_require(map != MAP_FAILED && munmap(map, size) == 0, "mmap and munmap");
    }
}

static void churn_getppid(unsigned long calls, size_t size)
{
    (void)size;
    for (unsigned long i = 0; i < calls; i++)
        syscall(SYS_getppid);
}

static void churn_malloc(unsigned long calls, size_t size)
{
    for (unsigned long i = 0; i < calls; i += 2) {
        void *volatile block = malloc(size);

        account_require(block != NULL, "malloc gives a block");
        free(block);
    }
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* ns per call with one decimal */
static void per_call(struct account *a, const char *key, uint64_t ns, unsigned long calls)
{
    uint64_t tenths = (ns * 10 + calls / 2) / calls;

    account_key(a, key);
    account_number(a, tenths / 10);
    account_char(a, '.');
    account_number(a, tenths % 10);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "mmap";
    unsigned long batches = account_argument(argc, argv, 2, 20);
    unsigned long calls = account_argument(argc, argv, 3, 1000);
    size_t size = account_argument(argc, argv, 4, 256 << 10);
    void (*churn)(unsigned long, size_t) = NULL;
    struct account a;
    uint64_t start;

    account_begin("syscall-churn");
    if (strcmp(mode, "mmap") == 0)
        churn = churn_mmap;
    else if (strcmp(mode, "getppid") == 0)
        churn = churn_getppid;
    else if (strcmp(mode, "malloc-churn") == 0)
        churn = churn_malloc;
    account_require(churn != NULL, "the mode is mmap, getppid or malloc-churn");
    account_require(batches >= 1 && batches <= BATCHES_MAX, "1 to 10000 batches");
    account_require(calls >= 2 && calls % 2 == 0, "an even number of calls per batch");
    if (churn == churn_malloc)
        account_require(mallopt(M_MMAP_THRESHOLD, 128 << 10) == 1, "mallopt pins the threshold");

    churn(calls, size); /* warm up */
    start = now_ns();
    for (unsigned long i = 0; i < batches; i++) {
        uint64_t before = now_ns();

        churn(calls, size);
        batch_ns[i] = now_ns() - before;
    }
    start = now_ns() - start;
    qsort(batch_ns, batches, sizeof batch_ns[0], by_value);

    account_open(&a, "churn");
    account_text(&a, "mode", mode);
    account_uint(&a, "batches", batches);
    account_uint(&a, "warm_up_batches", 1);
    account_uint(&a, "calls_per_batch", calls);
    account_uint(&a, "size", size);
    account_close(&a);
    account_end(true);

    a.used = 0;
    account_char(&a, '{');
    account_text(&a, "mode", mode);
    account_uint(&a, "batches", batches);
    account_uint(&a, "calls_per_batch", calls);
    account_uint(&a, "size", size);
    per_call(&a, "best_ns_per_call", batch_ns[0], calls);
    per_call(&a, "median_ns_per_call", batch_ns[batches / 2], calls);
    account_uint(&a, "total_ns", start);
    account_raw(&a, "}\n");
    account_write(1, a.text, a.used);
    return 0;
}
