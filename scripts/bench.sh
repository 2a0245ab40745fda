#!/bin/sh
# bench.sh BUILD [THREADS [ROUNDS]] - what the CPU kernels reach of this machine, see tests/bench/bench.c
set -eu
B=$1
shift
blas=$(pkg-config --cflags openblas) libs=$(pkg-config --libs openblas)
# shellcheck disable=SC2086 # flags are words
${CC:-gcc} -std=c11 -O2 -fopenmp -D_GNU_SOURCE -I. -Iinclude $blas tests/bench/bench.c "$B/libkvproof.a" \
    $libs -ldl -lm -o "$B/bench"
# A waiting thread that spins takes a shared core from the one it waits for.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
exec "$B/bench" "$@"
