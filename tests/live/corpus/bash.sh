# SPDX-License-Identifier: GPL-2.0-or-later
# Subshells, pipelines and long variables; waits in the middle.
work() {
    local i long=x
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
        long=$long$long
    done
    for i in $(seq 12); do
        (echo "${long:0:100000}" | sort | head -c 100000 | wc -c) >/dev/null
    done
    printf -v list '%s\n' {1..20000}
    mapfile -t lines <<<"$list"
    unset list lines
}
work
echo half
read -r _
work
exit 0
