// SPDX-License-Identifier: GPL-2.0-or-later
// Children whose threads end, or are ended, at the same moment as the process: argv[1] of them.
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void *ends_at_once(void *nothing) { return nothing; }

int main(int argc, char **argv) {
    int children = argc > 1 ? atoi(argv[1]) : 1;
    for (int n = 0; n < children; n++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t threads[4];
            for (int k = 0; k < 4; k++) pthread_create(&threads[k], NULL, ends_at_once, NULL);
            for (int k = 0; k < n % 4; k++) pthread_join(threads[k], NULL);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    return 0;
}
