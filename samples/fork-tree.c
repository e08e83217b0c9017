/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * fork-tree: who owns a mapping after fork, vfork, posix_spawn and exec.
 *
 * The parent maps three regions and forks. The child unmaps one, maps another and grows its heap; its own child
 * (the grandchild) protects a page and maps again. At the same time the parent changes its copy. None of them sees
 * the others' changes. A vfork child and a posix_spawn child live in the parent's address space until they exec
 * /bin/true and get a new one.
 *
 * To see: one address space per fork, each starting as a copy; none for vfork before its exec; the parent's map
 * untouched by what the child did.
 *
 * Behind it: kernel dup_mmap(), begin_new_exec() -> exec_mmap(); glibc posix_spawn() (CLONE_VM | CLONE_VFORK).
 */
#define _GNU_SOURCE
#include "calls.h"

#include <spawn.h>
#include <sys/wait.h>

enum { PAGE = 4096, LENGTH = 32 * PAGE };

static const int rw = PROT_READ | PROT_WRITE;
static const int anonymous = MAP_PRIVATE | MAP_ANONYMOUS;
static char *for_child, *for_parent, *kept;

static void tell_child(const char *how, pid_t child)
{
    struct account a;

    account_open(&a, "fork");
    account_text(&a, "how", how);
    account_int(&a, "child", child);
    account_close(&a);
}

static void wait_for(const char *how, pid_t child)
{
    struct account a;
    int status = 0;

    account_require(waitpid(child, &status, 0) == child, "waitpid");
    account_require(WIFEXITED(status) && WEXITSTATUS(status) == 0, how);
    account_open(&a, "wait");
    account_text(&a, "how", how);
    account_int(&a, "child", child);
    account_int(&a, "code", WEXITSTATUS(status));
    account_close(&a);
}

static void tell_birth(const char *role)
{
    struct account a;

    account_open(&a, "born");
    account_text(&a, "role", role);
    account_int(&a, "ppid", getppid());
    account_close(&a);
}

/* Grows this process's heap by malloc and tells the break. */
static void grow_heap(const char *role)
{
    uintptr_t before = (uintptr_t)sbrk(0);
    struct account a;

    for (int i = 0; i < 8; i++) {
        char *volatile block = malloc(100000); /* volatile: or the compiler leaves out what is never read */

        account_require(block != NULL, "malloc gives a block");
        memset(block, 1, 100000);
    }
    account_open(&a, "break");
    account_text(&a, "phase", role);
    account_uint(&a, "before", before);
    account_uint(&a, "after", (uintptr_t)sbrk(0));
    account_close(&a);
}

static void grandchild(void)
{
    tell_birth("grandchild");
    account_require(told_mprotect("grandchild's copy", kept, PAGE, PROT_READ) == 0, "mprotect");
    must_mmap("grandchild's own", NULL, 3 * LENGTH, rw, anonymous, -1);
    account_end(for_parent[0] == 'p' && kept[0] == 'k');
    _exit(0);
}

static void child(void)
{
    pid_t pid;
    char *own;

    tell_birth("child");
    account_require(told_munmap("child's copy", for_child, LENGTH) == 0, "munmap");
    own = must_mmap("child's own", NULL, 2 * LENGTH, rw, anonymous, -1);
    own[0] = 'c';
    grow_heap("child");
    pid = fork();
    account_require(pid >= 0, "fork");
    if (pid == 0)
        grandchild();
    tell_child("fork", pid);
    wait_for("grandchild", pid);
    account_end(for_parent[0] == 'p');
    _exit(0);
}

static pid_t spawn_by_vfork(void)
{
    char name[] = "true";
    char *arguments[] = {name, NULL};
    pid_t pid = vfork();

    if (pid == 0) {
        execve("/bin/true", arguments, environ);
        _exit(127);
    }
    account_require(pid > 0, "vfork");
    return pid;
}

int main(void)
{
    char name[] = "true";
    char *arguments[] = {name, NULL};
    pid_t forked, vforked, spawned;
    char *own;

    account_begin("fork-tree");
    tell_birth("parent");
    for_child = must_mmap("child will unmap its copy", NULL, LENGTH, rw, anonymous, -1);
    for_parent = must_mmap("parent will unmap its copy", NULL, LENGTH, rw, anonymous, -1);
    kept = must_mmap("kept by all", NULL, LENGTH, rw, anonymous, -1);
    for_child[0] = 'c';
    for_parent[0] = 'p';
    kept[0] = 'k';
    grow_heap("parent");

    forked = fork();
    account_require(forked >= 0, "fork");
    if (forked == 0)
        child();
    tell_child("fork", forked);
    account_require(told_munmap("parent's copy", for_parent, LENGTH) == 0, "munmap");
    own = must_mmap("parent's own", NULL, 5 * LENGTH, rw, anonymous, -1);
    own[0] = 'o';

    vforked = spawn_by_vfork();
    tell_child("vfork", vforked);
    wait_for("vfork", vforked);
    account_require(posix_spawn(&spawned, "/bin/true", NULL, NULL, arguments, environ) == 0, "posix_spawn");
    tell_child("posix_spawn", spawned);
    wait_for("posix_spawn", spawned);
    wait_for("fork", forked);

    /* The child's changes did not reach this process. */
    account_end(for_child[0] == 'c' && kept[0] == 'k' && own[0] == 'o');
    return 0;
}
