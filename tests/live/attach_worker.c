/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * attach_worker work THREADS | forks | idle THREADS [on]: a program to attach to, which notices what is done to it.
 *
 * It lives until the end of its stdin, with `on` until it is killed. `work`: every thread allocates, maps, moves and unmaps, talks to itself through
 * a pipe and forks, and checks each time that its data is what it wrote. `forks`: forks of a large process, and no
 * memory call. `idle`: all threads but the first sleep.
 *
 * It tells "begin", then again and again "count" with how often its slowest thread has gone round ("n"), and "end".
 * What is not as it must be is told as "failed", and ends it with status 1.
 */
#define _GNU_SOURCE
#include "account.h"
#include "seeded.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

enum { PAGE = 4096, STRIDE = 64, BLOCKS = 16, THREADS_MAX = 2000, TELL_MS = 20, LARGE = 64 << 20 };

struct worker {
    _Atomic unsigned long rounds;
    unsigned long number;
    uint64_t chance;
    int pipe[2];
    unsigned char *block[BLOCKS];
    size_t size[BLOCKS];
    pthread_t thread;
};

static struct worker workers[THREADS_MAX];
static unsigned long threads;
static _Atomic bool over;
static int forever[2];

/* What stands at `i` of a worker's n-th block. */
static unsigned char byte(const struct worker *w, unsigned long n, size_t i)
{
    return (unsigned char)(w->number * 31 + n * 7 + i / STRIDE + 1);
}

static void fill(const struct worker *w, unsigned long n, unsigned char *p, size_t size)
{
    for (size_t i = 0; i < size; i += STRIDE)
        p[i] = byte(w, n, i);
}

static void check(const struct worker *w, unsigned long n, const unsigned char *p, size_t from, size_t to,
                  const char *claim)
{
    for (size_t i = from; i < to; i += STRIDE)
        account_require(p[i - from] == byte(w, n, i), claim);
}

/* malloc, realloc and free: a ring of blocks, from a few bytes to a mapping of its own. */
static void allocate(struct worker *w, unsigned long n)
{
    unsigned long i = n % BLOCKS;
    bool large = seeded_below(&w->chance, 4) == 0;
    size_t size = large ? 100000 + seeded_below(&w->chance, 400000) : 64 + seeded_below(&w->chance, 20000);

    if (w->block[i] != NULL) {
        check(w, n - BLOCKS, w->block[i], 0, w->size[i], "a block is as it was");
        if (seeded_below(&w->chance, 3) == 0) {
            size_t both = size < w->size[i] ? size : w->size[i];

            account_require((w->block[i] = realloc(w->block[i], size)) != NULL, "realloc");
            check(w, n - BLOCKS, w->block[i], 0, both, "realloc keeps the data");
        } else {
            free(w->block[i]);
            w->block[i] = NULL;
        }
    }
    if (w->block[i] == NULL)
        account_require((w->block[i] = malloc(size)) != NULL, "malloc");
    w->size[i] = size;
    fill(w, n, w->block[i], size);
}

/* mmap, mprotect, mremap, munmap. */
static void map(struct worker *w, unsigned long n)
{
    const size_t size = (4 + n % 29) * PAGE;
    unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    account_require(p != MAP_FAILED, "mmap");
    account_require(p[0] == 0 && p[size - 1] == 0, "a fresh mapping is zero");
    fill(w, n, p, size);
    account_require(mprotect(p, PAGE, PROT_READ) == 0, "mprotect");
    account_require(munmap(p + PAGE, PAGE) == 0, "munmap in the middle");
    check(w, n, p, 0, PAGE, "the first page is as it was");
    check(w, n, p + 2 * PAGE, 2 * PAGE, size, "the rest is as it was");
    account_require(munmap(p, PAGE) == 0, "munmap of the first page");
    p = mremap(p + 2 * PAGE, size - 2 * PAGE, 2 * size, MREMAP_MAYMOVE);
    account_require(p != MAP_FAILED, "mremap");
    check(w, n, p, 2 * PAGE, size, "mremap keeps the data");
    account_require(munmap(p, 2 * size) == 0, "munmap");
}

/* Through the pipe and back: nothing is lost, nothing is short. */
static void talk(struct worker *w, unsigned long n)
{
    unsigned char out[2048], in[2048];

    memset(out, (int)(n & 0xff), sizeof out);
    account_require(write(w->pipe[1], out, sizeof out) == sizeof out, "write");
    account_require(read(w->pipe[0], in, sizeof in) == sizeof in, "read");
    account_require(memcmp(in, out, sizeof in) == 0, "what was written is read");
}

/* A child has our data, and its end is ours to see. */
static void bear(struct worker *w, unsigned long n)
{
    unsigned long i = n % BLOCKS;
    int status;
    pid_t child = fork();

    if (child == 0) {
        if (w->block[i] != NULL)
            check(w, n, w->block[i], 0, w->size[i], "a child has its parent's data");
        _exit((int)(n % 100));
    }
    account_require(child > 0, "fork");
    account_require(waitpid(child, &status, 0) == child, "waitpid");
    account_require(WIFEXITED(status) && WEXITSTATUS(status) == (int)(n % 100), "the child's status");
}

static void nap(void)
{
    const struct timespec ms = {0, 1000000};

    account_require(nanosleep(&ms, NULL) == 0, "nanosleep is not interrupted");
}

static void *work(void *argument)
{
    struct worker *w = argument;

    account_require(pipe(w->pipe) == 0, "pipe");
    w->chance = w->number;
    for (unsigned long n = BLOCKS; !over; n++) {
        allocate(w, n);
        map(w, n);
        talk(w, n);
        if (n % 32 == 0)
            bear(w, n);
        nap();
        w->rounds++;
    }
    return NULL;
}

static void *fork_on(void *argument)
{
    struct worker *w = argument;

    for (unsigned long n = 0; !over; n++) {
        bear(w, n);
        w->rounds++;
    }
    return NULL;
}

static void *sleep_on(void *argument)
{
    struct worker *w = argument;
    char c;

    w->rounds++;
    (void)!read(forever[0], &c, 1); /* to the end of the program: the other end is closed by then */
    return NULL;
}

static void tell(const char *what)
{
    struct account a;
    unsigned long least = workers[0].rounds;

    for (unsigned long i = 1; i < threads; i++)
        least = workers[i].rounds < least ? workers[i].rounds : least;
    account_open(&a, what);
    account_uint(&a, "n", least);
    account_close(&a);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "work";
    void *(*body)(void *) = strcmp(mode, "work") == 0 ? work : strcmp(mode, "forks") == 0 ? fork_on : sleep_on;
    struct pollfd in = {.fd = argc > 3 ? -1 : 0, .events = POLLIN};
    pthread_attr_t small;

    account_begin("attach_worker");
    threads = body == fork_on ? 1 : account_argument(argc, argv, 2, 4);
    account_require(threads > 0 && threads <= THREADS_MAX, "some threads");
    account_require(pipe(forever) == 0, "pipe");
    if (body == fork_on)
        memset(malloc(LARGE), 1, LARGE); /* what makes a fork take its time */
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 17);
    for (unsigned long i = 0; i < threads; i++) {
        workers[i].number = i;
        account_require(pthread_create(&workers[i].thread, &small, body, &workers[i]) == 0, "pthread_create");
    }
    while (poll(&in, 1, TELL_MS) == 0)
        tell("count");
    over = true;
    close(forever[1]);
    for (unsigned long i = 0; i < threads; i++)
        account_require(pthread_join(workers[i].thread, NULL) == 0, "pthread_join");
    tell("end");
    return 0;
}
