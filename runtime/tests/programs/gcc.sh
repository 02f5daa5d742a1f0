#!/bin/sh
# needs: gcc make ar
# time: 120
# Compiles, links and runs; then a project of 50 files with make -j2.
set -eu
export LC_ALL=C
cat > hello.c <<'END'
#include <stdio.h>
#include <stdlib.h>
#include <pthread.h>
static void *run(void *argument) { printf("thread %s\n", (char *)argument); return NULL; }
int main(int argc, char **argv) {
    pthread_t t; pthread_create(&t, NULL, run, argv[1]); pthread_join(t, NULL);
    printf("%d arguments\n", argc); return argc == 3 ? 17 : 1;
}
END
gcc -O2 -Wall -g hello.c -o hello -pthread; set +e; ./hello a b; echo "status $?"; set -e
gcc -static hello.c -o static && { ./static a b || echo "static $?"; }
gcc -shared -fPIC -o libone.so -xc - <<'END'
int one(void) { return 1; }
END
echo 'int one(void); int main(void) { return one() + 41; }' > use.c; gcc use.c -L. -lone -Wl,-rpath,'$ORIGIN' -o use; ./use || echo "shared $?"
echo 'int main(void) { return undefined(); }' > bad.c; gcc -w bad.c -o bad 2>/dev/null || echo "link error $?"; test -e bad || echo 'no output'
mkdir project; cd project
for i in $(seq 1 50); do printf '#include "all.h"\nint f%d(int x) { int s = 0; for (int i = 0; i < x; i++) s += i * %d; return s; }\n' "$i" "$i" > "f$i.c"; done
{ echo '#pragma once'; for i in $(seq 1 50); do echo "int f$i(int);"; done; } > all.h
{ echo '#include <stdio.h>'; echo '#include "all.h"'; echo 'int main(void) { long s = 0;'; for i in $(seq 1 50); do echo "s += f$i($i);"; done; printf '%s\n' 'printf("%ld\n", s); return 0; }'; } > main.c
cat > Makefile <<'END'
objects := $(patsubst %.c,%.o,$(wildcard f*.c)) main.o
program: $(objects) ; @gcc -o $@ $^
%.o: %.c all.h ; @gcc -O1 -c -o $@ $<
lib.a: $(filter-out main.o,$(objects)) ; @ar rcs $@ $^
clean: ; @rm -f *.o program lib.a
END
make -j2 && ./program && ls *.o | wc -l
make -q && echo 'up to date'; touch f7.c; make -n | grep -c 'gcc -O1'; make -j2 lib.a && ar t lib.a | wc -l
make clean && ls | wc -l
