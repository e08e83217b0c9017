# SPDX-License-Identifier: GPL-2.0-or-later
# The C and C++ compilers, the assembler and the linker; waits in the middle.
set -e
for i in $(seq 60); do
    echo "int f$i(const int *p, int n) { int s = $i; for (int i = 0; i < n; i++) s += p[i] * $i; return s; }"
done >many.c
echo 'int main(void) { return 0; }' >>many.c
gcc -O2 -g -o many many.c
echo half
read -r _ || true
printf '#include <map>\n#include <string>\nint main() { std::map<std::string, int> m; m["a"] = 1; return m.size() != 1; }\n' >one.cc
g++ -o one one.cc
./many && ./one
