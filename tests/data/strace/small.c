// SPDX-License-Identifier: GPL-2.0-or-later
// The program behind the logs beside it that were recorded (see README.md): each kind of call once.
// cc -static -pthread -o small small.c
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void *thread(void *unused)
{
	char *p = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(p, 8192);
	return unused;
}

int main(int argc, char **argv)
{
	if (argc > 1)
		return 0;
	char *p = mmap(0, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(p, 4096, PROT_NONE);
	madvise(p + 8192, 4096, MADV_DONTNEED);
	madvise(p, 4096, 55);
	mremap(p + 16384, 4096, 8192, MREMAP_MAYMOVE);
	prctl(0x53564d41, 0, p, 4096, "a \"b\" (c), d) = 0");
	mmap((void *)0x1000, 4096, 8, 4 | MAP_ANONYMOUS | 0x200, -1, 0);
	int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
	mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
	dup2(fd, 60);
	close(fd);
	unsigned long context = 0;
	syscall(SYS_io_setup, 8, &context);
	syscall(SYS_io_destroy, context);
	syscall(462, p, 0, 0); // mseal
	pthread_t t;
	pthread_create(&t, 0, thread, 0);
	pthread_join(t, 0);
	if (!fork())
		_exit(3);
	wait(0);
	if (!fork())
		*(volatile char *)0 = 1;
	wait(0);
	long got; // mmap2 of i386: 4096 bytes, read and write, private and anonymous
	asm volatile("push %%rbp; mov $1, %%ebp; int $0x80; pop %%rbp"
		     : "=a"(got)
		     : "a"(192), "b"(0), "c"(4096), "d"(3), "S"(0x22), "D"(-1)
		     : "memory");
	if (!vfork()) {
		execl(argv[0], "small", "again", (char *)0);
		_exit(1);
	}
	wait(0);
	return 0;
}
