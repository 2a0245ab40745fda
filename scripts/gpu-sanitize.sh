#!/bin/sh
# gpu-sanitize.sh CHECK CUDA_HOME - the kernel check, small shapes, under compute-sanitizer: memcheck (leaks
# too), racecheck (shared memory) and initcheck (device memory read before it is written). No GPU is a skip.
set -u
check=$1
sanitizer=$(command -v compute-sanitizer || echo "$2/bin/compute-sanitizer")
"$check" --rounds 0 --quiet >/dev/null 2>"$check.err"
status=$?
if [ "$status" -eq 77 ]; then
    cat "$check.err"
    exit 0
fi
if [ ! -x "$sanitizer" ]; then
    echo "skipped: compute-sanitizer is not on the PATH and not in $2/bin"
    exit 0
fi
worst=0
for tool in 'memcheck --leak-check full' racecheck initcheck; do
    echo "== $tool"
    # shellcheck disable=SC2086
    "$sanitizer" --tool $tool --error-exitcode 9 "$check" --tiny --quiet --rounds 3 --seed 1 || worst=1
done
exit "$worst"
