#!/bin/sh
# valgrind.sh PROGRAM... - every Check program, and the command line end to end, under memcheck: no invalid
# access, no use of undefined values, nothing definitely lost.
set -u
B=${B:?the build folder}
export KVPROOF_DATA="$PWD/data" KVPROOF_TESTS="$PWD/tests" KVPROOF="$PWD/$B/kvproof"
export CK_FORK=no CK_DEFAULT_TIMEOUT=0 OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0

memcheck() { # memcheck WANTED-STATUS COMMAND...
    wanted=$1
    shift
    valgrind -q --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite \
        --error-exitcode=99 "$@" >"$log" 2>&1 </dev/null
    got=$?
    if [ "$got" = "$wanted" ]; then
        passed=$((passed + 1))
        echo "ok    $*"
    else
        failed=$((failed + 1))
        echo "FAIL  $* (status $got, wanted $wanted)"
        tail -n 40 "$log"
    fi
}

for t in "$@"; do
    memcheck 0 "$t"
done
tiny=tests/golden/llama-gqa
memcheck 0 "$KVPROOF" estimate llama-2-7b -c 4096 -t h2o -t paged:16 -d h200 --detail -o json
memcheck 2 "$KVPROOF" estimate llama-2-7b -c 4096 -t nothing
memcheck 2 "$KVPROOF" estimate tests/cli/none.json
memcheck 0 "$KVPROOF" validate $tiny -c 24 --all --threads 2 -o json
memcheck 0 "$KVPROOF" validate $tiny -c 24 -t kivi:group=8,residual=8,bits=4 --threads 1 -o json
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
