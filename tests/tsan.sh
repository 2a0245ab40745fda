#!/bin/sh
# tsan.sh BUILD SUITE... - each suite under ThreadSanitizer with archer; a report of a race fails it.
# First a race that must be seen and a reduction that must not: otherwise silence would mean nothing.
set -u
B=$1
shift
export KVPROOF_DATA="$PWD/data" KVPROOF_TESTS="$PWD/tests" KVPROOF="$PWD/$B/kvproof"
export OMP_WAIT_POLICY=passive CK_DEFAULT_TIMEOUT=${CK_DEFAULT_TIMEOUT:-1200} CK_TIMEOUT_MULTIPLIER=${CK_TIMEOUT_MULTIPLIER:-30}
# Memory of modules that were not compiled for it (libomp, jansson, gsl) is nobody's race.
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 exitcode=66 ${TSAN_OPTIONS:-}"
log=$(mktemp) dir=$(mktemp -d)
trap 'rm -rf "$log" "$dir"' EXIT
passed=0 failed=0

# shellcheck disable=SC2086
major=$(${CC:-clang} -dumpversion | cut -d . -f 1)
OMP_TOOL_LIBRARIES=$(ls "/usr/lib/llvm-$major/lib/libarcher.so" 2>/dev/null || ldconfig -p | sed -n 's/.*libarcher.*=> //p' | head -n 1)
if [ -z "$OMP_TOOL_LIBRARIES" ]; then
    echo "no libarcher.so of clang $major: apt-get install -y libomp-$major-dev" >&2
    exit 1
fi
export OMP_TOOL_LIBRARIES

count() { # count NAME STATUS
    races=$(grep -c 'WARNING: ThreadSanitizer' "$log")
    if [ "$2" -eq 0 ] && [ "$races" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok: $1 $(grep 'Checks:' "$log" | tail -n 1)"
    else
        failed=$((failed + 1))
        echo "FAIL: $1: status $2, $races reports"
        grep -A 12 'WARNING: ThreadSanitizer' "$log" | head -n 40
        grep ':[FE]:' "$log" | head -n 10
    fi
}

probe() { # probe NAME LOOP: the reports of a program with this loop
    cat >"$dir/$1.c" <<EOF
int main(void)
{
    static double x[1000], sum;

    for (int round = 0; round < 50; round++) {
#pragma omp parallel for num_threads(3)
        for (int i = 0; i < 1000; i++)
            x[i] += i;
#pragma omp parallel for num_threads(3) $2
        for (int i = 0; i < 1000; i++)
            sum += x[i];
    }
    return sum < 0;
}
EOF
    # shellcheck disable=SC2086
    ${CC:-clang} -O1 -g -fopenmp -fsanitize=thread "$dir/$1.c" -o "$dir/$1" && "$dir/$1" >"$log" 2>&1
    grep -c 'WARNING: ThreadSanitizer' "$log"
}

[ "$(probe race '')" -gt 0 ] || { echo 'ThreadSanitizer does not see a race that is there' >&2; exit 1; }
[ "$(probe sum 'reduction(+ : sum)')" -eq 0 ] || { echo 'ThreadSanitizer sees a race in a reduction: no archer?' >&2; exit 1; }
for t in "$@"; do
    "$B/tests/$t" >"$log" 2>&1
    count "$t" $?
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
