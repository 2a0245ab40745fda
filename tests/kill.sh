#!/bin/sh
# kill.sh BUILD N [SEED] - `validate --all --out FILE` killed at N random points of its run: an earlier FILE stays as it is,
# byte for byte, until a whole one takes its place; what was finished is in FILE.part, and the next run goes on from there:
# its lines come back with their times, which no second run would have. A tenth as often, `serve --out FILE`.
set -u
K=$PWD/$1/kvproof
n=$2 seed=${3:-$(($(date +%s) % 100000))}
model=$PWD/tests/golden/llama-gqa
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir" || exit 1
passed=0 failed=0 resumed=0

fail() {
    failed=$((failed + 1))
    echo "FAIL: seed $seed, point $point: $1"
}

validate() {
    exec "$K" validate "$model" -c 24 --all --threads 1 -q -o jsonl --out "$1"
}

serve() {
    exec "$K" serve "$model" --synthetic requests=40,rate=200,prompt=60,prefix=32 -t prefix --threads 1 -o jsonl --out "$1"
}

now() {
    date +%s.%N
}

# What does not change from run to run.
facts() {
    "$K" show "$1" -o csv | grep -v ',time,'
}

# Lines of a file that are results, others being cut short.
finished() {
    : >whole
    while read -r line; do
        printf '%s\n' "$line" >one
        if [ -n "$line" ] && "$K" show one >/dev/null 2>&1; then printf '%s\n' "$line" >>whole; fi
    done <"$1"
}

# killed COMMAND SECONDS: run it on FILE, kill it after so long; its status
killed() {
    "$1" results >out 2>&1 &
    pid=$!
    sleep "$2"
    kill -9 $pid 2>/dev/null
    wait $pid 2>/dev/null
}

# A run that was killed has left what was there; FILE.part is gone with the end of one that was not.
check_point() { # check_point STATUS REFERENCE
    case $1 in
    137)
        cmp -s results earlier && { passed=$((passed + 1)); return 0; }
        # Killed after the new results took their place, before results.part was gone?
        facts results >facts 2>/dev/null
        cmp -s facts "$2" || { fail 'the earlier results were touched'; return 1; }
        cp results earlier
        ;;
    0)
        [ ! -e results.part ] || { fail 'results.part was left behind'; return 1; }
        facts results >facts
        cmp -s facts "$2" || { fail 'other results than an uninterrupted run has'; return 1; }
        while read -r line; do
            grep -qxF -- "$line" results || { fail 'a finished technique ran again'; return 1; }
        done <kept
        resumed=$((resumed + $(wc -l <kept)))
        cp earlier results
        : >kept
        ;;
    *)
        fail "status $1: $(cat out)"
        return 1
        ;;
    esac
    passed=$((passed + 1))
}

# points COMMAND N
points() {
    point=0 cut=0
    rm -f results results.part
    start=$(now)
    ("$1" results) >out 2>&1 || { fail "does not run: $(cat out)"; return; }
    took=$(echo "$start $(now)" | awk '{print $2 - $1}')
    facts results >reference
    echo '{"earlier": "results"}' >earlier
    cp earlier results
    : >kept
    while [ "$cut" -lt "$2" ] && [ "$point" -lt $((20 * $2)) ]; do
        point=$((point + 1))
        killed "$1" "$(awk -v s="$seed" -v i="$point" -v t="$took" 'BEGIN {srand(s * 1000 + i); printf "%.4f", rand() * t * 1.1}')"
        status=$?
        [ $status = 137 ] && cut=$((cut + 1))
        check_point $status reference || cp earlier results
        [ -e results.part ] || continue
        finished results.part
        while read -r line; do
            grep -qxF -- "$line" whole || fail 'a finished technique was lost'
        done <kept
        cp whole kept
    done
    [ "$cut" -ge "$2" ] || fail "only $cut of $2 runs were killed"
    # And at last it ends.
    ("$1" results) >out 2>&1
    check_point $? reference || true
}

points validate "$n"
points serve $((n / 10 + 1))
[ "$n" -lt 20 ] || [ "$resumed" -gt 0 ] || fail 'no run went on from another: this showed nothing'
echo "$resumed finished techniques were taken over"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
