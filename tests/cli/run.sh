#!/bin/sh
# run.sh CASES - command-line cases, one a line: arguments | exit | what must appear | where (out, err)
# A case that exits 2 must print nothing on stdout and exactly one line on stderr.
# A `json:PATH=VALUE` expectation runs with -o json and looks for "NAME": VALUE.
set -u
cases=$1
here=$(cd "$(dirname "$cases")" && pwd)
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

fail() {
    failed=$((failed + 1))
    echo "FAIL: kvproof $args: $1"
    sed 's/^/  out: /' "$tmp/out" | head -n 5
    sed 's/^/  err: /' "$tmp/err" | head -n 5
}

while IFS='|' read -r args status expect where; do
    case "$args" in '' | '#'*) continue ;; esac
    args=$(echo "$args" | sed 's/ *$//')
    status=$(echo "$status" | tr -d ' ')
    expect=$(echo "$expect" | sed 's/^ *//; s/ *$//')
    where=$(echo "${where:-}" | tr -d ' ')
    # shellcheck disable=SC2086
    (cd "$here" && eval "\"$KVPROOF\" $args") >"$tmp/out" 2>"$tmp/err" </dev/null
    got=$?
    [ -n "$where" ] || { [ "$status" = 0 ] && where=out || where=err; }
    if [ "$got" != "$status" ]; then
        fail "exit $got, expected $status"
    elif [ -n "$expect" ] && ! grep -qF -- "$expect" "$tmp/$where"; then
        fail "'$expect' not on std$where"
    elif [ "$status" = 2 ] && { [ -s "$tmp/out" ] || [ "$(wc -l <"$tmp/err")" != 1 ]; }; then
        fail "wrong input must say one line on stderr and nothing on stdout"
    else
        passed=$((passed + 1))
    fi
done <"$cases"

# Whole outputs, beside their command; UPDATE=1 rewrites them, and the rewrite is reviewed.
for cmd in "$here"/golden/*.cmd; do
    [ -e "$cmd" ] || continue
    args=$(cat "$cmd")
    (cd "$here" && eval "\"$KVPROOF\" $args") >"$tmp/out" 2>"$tmp/err" </dev/null
    [ "${UPDATE:-}" = 1 ] && cp "$tmp/out" "${cmd%.cmd}.out"
    if cmp -s "$tmp/out" "${cmd%.cmd}.out"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAIL: $cmd: output changed"
        diff "${cmd%.cmd}.out" "$tmp/out" | head -n 20
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
