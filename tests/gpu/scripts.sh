#!/bin/sh
# scripts.sh - gpu-probe.sh and gpu-check.sh around programs that skip, fail and succeed: what they pass on, what
# they keep, what they exit with.
set -u
passed=0 failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

is() { # is WHAT GOT WANTED
    if [ "$2" = "$3" ]; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL: $1: '$2', expected '$3'"
    fi
}

program() { # program NAME LINES...: a program that runs them
    name=$1
    shift
    { echo '#!/bin/sh' && printf '%s\n' "$@"; } >"$tmp/$name"
    chmod +x "$tmp/$name"
}

left() { ls -A "$tmp/out" 2>/dev/null | tr '\n' ' '; }

json='printf "{\n  \"schema\": \"x\",\n  \"device\": \"NVIDIA H200\",\n  \"date\": \"2026-01-02T03:04:05Z\",\n  \"args\": \"$*\"\n}\n"'
program probe "$json"
scripts/gpu-probe.sh "$tmp/probe" "$tmp/out" >/dev/null
is 'a probe succeeds' "$? $(left)" '0 probe-nvidia-h200-2026-01-02.json '
is 'no QUICK' "$(grep -c -e --quick "$tmp/out/"probe-*.json)" 0
QUICK=1 scripts/gpu-probe.sh "$tmp/probe" "$tmp/out" >/dev/null
is 'QUICK reaches the probe' "$(grep -c -e --quick "$tmp/out/"probe-*.json)" 1
rm -rf "$tmp/out"
program probe 'echo "{"; exit 1'
scripts/gpu-probe.sh "$tmp/probe" "$tmp/out" >/dev/null
is 'a probe fails' "$? $(left)" '1 '
program probe 'exit 77'
scripts/gpu-probe.sh "$tmp/probe" "$tmp/out" >/dev/null
is 'a probe skips' "$? $(left)" '0 '
program gpu-check 'echo skipped: here >&2; exit 77'
is 'a check says that it skips' "$(scripts/gpu-check.sh "$tmp" tests/golden "$tmp/out")" 'skipped: here'
is 'a check that skips leaves nothing' "$? $(left)" '0 '
program gpu-check 'exit 139'
scripts/gpu-check.sh "$tmp" tests/golden "$tmp/out" >/dev/null
is 'a check that crashes' "$?" 1
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
