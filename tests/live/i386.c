/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A 32-bit program without a C library, to be built where there is none of 32 bits:
 *
 *     gcc -m32 -nostdlib -static -ffreestanding
 *
 * It makes each memory call of i386, also in ways that fail, forks, and marks its own map in both processes as
 * own-maps.h does. Its account goes to descriptor 3 in the same form. Exit status 0 when every call did what it should,
 * else the number of the line.
 */
typedef unsigned u32;

enum {
    SYS_exit = 1, SYS_fork = 2, SYS_read = 3, SYS_write = 4, SYS_open = 5, SYS_close = 6, SYS_waitpid = 7,
    SYS_getpid = 20, SYS_brk = 45, SYS_old_mmap = 90, SYS_munmap = 91, SYS_ipc = 117, SYS_clone = 120,
    SYS_mprotect = 125, SYS_personality = 136, SYS_mlock = 150, SYS_munlock = 151, SYS_mremap = 163, SYS_mmap2 = 192,
    SYS_madvise = 219, SYS_io_setup = 245, SYS_io_destroy = 246, SYS_remap_file_pages = 257, SYS_shmat = 397,
    SYS_shmdt = 398,
};
enum { SHMAT = 21, SHMDT = 22, SHMGET = 23, SHMCTL = 24, SHM_REMAP = 040000, READ_IMPLIES_EXEC = 0x400000 };
enum { PAGE = 4096, NONE = 0, READ = 1, RW = 3, SHARED = 1, PRIVATE = 2, FIXED = 16, ANON = 32 };
enum { EINVAL = 22, ENOMEM = 12 };
#define CLONE_UNTRACED 0x00800000
#define SIGCHLD 17

static int call(int nr, u32 a, u32 b, u32 c, u32 d, u32 e, u32 f)
{
    u32 six[2] = {f, a};
    int ret;

    /* ebp is the sixth argument, and whatever the compiler has in it comes back. */
    __asm__ volatile("push %%ebp\n\t"
                     "push %%ebx\n\t"
                     "mov (%%ebx), %%ebp\n\t"
                     "mov 4(%%ebx), %%ebx\n\t"
                     "int $0x80\n\t"
                     "pop %%ebx\n\t"
                     "pop %%ebp"
                     : "=a"(ret)
                     : "a"(nr), "b"(six), "c"(b), "d"(c), "S"(d), "D"(e)
                     : "memory", "cc");
    return ret;
}

static char text[1 << 16], line[1 << 17];
static u32 used;

static void put(const char *s)
{
    while (*s)
        line[used++] = *s++;
}

static void number(u32 n)
{
    char digits[10];
    int i = 0;

    do
        digits[i++] = (char)('0' + n % 10);
    while ((n /= 10) != 0);
    while (i > 0)
        line[used++] = digits[--i];
}

static void begin(const char *what)
{
    used = 0;
    put("{\"pid\":");
    number((u32)call(SYS_getpid, 0, 0, 0, 0, 0, 0));
    put(",\"what\":\"");
    put(what);
    put("\"");
}

static void end(void)
{
    put("}\n");
    call(SYS_write, 3, (u32)line, used, 0, 0, 0);
}

static void require(int holds, u32 where)
{
    if (holds)
        return;
    begin("failed");
    put(",\"line\":");
    number(where);
    end();
    call(SYS_exit, where % 255 + 1, 0, 0, 0, 0, 0);
}
#define REQUIRE(x) require((x), __LINE__)

static void mark(u32 which)
{
    int fd = call(SYS_open, (u32) "/proc/self/maps", 0, 0, 0, 0, 0), n;
    u32 size = 0;

    while ((n = call(SYS_read, (u32)fd, (u32)text + size, sizeof text - size, 0, 0, 0)) > 0)
        size += (u32)n;
    call(SYS_close, (u32)fd, 0, 0, 0, 0, 0);
    REQUIRE(call(SYS_munmap, which << 12, 0, 0, 0, 0, 0) == -EINVAL);
    begin("mark");
    put(",\"mark\":");
    number(which);
    put(",\"maps\":[\"");
    for (u32 i = 0; i < size; i++) {
        if (text[i] != '\n')
            line[used++] = text[i];
        else if (i + 1 < size)
            put("\",\"");
    }
    put("\"]");
    end();
}

static u32 mmap2(u32 at, u32 length, u32 prot, u32 flags, u32 fd, u32 pages)
{
    return (u32)call(SYS_mmap2, at, length, prot, flags, fd, pages);
}

static void segments(void)
{
    u32 one, two, three;
    int id = call(SYS_ipc, SHMGET, 0, 3 * PAGE, 01600, 0, 0);

    REQUIRE(id >= 0);
    REQUIRE(call(SYS_ipc, SHMAT, (u32)id, 0, (u32)&one, 0, 0) == 0); /* where it is, is written there */
    REQUIRE(call(SYS_ipc, SHMAT, (u32)id, 010000, (u32)&two, 0, 0) == 0);
    three = mmap2(0, 3 * PAGE, NONE, PRIVATE | ANON, (u32)-1, 0);
    REQUIRE(call(SYS_ipc, SHMAT, (u32)id, 0, (u32)&three, three, 0) == -EINVAL);
    REQUIRE((u32)call(SYS_shmat, (u32)id, three, SHM_REMAP, 0, 0, 0) == three);
    REQUIRE(call(SYS_munmap, one + PAGE, PAGE, 0, 0, 0, 0) == 0);
    REQUIRE(call(SYS_ipc, SHMDT, 0, 0, 0, one, 0) == 0);
    REQUIRE(call(SYS_shmdt, three, 0, 0, 0, 0, 0) == 0);
    REQUIRE(call(SYS_ipc, SHMDT, 0, 0, 0, two + PAGE, 0) == -EINVAL);
    REQUIRE(call(SYS_ipc, SHMCTL, (u32)id, 0x100, 0, 0, 0) == 0);
}

static u32 rings;

static void others(void)
{
    u32 context = 0, p = mmap2(0, 4 * PAGE, RW, SHARED | ANON, (u32)-1, 0), brk = (u32)call(SYS_brk, 0, 0, 0, 0, 0, 0);
    int persona = call(SYS_personality, (u32)-1, 0, 0, 0, 0, 0);

    REQUIRE(call(SYS_io_setup, 100, (u32)&context, 0, 0, 0, 0) == 0);
    REQUIRE(call(SYS_remap_file_pages, p + 1, PAGE + 1, 0, 2, 0, 0) == 0);
    REQUIRE(call(SYS_mlock, p, PAGE, 0, 0, 0, 0) == 0);
    REQUIRE(call(SYS_munlock, p, PAGE, 0, 0, 0, 0) == 0);
    REQUIRE(call(SYS_personality, (u32)persona ^ READ_IMPLIES_EXEC, 0, 0, 0, 0, 0) == persona);
    REQUIRE(mmap2(0, 5 * PAGE, RW, PRIVATE | ANON, (u32)-1, 0) % PAGE == 0);
    REQUIRE((u32)call(SYS_brk, brk + PAGE, 0, 0, 0, 0, 0) == brk + PAGE);
    REQUIRE(call(SYS_mprotect, p + PAGE, PAGE, READ, 0, 0, 0) == 0);
    call(SYS_personality, (u32)persona, 0, 0, 0, 0, 0);
    mmap2(0, 5 * PAGE, RW, PRIVATE | ANON, (u32)-1, 0);
    if (++rings % 2)
        REQUIRE(call(SYS_io_destroy, context, 0, 0, 0, 0, 0) == 0);
}

static void family(void)
{
    u32 brk = (u32)call(SYS_brk, 0, 0, 0, 0, 0, 0), a, b, c;
    u32 words[6] = {0, 3 * PAGE, RW, PRIVATE | ANON, (u32)-1, 0};
    int fd = call(SYS_open, (u32) "/proc/self/exe", 0, 0, 0, 0, 0);

    REQUIRE((u32)call(SYS_brk, brk + 5 * PAGE, 0, 0, 0, 0, 0) == brk + 5 * PAGE);
    REQUIRE((u32)call(SYS_brk, brk + 2 * PAGE, 0, 0, 0, 0, 0) == brk + 2 * PAGE);
    REQUIRE((u32)call(SYS_brk, 0xfffff000, 0, 0, 0, 0, 0) == brk + 2 * PAGE);

    a = mmap2(0, 9 * PAGE, RW, PRIVATE | ANON, (u32)-1, 0);
    REQUIRE(a % PAGE == 0);
    b = mmap2(0, 2 * PAGE, READ, PRIVATE, (u32)fd, 1); /* the offset counts pages */
    REQUIRE(b % PAGE == 0);
    REQUIRE(mmap2(a + 1, PAGE, RW, PRIVATE | ANON | FIXED, (u32)-1, 0) == (u32)-EINVAL);
    REQUIRE(mmap2(0, 0xfff00000, RW, PRIVATE | ANON, (u32)-1, 0) == (u32)-ENOMEM);
    REQUIRE(mmap2(0, PAGE, RW, SHARED | ANON, (u32)-1, 0) % PAGE == 0);
    REQUIRE(mmap2(0, 200000, RW, PRIVATE | ANON, (u32)-1, 0) % PAGE == 0);
    c = (u32)call(SYS_old_mmap, (u32)words, 0, 0, 0, 0, 0);
    REQUIRE(c % PAGE == 0);

    REQUIRE(call(SYS_mprotect, a, PAGE, READ, 0, 0, 0) == 0);
    REQUIRE(call(SYS_munmap, a + 4 * PAGE, PAGE, 0, 0, 0, 0) == 0);
    REQUIRE(call(SYS_mprotect, a + 2 * PAGE, 4 * PAGE, NONE, 0, 0, 0) == -ENOMEM); /* up to the hole it is done */
    REQUIRE(call(SYS_munmap, a + 1, PAGE, 0, 0, 0, 0) == -EINVAL);
    REQUIRE((u32)call(SYS_mremap, c, 3 * PAGE, 30 * PAGE, 1, 0, 0) % PAGE == 0);
    REQUIRE(call(SYS_madvise, a, PAGE, 4, 0, 0, 0) == 0);
    REQUIRE(call(SYS_ipc, 2, 0, 1, 0, 0, 0) != -38); /* semget: no memory call */
    segments();
    others();
    call(SYS_close, (u32)fd, 0, 0, 0, 0, 0);
}

static u32 status;

static void child_of(u32 nr, u32 flags)
{
    int pid = call((int)nr, flags, 0, 0, 0, 0, 0);

    if (pid == 0) {
        family();
        mark(2);
        call(SYS_exit, 5, 0, 0, 0, 0, 0);
    }
    REQUIRE(pid > 0);
    REQUIRE(call(SYS_waitpid, (u32)pid, (u32)&status, 0, 0, 0, 0) == pid);
    REQUIRE(status == 5 << 8);
}

void _start(void)
{
    begin("begin");
    end();
    family();
    mark(1);
    child_of(SYS_fork, 0);
    child_of(SYS_clone, SIGCHLD);
    child_of(SYS_clone, SIGCHLD | CLONE_UNTRACED);
    family();
    mark(3);
    call(SYS_exit, 0, 0, 0, 0, 0, 0);
}
