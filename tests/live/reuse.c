/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Threads that map and unmap without end: what one frees, another is given at once. No thread uses an address that it
 * was not given, so that the order of the calls in the kernel can be told from their results.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <sys/mman.h>

enum { THREADS = 6, ROUNDS = 300, PAGE = 4096 };

static void *work(void *number)
{
    for (int i = 0; i < ROUNDS; i++) {
        size_t size = PAGE * (1 + (size_t)(i + (long)number) % 5);
        char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (p == MAP_FAILED)
            return number;
        p[0] = 1;
        if (i % 7 == 0) {
            char *moved = mremap(p, size, size + 16 * PAGE, MREMAP_MAYMOVE);

            if (moved == MAP_FAILED)
                return number;
            munmap(moved, size + 16 * PAGE);
        } else {
            munmap(p, size);
        }
    }
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];

    for (long i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, work, (void *)i) != 0)
            return 1;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    return 0;
}
