#!/bin/sh
# optime-score.sh BUILD ROWS.csv [SEEDS [row]] - how well calibrate's formulas predict rows that they were not fitted
# on, see tests/bench/optime_score.c
set -eu
B=$1
shift
[ $# -ge 1 ] && [ -n "$1" ] || {
    echo "make optime-score ROWS=rows.csv: expected timings of ops, as for kvproof calibrate --from" >&2
    exit 2
}
# shellcheck disable=SC2046 # flags are words
${CC:-gcc} -std=c11 -O2 -fopenmp -Wall -Wextra -D_GNU_SOURCE -I. -Iinclude $(pkg-config --cflags jansson gsl) tests/bench/optime_score.c \
    "$B/libkvproof.a" $(pkg-config --libs jansson gsl openblas) -ldl -lm -o "$B/optime-score"
exec "$B/optime-score" "$@"
