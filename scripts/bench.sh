#!/bin/sh
# bench.sh BUILD [THREADS [ROUNDS]] - what the CPU kernels reach of this machine, see tests/bench/bench.c;
# before that, how many points a second a sweep works out (tests/bench/sweep.c)
# and how fast the command line is (tests/bench/cli.c)
set -eu
B=$1
shift
blas=$(pkg-config --cflags openblas) libs=$(pkg-config --libs openblas)
# shellcheck disable=SC2086 # flags are words
${CC:-gcc} -std=c11 -O2 -fopenmp -D_GNU_SOURCE -I. -Iinclude $blas tests/bench/bench.c "$B/libkvproof.a" \
    $libs -ldl -lm -o "$B/bench"
# Points of a sweep a second: nothing of the machine but one core.
# shellcheck disable=SC2086
${CC:-gcc} -std=c11 -O2 -fopenmp -D_GNU_SOURCE -I. -Iinclude $(pkg-config --cflags jansson) tests/bench/sweep.c "$B/libkvproof.a" \
    $(pkg-config --libs jansson gsl) $libs -ldl -lm -o "$B/bench-sweep"
export KVPROOF_DATA="${KVPROOF_DATA:-data}"
"$B/bench-sweep" h200 llama-2-7b
(cd "$KVPROOF_DATA/models" && ls) | sed 's/\.json$//' | xargs "$B/bench-sweep" h200
# The same through the command line, CSV written to a file; and one estimate from start to exit.
${CC:-gcc} -std=c11 -O2 -D_GNU_SOURCE tests/bench/cli.c -o "$B/bench-cli"
"$B/bench-cli" "$B/kvproof" llama-2-7b h200
# A waiting thread that spins takes a shared core from the one it waits for.
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-passive}"
exec "$B/bench" "$@"
