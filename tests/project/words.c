/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Keeps 4,000 small blocks, and maps and unmaps one large buffer for each of 20 rounds. */
#include <stdlib.h>
#include <string.h>

enum { WORDS = 4000, WORD = 100, ROUNDS = 20, BUFFER = 40 << 20 };

int main(void)
{
    static char *words[WORDS];
    for (int i = 0; i < WORDS; i++) {
        words[i] = malloc(WORD);
        memset(words[i], 'w', WORD);
    }
    /* Larger than the 32 MiB up to which glibc's threshold follows: a mapping each time. */
    for (int i = 0; i < ROUNDS; i++) {
        char *buffer = malloc(BUFFER);
        buffer[0] = words[i][0];
        free(buffer);
    }
    return 0;
}
