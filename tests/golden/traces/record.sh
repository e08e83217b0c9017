#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Records the traces of this folder anew: see ../README.md. Usage: record.sh MEMTRACE
set -eu

memtrace=$1
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
programs=/opt/memtrace-golden # a path that says nothing of this machine
mkdir -p "$programs"
make --silent -C "$root/samples" OUT="$programs"
cc -O1 -I"$root/samples" -o "$programs/attach_worker" "$root/tests/live/attach_worker.c" -lpthread
cc -Os -nostdlib -static -x c -o "$programs/no-calls" - <<'PROGRAM'
void _start(void) { __asm__ volatile("mov $60, %eax\n\txor %edi, %edi\n\tsyscall"); }
PROGRAM
cd "$programs"

# stored NAME: what was recorded to part.json, without what it was recorded on.
stored() {
    sed '1s/"kernel":"[^"]*"/"kernel":""/' part.json | gzip -9n >"$here/$1.json.gz"
    rm -f part.json part.json.old
}

# record NAME COMMAND...
record() {
    name=$1
    shift
    env -i PATH=/usr/bin:/bin "$memtrace" run -q -o part.json -- "$@"
    stored "$name"
}

record fork-tree ./fork-tree
record thread-arenas ./thread-arenas 2 together
record threshold-moves ./threshold-moves
record no-calls ./no-calls

# A program in mid-life, its heaps walked.
mkfifo input
env -i ./attach_worker work 1 <input 3>/dev/null &
exec 4>input
sleep 0.5
env -i PATH=/usr/bin:/bin "$memtrace" attach -q --heap-walk --for 10ms -o part.json $!
exec 4>&-
wait
rm input
stored attached

# Half of a trace, as if memtrace was killed; and one that was killed before anything ran.
gunzip -c "$here/threshold-moves.json.gz" >part.json
size=$(wc -c <part.json)
head -c $((size * 2 / 3)) part.json | gzip -9n >"$here/cut.json.gz"
head -n 1 part.json | gzip -9n >"$here/header-only.json.gz"
rm part.json
