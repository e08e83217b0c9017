/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exit-codes code N | signal N | abort: ends the way it is told to.
 *
 * To see: that a tracer passes on what happened: the exit code, or the death by the same signal. A little memory is
 * allocated first, so that there is a trace. A signal that does not kill (SIGCHLD) is survived: exit 0.
 *
 * Behind it: kernel do_group_exit(), get_signal(); glibc abort() (SIGABRT).
 */
#define _GNU_SOURCE
#include "account.h"

#include <signal.h>
#include <sys/resource.h>

static void tell(const char *how, unsigned long number)
{
    struct account a;

    account_open(&a, "leaving");
    account_text(&a, "how", how);
    account_uint(&a, "number", number);
    account_close(&a);
}

int main(int argc, char **argv)
{
    static const struct rlimit no_core = {0, 0};
    unsigned long number = account_argument(argc, argv, 2, 0);
    volatile char *block = malloc(1000);

    account_begin("exit-codes");
    account_require(block != NULL, "malloc gives a block");
    block[0] = 1;
    account_require(setrlimit(RLIMIT_CORE, &no_core) == 0, "no core file is left behind");

    if (argc == 3 && strcmp(argv[1], "code") == 0) {
        tell("code", number);
        return (int)number;
    }
    if (argc == 3 && strcmp(argv[1], "signal") == 0) {
        tell("signal", number);
        account_require(number >= 1 && number <= 64, "a signal is 1 to 64");
        signal((int)number, SIG_DFL); /* fails for SIGKILL, which needs none */
        kill(getpid(), (int)number);
        account_end(false);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "abort") == 0) {
        tell("abort", SIGABRT);
        abort();
    }
    if (argc == 1) {
        tell("code", 0);
        return 0;
    }
    account_require(false, "usage: exit-codes code N | signal N | abort");
    return 1;
}
