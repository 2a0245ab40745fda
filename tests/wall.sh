#!/bin/sh
# wall.sh BUILD - prediction and measurement share no code that computes a size or a count.
# Sources: who may include whom. Objects: the engine, the caches and the kernels refer to no calc
# symbol but those of the parsed model and spec; calc refers to none of theirs.
set -u
B=$1
passed=0 failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

check() { # check WHAT FILE: the file must be empty
    if [ -s "$2" ]; then
        failed=$((failed + 1))
        echo "FAIL: $1:"
        cat "$2"
    else
        passed=$((passed + 1))
    fi
}

grep -rnE '#include[[:space:]]*["<](kernels|validate|plots)/' calc >"$tmp/a"
check 'calc/ includes from the measuring half' "$tmp/a"
grep -rnE '#include[[:space:]]*["<]calc/' kernels validate plots >"$tmp/b"
check 'kernels/, validate/ or plots/ include from calc/' "$tmp/b"
grep -rlE 'kvp_estimate|kvproof/kvproof\.h' kernels validate/engine validate/caches validate/serve validate/measure >"$tmp/c"
check 'the engine, caches or kernels use the prediction' "$tmp/c"

symbols() { # symbols FLAG DIR...: defined (T/D/B/R) or undefined (U) symbols of the objects below DIRs
    flag=$1
    shift
    for d in "$@"; do find "$B/$d" -name '*.c.o' -o -name '*.cu.o'; done | xargs nm -P 2>/dev/null |
        awk -v f="$flag" 'NF >= 2 && (f == "U" ? $2 == "U" : $2 ~ /^[TDBR]$/) {print $1}' | sort -u
}
# The parsed model and spec: loading, freeing, text. Data only, no size.
allowed='^(kvp_model_(load|parse|truncate|free)|kvp_stack_(add|text)|kvp_spec_text)$'
symbols T calc | grep -vE "$allowed" >"$tmp/calc"
symbols U kernels validate/engine validate/caches validate/serve validate/measure >"$tmp/used"
comm -12 "$tmp/calc" "$tmp/used" >"$tmp/d"
check 'calc symbols in the measuring half' "$tmp/d"
symbols T kernels validate >"$tmp/theirs"
symbols U calc >"$tmp/calcuses"
comm -12 "$tmp/theirs" "$tmp/calcuses" >"$tmp/e"
check 'the measuring half in calc' "$tmp/e"
# The check itself must be able to fail: there are symbols to look at, and compare.c does use calc.
for f in calc used theirs calcuses; do [ "$(wc -l <"$tmp/$f")" -ge 20 ] || echo "$f: $(wc -l <"$tmp/$f") symbols"; done >"$tmp/g"
check 'too few symbols to say anything' "$tmp/g"
nm -P "$B/validate/compare.c.o" | awk '$2 == "U" {print $1}' | sort -u | comm -12 "$tmp/calc" - >"$tmp/f"
if [ -s "$tmp/f" ]; then passed=$((passed + 1)); else
    failed=$((failed + 1))
    echo 'FAIL: compare.c uses no calc symbol, so this check sees nothing'
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
