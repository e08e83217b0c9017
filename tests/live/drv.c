/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * drv OP...: does what it is told to malloc and the break, one operation after the other, and tells each.
 *
 * Sizes are decimal or 0x. Blocks are numbered from 0 in the order in which they were asked for (I, J).
 *
 *     mN          malloc(N)                         cN          calloc(1, N)
 *     aA,N        memalign(A, N)                    rI,N        realloc(block I, N)
 *     fI          free(block I)                     nK,N        K times malloc(N)
 *     FI,J        free blocks I to J, upwards       BI,J        the same, downwards
 *     xI          write all of block I              iN          a FILE with a buffer of N bytes by setvbuf(NULL)
 *     tP          malloc_trim(P)                    oP,V        mallopt(P, V)
 *     sN          sbrk(N)                           bN          the system call brk, at the break plus N
 *     MN          mmap of N bytes                   PN          the same with MAP_POPULATE
 *     U           munmap of the last of them        L           mlockall(MCL_FUTURE)
 *     brkfail     a page without access right above the break
 *     dN          RLIMIT_DATA is N                  vN          RLIMIT_AS is what is mapped now and N more
 *     thrT,N,K,F  T threads at the same time, each of which asks K times for N bytes; with F they free it again
 *     stkN        a thread with a stack of N bytes, which ends
 *     fork        the child does the rest; the parent waits for it and ends as it did
 *     exec        the rest is done by this program, executed anew
 *     environ     overwrites all of the environment's text
 *     wait        reads a byte of stdin
 *
 * Each operation is told, after it has been done, as
 *     {"what": "op", "n": number of the word, "op": "m", "break_before", "break_after", "errno", ...}
 * with, for blocks, "index", "request", "align" and mallocs.h's facts; what is freed or reallocated tells the facts
 * before as "old_ptr", "old_size_field", "old_chunk", "old_map_start", "old_map_length".
 */
#define _GNU_SOURCE
#include "mallocs.h"

#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>

enum { BLOCKS = 80000, MAPS = 64, THREADS = 64 };

static void *volatile blocks[BLOCKS];
static unsigned long used;
static struct {
    void *start;
    size_t length;
} maps[MAPS];
static unsigned int mapped;
static int word; /* number of the one that is done */

struct telling {
    struct account a;
    uintptr_t before;
};

static void begin(struct telling *t, const char *op)
{
    account_open(&t->a, "op");
    account_int(&t->a, "n", word);
    account_text(&t->a, "op", op);
    t->before = mallocs_break();
    errno = 0;
}

/* To be called right after what is told. */
static void done(struct telling *t)
{
    int error = errno;

    mallocs_tell_break(&t->a, "break_before", t->before);
    mallocs_tell_break(&t->a, "break_after", mallocs_break());
    account_int(&t->a, "errno", error);
}

/* A number of the word at *text, which moves behind it and a comma. */
static unsigned long number(const char **text)
{
    char *end;
    unsigned long value;

    errno = 0;
    value = strtoul(*text, &end, 0); /* takes a minus sign, too */
    account_require(errno == 0 && end != *text && (*end == ',' || *end == '\0'), "the operation has its numbers");
    *text = *end ? end + 1 : end;
    return value;
}

static void tell_asked(struct telling *t, unsigned long index, size_t size, size_t align)
{
    account_uint(&t->a, "index", index);
    account_uint(&t->a, "request", size);
    if (align)
        account_uint(&t->a, "align", align);
    mallocs_tell_block(&t->a, blocks[index]);
    account_close(&t->a);
}

static void allocate(char op, size_t align, size_t size)
{
    struct telling t;
    char name[2] = {op, '\0'};

    account_require(used < BLOCKS, "not more blocks than there is room for");
    begin(&t, name);
    if (op == 'c')
        blocks[used] = calloc(1, size);
    else if (op == 'a')
        blocks[used] = memalign(align, size);
    else
        blocks[used] = malloc(size);
    done(&t);
    used++;
    tell_asked(&t, used - 1, size, align);
}

/* `block` is a number: it points to nothing any more. */
static void tell_old(struct telling *t, uintptr_t block, struct chunk c)
{
    account_uint(&t->a, "old_ptr", block);
    mallocs_tell_chunk(&t->a, "old_", c);
}

static void reallocate(unsigned long index, size_t size)
{
    struct telling t;
    uintptr_t old;
    void *given;
    struct chunk c;

    account_require(index < used, "the block was asked for");
    old = (uintptr_t)blocks[index];
    c = mallocs_chunk((void *)old);
    begin(&t, "r");
    given = realloc((void *)old, size);
    done(&t);
    if (given)
        blocks[index] = given;
    account_bool(&t.a, "given", given != NULL);
    tell_old(&t, old, c);
    tell_asked(&t, index, size, 0);
}

static void release(unsigned long index)
{
    struct telling t;
    uintptr_t old;
    struct chunk c;

    account_require(index < used, "the block was asked for");
    old = (uintptr_t)blocks[index];
    c = mallocs_chunk((void *)old);
    begin(&t, "f");
    free((void *)old);
    done(&t);
    blocks[index] = NULL;
    account_uint(&t.a, "index", index);
    tell_old(&t, old, c);
    account_close(&t.a);
}

static void map(const char *op, size_t length, int flags)
{
    struct telling t;
    void *start;

    account_require(mapped < MAPS, "not more mappings than there is room for");
    begin(&t, op);
    start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    done(&t);
    account_require(start != MAP_FAILED, "mmap gives a mapping");
    maps[mapped].start = start;
    maps[mapped++].length = length;
    account_ptr(&t.a, "ptr", start);
    account_uint(&t.a, "length", length);
    account_close(&t.a);
}

static void unmap(void)
{
    struct telling t;

    account_require(mapped > 0, "there is a mapping");
    mapped--;
    begin(&t, "U");
    account_require(munmap(maps[mapped].start, maps[mapped].length) == 0, "munmap takes it");
    done(&t);
    account_ptr(&t.a, "ptr", maps[mapped].start);
    account_uint(&t.a, "length", maps[mapped].length);
    account_close(&t.a);
}

/* ---- threads ---- */

static struct {
    size_t size;
    unsigned long count;
    bool frees;
    unsigned int all, ready, over;
} work;

/* Each thread's blocks; never more than what `blocks` holds. */
static void *thread(void *argument)
{
    unsigned long number = (uintptr_t)argument;
    unsigned long first = used + number * work.count;
    struct telling t;

    __atomic_add_fetch(&work.ready, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&work.ready, __ATOMIC_SEQ_CST) < work.all)
        usleep(100);
    for (unsigned long i = first; i < first + work.count; i++) {
        begin(&t, "thr");
        blocks[i] = malloc(work.size);
        done(&t);
        account_uint(&t.a, "thread", number);
        tell_asked(&t, i, work.size, 0);
    }
    for (unsigned long i = first; work.frees && i < first + work.count; i++) {
        free(blocks[i]);
        blocks[i] = NULL;
    }
    __atomic_add_fetch(&work.over, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&work.over, __ATOMIC_SEQ_CST) < work.all)
        usleep(100);
    return NULL;
}

static void *nothing(void *argument)
{
    return argument;
}

static void start_threads(const char *numbers)
{
    pthread_t threads[THREADS];

    work.all = (unsigned int)number(&numbers);
    work.size = number(&numbers);
    work.count = number(&numbers);
    work.frees = number(&numbers) != 0;
    work.ready = work.over = 0;
    account_require(work.all <= THREADS && used + work.all * work.count <= BLOCKS, "there is room for the threads");
    for (unsigned int i = 0; i < work.all; i++)
        account_require(pthread_create(&threads[i], NULL, thread, (void *)(uintptr_t)i) == 0, "a thread starts");
    for (unsigned int i = 0; i < work.all; i++)
        pthread_join(threads[i], NULL);
    used += work.all * work.count;
}

static void start_on_stack(size_t bytes)
{
    pthread_attr_t attributes;
    pthread_t one;

    pthread_attr_init(&attributes);
    account_require(pthread_attr_setstacksize(&attributes, bytes) == 0, "a stack of that size may be");
    account_require(pthread_create(&one, &attributes, nothing, NULL) == 0, "a thread starts");
    pthread_join(one, NULL);
    pthread_attr_destroy(&attributes);
}

/* ---- the process ---- */

static void fork_the_rest(void)
{
    struct telling t;
    pid_t child;
    int status;

    begin(&t, "fork");
    child = fork();
    account_require(child >= 0, "fork gives a child");
    if (child == 0) /* what stands in t is the parent's pid */
        return;
    done(&t);
    account_int(&t.a, "child", child);
    account_close(&t.a);
    account_require(waitpid(child, &status, 0) == child, "the child ends");
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void exec_the_rest(char **argv, int next)
{
    argv[next - 1] = argv[0];
    execv("/proc/self/exe", argv + next - 1);
    account_require(false, "the program is executed");
}

static void overwrite_environ(void)
{
    extern char **environ;

    for (char **e = environ; *e; e++)
        memset(*e, 'x', strlen(*e));
}

static unsigned long mapped_bytes(void)
{
    char text[128];
    int fd = open("/proc/self/statm", O_RDONLY);
    ssize_t n = read(fd, text, sizeof text - 1);

    account_require(n > 0, "/proc/self/statm reads");
    close(fd);
    text[n] = '\0';
    return strtoul(text, NULL, 10) * (unsigned long)sysconf(_SC_PAGESIZE);
}

static void limit(const char *op, int resource, rlim_t bytes)
{
    struct rlimit r = {bytes, RLIM_INFINITY};
    struct telling t;

    begin(&t, op);
    getrlimit(resource, &r);
    r.rlim_cur = bytes;
    account_require(setrlimit(resource, &r) == 0, "the limit is set");
    done(&t);
    account_uint(&t.a, "bytes", bytes);
    account_close(&t.a);
}

static void in_the_way(void)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t at;
    struct telling t;

    begin(&t, "brkfail");
    at = ((uintptr_t)sbrk(0) + page - 1) & -page;
    account_require(mmap((void *)at, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) ==
                        (void *)at,
                    "nothing is right above the break");
    done(&t);
    account_uint(&t.a, "ptr", at);
    account_close(&t.a);
}

static void move_break(const char *op, unsigned long numeral)
{
    struct telling t;
    long by = (long)numeral, ret;

    begin(&t, op);
    if (op[0] == 's')
        ret = (long)(intptr_t)sbrk(by);
    else
        ret = syscall(SYS_brk, (uintptr_t)sbrk(0) + (uintptr_t)by);
    done(&t);
    account_int(&t.a, "by", by);
    account_int(&t.a, "ret", ret);
    account_close(&t.a);
}

static void tune(char op, const char *numbers)
{
#ifdef __GLIBC__
    struct telling t;
    long first = (long)number(&numbers);
    long second = op == 'o' ? (long)number(&numbers) : 0;
    int answer;

    begin(&t, op == 'o' ? "o" : "t");
    answer = op == 'o' ? mallopt((int)first, (int)second) : malloc_trim((size_t)first);
    done(&t);
    account_int(&t.a, "answer", answer);
    account_close(&t.a);
#else
    (void)op;
    (void)numbers;
    account_require(false, "this malloc has no such function");
#endif
}

static void open_stream(size_t bytes)
{
    struct telling t;
    FILE *f;

    begin(&t, "i");
    f = fopen("/dev/null", "w");
    account_require(f != NULL, "/dev/null opens");
    account_require(setvbuf(f, NULL, _IOFBF, bytes) == 0, "setvbuf takes the size");
    account_require(fputs("x", f) >= 0 && fflush(f) == 0, "the stream takes a letter");
    done(&t);
    account_close(&t.a);
}

static void touch(unsigned long index)
{
    account_require(index < used && blocks[index], "the block was asked for");
    memset(blocks[index], 1, malloc_usable_size(blocks[index]));
}

/* Whether it is one of the operations that are words; does it. */
static bool named(const char *op, char **argv, int next)
{
    char byte;

    if (strcmp(op, "fork") == 0)
        fork_the_rest();
    else if (strcmp(op, "exec") == 0)
        exec_the_rest(argv, next);
    else if (strcmp(op, "brkfail") == 0)
        in_the_way();
    else if (strcmp(op, "environ") == 0)
        overwrite_environ();
    else if (strcmp(op, "wait") == 0)
        account_require(read(0, &byte, 1) >= 0, "stdin reads");
    else if (strncmp(op, "thr", 3) == 0)
        start_threads(op + 3);
    else if (strncmp(op, "stk", 3) == 0)
        start_on_stack(strtoul(op + 3, NULL, 0));
    else
        return false;
    return true;
}

static void do_op(const char *op)
{
    const char *rest = op + 1;
    unsigned long first = strchr("ULot", op[0]) ? 0 : number(&rest);
    unsigned long second = strchr("arnFB", op[0]) ? number(&rest) : 0;

    switch (op[0]) {
    case 'm':
    case 'c':
        allocate(op[0], 0, first);
        break;
    case 'a':
        allocate('a', first, second);
        break;
    case 'n':
        while (first-- > 0)
            allocate('m', 0, second);
        break;
    case 'r':
        reallocate(first, second);
        break;
    case 'f':
        release(first);
        break;
    case 'F':
        for (unsigned long i = first; i <= second; i++)
            release(i);
        break;
    case 'B':
        for (unsigned long i = second + 1; i-- > first;)
            release(i);
        break;
    case 'x':
        touch(first);
        break;
    case 'i':
        open_stream(first);
        break;
    case 't':
    case 'o':
        tune(op[0], rest);
        break;
    case 's':
        move_break("s", first);
        break;
    case 'b':
        move_break("b", first);
        break;
    case 'M':
        map("M", first, 0);
        break;
    case 'P':
        map("P", first, MAP_POPULATE);
        break;
    case 'U':
        unmap();
        break;
    case 'L':
        account_require(mlockall(MCL_FUTURE) == 0, "mlockall is allowed");
        break;
    case 'd':
        limit("d", RLIMIT_DATA, first);
        break;
    case 'v':
        limit("v", RLIMIT_AS, mapped_bytes() + first);
        break;
    default:
        account_require(false, "the operation is known");
    }
}

int main(int argc, char **argv)
{
    account_begin("drv");
    for (word = 1; word < argc; word++)
        if (!named(argv[word], argv, word + 1))
            do_op(argv[word]);
    account_end(true);
    _exit(0); /* not exit: nothing of ours is to be done at the end */
}
