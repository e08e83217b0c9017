# SPDX-License-Identifier: GPL-2.0-or-later
# A service of forks: answers each line N of its input with "N SUM", worked out by a child program.
while read -r n; do
    echo "$n $(expr $((n * 7919 % 600000)) \* $((n % 251)))"
done
