/* SPDX-License-Identifier: GPL-2.0-or-later */
/* seeded.h: SplitMix64, a generator whose series depends on its seed alone. */
#ifndef SAMPLES_SEEDED_H
#define SAMPLES_SEEDED_H

#include <stdint.h>

static inline uint64_t seeded_next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15U;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
}

/* A number in [0, below). */
static inline unsigned long seeded_below(uint64_t *state, unsigned long below)
{
    return (unsigned long)(seeded_next(state) % below);
}

#endif
