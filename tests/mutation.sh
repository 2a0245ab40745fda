#!/bin/sh
# mutation.sh BUILD - is the wall real? Perturb one formula of the prediction, leave the engine alone: `kvproof
# validate` must then disagree for exactly the techniques that stand on the formula. Rows of tests/mutations.
set -u
B=$1
CC=${CC:-gcc}
model=tests/golden/llama-gqa
passed=0 failed=0
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

fail() {
    failed=$((failed + 1))
    printf 'FAIL: %s (%s): %s\n' "$name" "$expr" "$1"
}

# verdicts PROGRAM: the techniques whose bytes differ, one word each, and those whose upper bounds are not what this engine
# needs: `validate` holds bounds from above, so that one which is too wide is seen here alone. Two sequences, so that what
# sequences share, and how many go side by side, shows. The status is the program's; 2 when it is not what the bytes say.
verdicts() {
    "$1" validate $model -c 37 -n 9 -b 2 --all --threads 1 -q -o json >"$tmp/out" 2>"$tmp/err"
    status=$?
    awk -v bad="$tmp/bad" '/"techniques": *\[\]/ {name = "dense"; next}
         /"techniques"/ {t = 1; next}
         t {sub(/^[^"]*"/, ""); sub(/[:"].*/, ""); name = $0; t = 0}
         /"kind"/ {kind = $2; gsub(/[",]/, "", kind)}
         /"predicted"/ {p = $2; sub(/,/, "", p)}
         /"measured"/ {m = $2; sub(/,/, "", m); if (kind == "bytes" && p != m || kind == "bound" && p + 0 < m + 0) wrong++
                       if ((kind == "bytes" || kind == "bound") && p != m && !(name in seen)) {seen[name]; print name}}
         END {print wrong + 0 > bad}' "$tmp/out" | sort | tr '\n' ' '
    case "$status $(cat "$tmp/bad")" in '0 0' | '1 '[1-9]*) return $status ;; *) return 2 ;; esac
}

name=unchanged expr=none
got=$(verdicts "$B/kvproof")
status=$?
if [ "$status" = 0 ] && [ -z "$got" ] && [ "$(grep -c '"techniques"' "$tmp/out")" -ge 7 ]; then passed=$((passed + 1)); else
    fail "expected every technique to agree, got status $status and: $got $(cat "$tmp/err")"
fi

# Upper bounds are held from above by `validate` itself; that they are no wider than this engine needs, here.
name=bounds expr=none
wide=$(awk '/"kind"/ {bound = /"bound"/} /"predicted"/ {p = $2; sub(/,/, "", p)}
            /"measured"/ {m = $2; sub(/,/, "", m); if (bound) {n++; wide += p != m}} END {print n + 0, wide + 0}' "$tmp/out")
case "$wide" in
'0 '*) fail 'no bound was printed' ;;
*' 0') passed=$((passed + 1)) ;;
*) fail "bounds, and how many exceed what was measured: $wide" ;;
esac

while IFS='|' read -r name file expr wanted; do
    case "$name" in '#'* | '') continue ;; esac
    name=${name%% *} file=$(echo $file)
    expr=$(printf '%s\n' "$expr" | sed 's/^ *//; s/ *$//')
    wanted=$(for w in $wanted; do echo "$w"; done | sort | tr '\n' ' ')
    mkdir -p "$tmp/$(dirname "$file")"
    sed "$expr" "$file" >"$tmp/$file"
    if cmp -s "$file" "$tmp/$file"; then
        fail "changed nothing in $file"
        continue
    fi
    # The flags the objects were built with; the perturbed object stands before the library.
    if ! eval "$(cat "$B/flags")" -w -c "$tmp/$file" -o "$tmp/mutant.o" ||
        ! eval "$(cat "$B/flags")" "$B/kvproof.c.o" "$tmp/mutant.o" "$B/libkvproof.a" $LIBS -o "$tmp/mutant"; then
        fail "does not build"
        continue
    fi
    got=$(verdicts "$tmp/mutant")
    status=$?
    if [ "$status" -le 1 ] && [ "$got" = "$wanted" ]; then passed=$((passed + 1)); else
        fail "status $status; differ: ${got:-none}; expected: $wanted"
    fi
done <tests/mutations
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
