/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * selfmaps.so, for LD_PRELOAD: any dynamically linked program reads its own map again and again and marks the
 * moment, so that a tracer's replay can be held against what the program itself saw.
 *
 *     SELFMAPS_TO        the folder for the dumps, one file per process: its pid
 *     SELFMAPS_EVERY     a mark at every so many allocations (malloc, calloc, realloc, free)
 *     SELFMAPS_CALLS     a mark at every so many memory calls of the program's own (mmap, munmap, mprotect ...)
 *
 * and one when the program begins, one when it ends, one in each child of fork(), one at each pthread_create().
 *
 * The C library's own calls, malloc's and the loader's, pass no hook, so the triggers are what makes them: the
 * allocations. A mark is two system calls munmap(N << 12, 0), which fail with EINVAL and change nothing
 * (`do_vmi_munmap`), with the map read between them. N is where the dump stands in the process's file, so no two
 * marks of a pid are the same, whatever it executes.
 *
 * Why two: other threads may map while this one reads, and no lock of ours would hold the C library back. So the
 * trace decides: if it has no other call in this address space between the two marks, the program read one state, and
 * that is the state the trace must give. If it has one, the mark says nothing. A trace that lost a call,
 * or has it at a wrong place, cannot hide behind this: the map it then gives at the mark is another than that read.
 *
 * Nothing here allocates, maps, or leaves errno or a descriptor changed. One mark at a time for an address space; who
 * finds another thread at it (or a signal's handler its own) passes by and never waits.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Dumps go through descriptors that no program here counts on. */
enum { DESCRIPTORS = 800 };

static char folder[3072];
static unsigned long every, every_call;
static atomic_ulong allocations, calls;
static atomic_flag busy = ATOMIC_FLAG_INIT;
static atomic_bool wanted;

static char dump[8 << 20];

/* A descriptor out of the way, closed by exec; -1 for none. */
static int opened(const char *path, int flags)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0644);
    int high = fd < 0 ? -1 : (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, DESCRIPTORS);

    if (fd >= 0)
        syscall(SYS_close, fd);
    return high;
}

static char *number(char *to, unsigned long value)
{
    char digits[20];
    int n = 0;

    do
        digits[n++] = (char)('0' + value % 10);
    while ((value /= 10) != 0);
    while (n > 0)
        *to++ = digits[--n];
    return to;
}

/* Reads the map into `dump`, behind the first `used` bytes; returns its length, or -1 if it is not whole. */
static long read_map(size_t used)
{
    /* By thread-self: a process whose first thread has ended shows none. */
    int maps = opened("/proc/thread-self/maps", O_RDONLY);
    size_t begin = used;
    long n = -1;

    if (maps < 0)
        return -1;
    while (used < sizeof dump && (n = syscall(SYS_read, maps, dump + used, sizeof dump - used)) > 0)
        used += (size_t)n;
    syscall(SYS_close, maps);
    return n == 0 ? (long)(used - begin) : -1;
}

/* In the file at N: "N LENGTH\n" in 32 bytes, and the map's text. */
static void mark(void)
{
    enum { HEAD = 32 };
    char path[sizeof folder + 24], *end;
    struct stat about;
    long length;
    int file;

    memcpy(path, folder, sizeof folder);
    end = path + strlen(path);
    *end++ = '/';
    *number(end, (unsigned long)syscall(SYS_getpid)) = '\0';
    file = opened(path, O_WRONLY | O_CREAT);
    if (file < 0)
        return;
    if (fstat(file, &about) == 0) {
        unsigned long n = (unsigned long)about.st_size;

        syscall(SYS_munmap, n << 12, 0L);
        length = read_map(HEAD);
        syscall(SYS_munmap, n << 12, 0L);
        if (length > 0) {
            memset(dump, ' ', HEAD);
            end = number(dump, n);
            number(end + 1, (unsigned long)length);
            dump[HEAD - 1] = '\n';
            syscall(SYS_pwrite64, file, dump, (size_t)length + HEAD, n);
        }
    }
    syscall(SYS_close, file);
}

static void mark_now(void)
{
    int kept = errno;

    if (atomic_load(&wanted) && !atomic_flag_test_and_set(&busy)) {
        mark();
        atomic_flag_clear(&busy);
    }
    errno = kept;
}

static bool due(unsigned long each, atomic_ulong *count)
{
    return each && atomic_fetch_add_explicit(count, 1, memory_order_relaxed) % each == each - 1;
}

static void allocated(void)
{
    if (due(every, &allocations))
        mark_now();
}

static long called(long ret)
{
    if (due(every_call, &calls))
        mark_now();
    return ret;
}

/* ---- begin, end, children ---- */

static void in_child(void)
{
    atomic_flag_clear(&busy); /* a thread that is not here may have had it */
    mark_now();
}

static const char *variable(char **environment, const char *name)
{
    size_t length = strlen(name);

    for (; *environment; environment++)
        if (strncmp(*environment, name, length) == 0 && (*environment)[length] == '=')
            return *environment + length + 1;
    return NULL;
}

/* From the environment as the kernel gave it: some programs bring a getenv() of their own. */
__attribute__((constructor)) static void begin(int argc, char **argv, char **environment)
{
    const char *to = variable(environment, "SELFMAPS_TO"), *each = variable(environment, "SELFMAPS_EVERY");
    const char *each_call = variable(environment, "SELFMAPS_CALLS");

    (void)argc;
    (void)argv;
    if (!to || strlen(to) >= sizeof folder)
        return;
    strcpy(folder, to);
    every = each ? strtoul(each, NULL, 10) : 0;
    every_call = each_call ? strtoul(each_call, NULL, 10) : 0;
    pthread_atfork(NULL, NULL, in_child);
    atomic_store(&wanted, true);
    mark_now();
}

__attribute__((destructor)) static void end(void)
{
    mark_now();
}

/* ---- allocations: passed on to whichever allocator comes next ---- */

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);

/* What dlsym() itself asks for while the next allocator is looked up; never given back. */
static char early[16384];
static size_t early_used;

static void *early_memory(size_t size)
{
    void *p = early + early_used;

    early_used += (size + 15) & ~(size_t)15;
    if (early_used > sizeof early)
        abort();
    return p;
}

static bool is_early(const void *p)
{
    return (uintptr_t)p - (uintptr_t)early < sizeof early;
}

static bool found(void)
{
    static bool looking;

    if (next_free)
        return true;
    if (looking)
        return false;
    looking = true;
    *(void **)&next_malloc = dlsym(RTLD_NEXT, "malloc");
    *(void **)&next_calloc = dlsym(RTLD_NEXT, "calloc");
    *(void **)&next_realloc = dlsym(RTLD_NEXT, "realloc");
    *(void **)&next_free = dlsym(RTLD_NEXT, "free");
    looking = false;
    return true;
}

void *malloc(size_t size)
{
    void *p;

    if (!found())
        return early_memory(size);
    p = next_malloc(size);
    allocated();
    return p;
}

void *calloc(size_t count, size_t size)
{
    void *p;

    if (!found())
        return early_memory(count * size); /* zero, as the .bss is */
    p = next_calloc(count, size);
    allocated();
    return p;
}

void *realloc(void *old, size_t size)
{
    void *p;

    if (!found() || is_early(old)) {
        size_t rest = old ? (size_t)(early + sizeof early - (char *)old) : 0;

        p = malloc(size);
        return p && old ? memcpy(p, old, rest < size ? rest : size) : p;
    }
    p = next_realloc(old, size);
    allocated();
    return p;
}

void free(void *p)
{
    if (!p || is_early(p) || !found())
        return;
    next_free(p);
    allocated();
}

/* ---- the program's own memory calls, made here: not one instruction of the C library's more ---- */

void *mmap(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
    return (void *)called(syscall(SYS_mmap, address, length, (long)prot, (long)flags, (long)fd, offset));
}

void *mmap64(void *address, size_t length, int prot, int flags, int fd, off_t offset)
{
    return mmap(address, length, prot, flags, fd, offset);
}

int munmap(void *address, size_t length)
{
    return (int)called(syscall(SYS_munmap, address, length));
}

int mprotect(void *address, size_t length, int prot)
{
    return (int)called(syscall(SYS_mprotect, address, length, (long)prot));
}

int madvise(void *address, size_t length, int advice)
{
    return (int)called(syscall(SYS_madvise, address, length, (long)advice));
}

void *mremap(void *address, size_t old_length, size_t length, int flags, ...)
{
    void *to = NULL;

    if (flags & MREMAP_FIXED) {
        va_list rest;

        va_start(rest, flags);
        to = va_arg(rest, void *);
        va_end(rest);
    }
    return (void *)called(syscall(SYS_mremap, address, old_length, length, (long)flags, to));
}

int pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *argument)
{
    static int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
    int error;

    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "pthread_create");
    error = next(thread, how, run, argument);
    mark_now();
    return error;
}
