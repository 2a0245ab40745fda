#!/bin/sh
# demo.sh BUILD - the main job on a real config: every technique of this release is predicted, run on
# real kernels and compared, then two charts are drawn. The exit status is the proof's: 0 when all bytes
# agree, 1 when some do not (the table still shows them).
set -eu
answer=0
b=$1
model=${DEMO_MODEL:-qwen2.5-0.5b}
context=${DEMO_CONTEXT:-512}
out=build/demo
mkdir -p "$out"
rm -f "$out/validate.jsonl" "$out/validate.jsonl.part"

echo
echo "kvproof estimate $model -c 32k -d h200"
"$b/kvproof" estimate "$model" -c 32k -d h200

echo
echo "kvproof validate $model -c $context --all   (random weights; the sizes are the real config's)"
"$b/kvproof" validate "$model" -c "$context" --all --kv-cache-dtype f16 -o jsonl --out "$out/validate.jsonl" || answer=$?
[ -s "$out/validate.jsonl" ] || exit "$answer"
"$b/kvproof" show "$out/validate.jsonl"

"$b/kvproof" plot memory "$out/validate.jsonl" -o "$out/memory.svg"
"$b/kvproof" plot predicted-vs-measured "$out/validate.jsonl" -o "$out/predicted-vs-measured.svg"
echo
echo "charts: $out/memory.svg $out/predicted-vs-measured.svg   results: $out/validate.jsonl"
exit "$answer"
