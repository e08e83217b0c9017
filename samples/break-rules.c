/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * break-rules: what the kernel allows with the break, call by call.
 *
 * The program calls brk itself, before any malloc. A byte more; 99 bytes more in the same page; a second page. Then a
 * page is mapped 256 KiB above, and the break goes up to the last address that the kernel allows: one page must stay
 * free. One byte more is refused: the answer is the old break, not -1. So is a break below its start. A shrink is
 * refused, too, while RLIMIT_DATA is below what would stay. At last everything is given back.
 *
 * To see: steps of 1 and 99 bytes, of which the second changes no mapping; a refused growth with a mapping in the way;
 * a refused shrink; one shrink to nothing.
 *
 * Behind it: brk(2) in mm/mmap.c (check_data_rlimit(), vm_start_gap()).
 */
#define _GNU_SOURCE
#include "account.h"

#include <sys/mman.h>
#include <sys/resource.h>

enum { PAGE = 4096, AWAY = 0x40000 };

static uintptr_t told_brk(const char *note, uintptr_t asked)
{
    uintptr_t answer = (uintptr_t)syscall(SYS_brk, asked);
    struct account a;

    account_open(&a, "brk");
    account_text(&a, "note", note);
    account_uint(&a, "asked", asked);
    account_uint(&a, "answer", answer);
    account_close(&a);
    return answer;
}

int main(void)
{
    struct rlimit whole, little;
    uintptr_t start, page;
    bool expected = true;
    void *wall;

    account_begin("break-rules");
    start = told_brk("where is it", 0);
    page = (start + PAGE - 1) & ~(uintptr_t)(PAGE - 1);
    expected &= told_brk("one byte", start + 1) == start + 1;
    expected &= told_brk("in the same page", start + 100) == start + 100;
    expected &= told_brk("a second page", page + PAGE + 1) == page + PAGE + 1;

    wall = mmap((void *)(page + AWAY), PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    account_require(wall == (void *)(page + AWAY), "a page is mapped above the break");
    expected &= told_brk("up to the last page before it", page + AWAY - PAGE) == page + AWAY - PAGE;
    expected &= told_brk("into that page", page + AWAY - PAGE + 1) == page + AWAY - PAGE;
    expected &= told_brk("below the start", start - 1) == page + AWAY - PAGE;

    account_require(getrlimit(RLIMIT_DATA, &whole) == 0, "getrlimit");
    little = whole;
    little.rlim_cur = PAGE;
    account_require(setrlimit(RLIMIT_DATA, &little) == 0, "setrlimit");
    expected &= told_brk("down, but above RLIMIT_DATA", page + AWAY / 2) == page + AWAY - PAGE;
    account_require(setrlimit(RLIMIT_DATA, &whole) == 0, "setrlimit");
    expected &= told_brk("all of it", start) == start;
    account_end(expected);
    return 0;
}
