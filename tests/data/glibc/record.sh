#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# Records the traces of this folder anew: see README.md. Usage: record.sh MEMTRACE VERSION...
set -eu

memtrace=$1
shift
here=$(cd "$(dirname "$0")" && pwd)

# record VERSION NAME [VARIABLE=VALUE...] -- OP...
record() {
    version=$1 name=$2
    shift 2
    settings=
    while [ "$1" != -- ]; do
        settings="$settings $1"
        shift
    done
    shift
    lib=/opt/glibc-$version
    cd /opt
    # shellcheck disable=SC2086 # words are meant
    env -i PATH=/usr/bin:/bin $settings "$memtrace" run -o "$here/$version-$name.json.gz" -- \
        "$lib/ld-linux-x86-64.so.2" --library-path "$lib" /opt/drv "$@" 3>"$here/$version-$name.account" 2>&1
    # Which kernel it was says nothing here.
    gunzip -c "$here/$version-$name.json.gz" | sed '1s/"kernel":"[^"]*"/"kernel":""/' | gzip -9n >"$here/part"
    mv "$here/part" "$here/$version-$name.json.gz"
}

for version in "$@"; do
    record "$version" first -- m131049
    record "$version" threshold -- m100000 m131049 m135145 f2 m139240 m139241
    record "$version" limit -- m100000 m33554400 f1 m33554400
    record "$version" refused -- m100000 brkfail n20,100000
    record "$version" thread -- m100000 thr1,100000,3,1
    record "$version" cached GLIBC_TUNABLES=glibc.malloc.tcache_max=1048576 -- m100000 m200000 f1 m200000
    record "$version" high MALLOC_MMAP_THRESHOLD_=67108864 -- m100000 m200000 f1 m1000000
done
