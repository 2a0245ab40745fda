#!/bin/sh
# run.sh PROGRAM... - every Check program, then the command-line cases, the wall and the mutations.
# Each suite prints its own summary; the last line adds them up and is the verdict.
set -u
B=${B:?the build folder}
export KVPROOF_DATA="$PWD/data" KVPROOF_TESTS="$PWD/tests" KVPROOF="$PWD/$B/kvproof" OPENBLAS_NUM_THREADS=2 OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
# A forked test that ends is searched for leaks, chunk by chunk: what was freed long ago should not be among them.
export ASAN_OPTIONS="${ASAN_OPTIONS:-quarantine_size_mb=8}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0

tally() { # tally NAME STATUS: from "…%: Checks: N, Failures: F, Errors: E" or "N passed, N failed"
    n=$(sed -n 's/^.*Checks: \([0-9]*\), Failures: \([0-9]*\), Errors: \([0-9]*\).*$/\1 \2 \3/p' "$log" |
        awk '{c += $1; f += $2 + $3} END {if (NR) print c - f, f}')
    [ -n "$n" ] || n=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed.*$/\1 \2/p' "$log" | tail -n 1)
    [ -n "$n" ] || n="0 0"
    p=${n% *} f=${n#* }
    if [ "$2" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
        echo "$1: ended with status $2"
    fi
    if [ "$2" -eq 0 ] && [ $((p + f)) -eq 0 ]; then
        f=1
        echo "$1: ran no test"
    fi
    passed=$((passed + p)) failed=$((failed + f))
}

run() {
    echo "== $1"
    "$@" >"$log" 2>&1
    status=$?
    cat "$log"
    tally "$1" "$status"
}

for t in "$@"; do
    run "$t"
done
run tests/cli/run.sh tests/cli/cases
run tests/gpu/scripts.sh
run tests/wall.sh "$B"
run tests/kill.sh "$B" 4
case "$B" in
*/release)
    run tests/install.sh "$B"
    run tests/mutation.sh "$B"
    ;;
esac
echo "kvproof: all suites, added up:"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
