#!/bin/sh
# gpu-check.sh BIN GOLDEN OUT - is the CUDA backend right here? Three questions, a table at the end:
#   every kernel against kernels/ref on random operands                  -> OUT/kernels.jsonl
#   golden models: logits on cuda against ref under each technique, and against transformers' (dense);
#   bytes predicted and measured; H2O's kept sets                        -> OUT/models.txt
# No GPU is a skip: one line, exit 0. Environment: ROUNDS (20), FLAGS of gpu-check, MODELS, TECHNIQUES.
set -u
bin=$1 golden=$2 out=$3
models=${MODELS:-$(ls "$golden")}
techniques=${TECHNIQUES:-dense window:6 h2o:heavy=4,recent=6 h2o:heavy=4,recent=6,score_dtype=f16
    kivi:bits=2,group=16,residual=16 kivi:bits=4,group=8,residual=16 contiguous:64 growing paged:4
    h2o:heavy=4,recent=6+paged:4 kivi:bits=4,group=8,residual=8+paged:8 window:10+kivi:bits=4,group=8,residual=8}
mkdir -p "$out" || exit 1
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

# shellcheck disable=SC2086
"$bin/gpu-check" --rounds "${ROUNDS:-20}" ${FLAGS:-} >"$out/kernels.jsonl" 2>"$tmp/err"
status=$?
cat "$tmp/err"
[ "$status" -eq 77 ] && { rm -f "$out/kernels.jsonl"; exit 0; }
grep '"ok": false' "$out/kernels.jsonl"
# shellcheck disable=SC2046
set -- $(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$out/kernels.jsonl")
if [ $# -ne 2 ]; then
    echo "gpu-check ended with status $status before its last line"
    exit 1
fi
passed=$1 failed=$2
sed -i '/^[0-9]* passed, /d' "$out/kernels.jsonl"
kernels_line="kernels: $1 passed, $2 failed"

run() { # run DEVICE MODEL SPEC WHAT: dump WHAT (logits, kept) to $tmp/DEVICE.WHAT; status of validate
    specs=
    [ "$3" = dense ] || specs=$(echo "$3" | sed 's/^/-t /; s/+/ -t /g')
    # shellcheck disable=SC2086
    "$bin/kvproof" validate "$golden/$2" --weights "$golden/$2" --tokens "$golden/$2/tokens.txt" -n 12 $specs \
        --device "$1" -q "--dump-$4" "$tmp/$1.$4" >"$tmp/$1.out" 2>"$tmp/$1.err"
}

same_kept() { # same_kept MODEL SPEC: a run of its own, since tracing takes workspace; its bytes are not judged
    run ref "$1" "$2" kept
    run cuda "$1" "$2" kept
    [ -s "$tmp/ref.kept" ] && cmp -s "$tmp/cuda.kept" "$tmp/ref.kept"
}

row() { # row MODEL SPEC ERROR VERDICT
    case $4 in
    ok) passed=$((passed + 1)) ;;
    not*) ;;
    *) failed=$((failed + 1)) ;;
    esac
    printf '%-18s %-46s %-12s %s\n' "$1" "$2" "$3" "$4" | tee -a "$out/models.txt"
}

compare() { # compare MODEL SPEC
    run ref "$1" "$2" logits
    case $? in
    0) ;;
    2) row "$1" "$2" - 'not defined for this model' && return ;;
    *) row "$1" "$2" - "ref: $(head -n 1 "$tmp/ref.err")" && return ;;
    esac
    run cuda "$1" "$2" logits || { row "$1" "$2" - "cuda: bytes or run: $(head -n 1 "$tmp/cuda.err")"; return; }
    error=$("$bin/gpu-check" --logits "$tmp/cuda.logits" "$tmp/ref.logits") || { row "$1" "$2" "$error" 'cuda against ref'; return; }
    case $2 in
    *h2o*) same_kept "$1" "$2" || { row "$1" "$2" "$error" 'kept positions differ'; return; } ;;
    esac
    if [ "$2" = dense ]; then
        error=$("$bin/gpu-check" --logits "$tmp/cuda.logits" "$golden/$1/logits.f32") || { row "$1" "$2" "$error" 'against transformers'; return; }
    fi
    row "$1" "$2" "$error" ok
}

printf '%-18s %-46s %-12s %s\n' model technique 'logits off' verdict >"$out/models.txt"
cat "$out/models.txt"
for m in $models; do
    [ -f "$golden/$m/config.json" ] || continue
    for t in $techniques; do
        compare "$m" "$t"
    done
done
echo "$kernels_line"
echo "$passed passed, $failed failed" | tee -a "$out/models.txt"
[ "$failed" -eq 0 ]
