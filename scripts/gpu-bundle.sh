#!/bin/sh
# gpu-bundle.sh BUILD DIR - put into DIR all that gpu-probe and gpu-check need on a machine where nothing can
# be installed, and refuse what would not run there: libraries beyond libc, libstdc++, libgcc and CUDA's own,
# or more than 32 MiB.
set -eu
build=$1 dir=$2
rm -rf "$dir"
mkdir -p "$dir/tests" "$dir/data"
for f in kvproof kvproof-cuda.so gpu-probe gpu-check; do
    strip -o "$dir/$f" "$build/$f"
done
cp -r data/models data/devices "$dir/data/"
cp -r tests/golden "$dir/tests/"
cp scripts/gpu-probe.sh scripts/gpu-check.sh "$dir/"
cat >"$dir/run.sh" <<'RUN'
#!/bin/sh
# run.sh - gpu-probe and gpu-check from this folder; JSON and tables under $OUT, else ./out.
# QUICK=1: a probe of seconds, fewer rounds. REAL=MODEL: which built-in model is proved at full width.
set -u
OUT=${OUT:-out}
mkdir -p "$OUT" && OUT=$(cd "$OUT" && pwd) || exit 1
cd "$(dirname "$0")" || exit 1
chmod +x kvproof gpu-probe gpu-check ./*.sh
if ldd kvproof-cuda.so | grep -q 'libcublas.*not found'; then
    lib=$(find /usr/local /opt /usr/lib /usr/lib64 -name 'libcublas.so.13*' 2>/dev/null | head -n 1)
    [ -n "$lib" ] || echo 'libcublas.so.13 is nowhere under /usr/local, /opt or /usr/lib: set LD_LIBRARY_PATH'
    export LD_LIBRARY_PATH="${lib%/*}:${LD_LIBRARY_PATH:-}"
fi
export KVPROOF_DATA="$PWD/data"
status=0 # a part that fails does not keep the others from running: the machine may not be lent again
./gpu-probe.sh ./gpu-probe "$OUT" || status=1
ROUNDS=${ROUNDS:-${QUICK:+5}} ./gpu-check.sh . tests/golden "$OUT" || status=1
if ! ./gpu-check --rounds 0 --quiet >/dev/null 2>&1; then
    echo 'NOTHING WAS MEASURED: no CUDA device answered (is the driver as new as the CUDA runtime in here?)'
    [ "$status" = 0 ] && status=77 # what harnesses read as a skip
    exit "$status"
fi
real=${REAL:-qwen2.5-0.5b}
./kvproof validate "$real" -c 1024 --all --kv-cache-dtype f16 --device cuda -q -o jsonl --out "$OUT/validate-$real.jsonl" &&
    ./kvproof show "$OUT/validate-$real.jsonl" | tee "$OUT/validate-$real.txt" || status=1
exit "$status"
RUN
chmod +x "$dir/run.sh"
strange=$(for f in kvproof kvproof-cuda.so gpu-probe gpu-check; do objdump -p "$dir/$f" | awk '$1 == "NEEDED" {print $2}'; done |
    sort -u | grep -vE '^(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s|libcublas|libcublasLt|ld-linux-x86-64)\.so' || true)
if [ -n "$strange" ]; then
    echo "the bundle would need libraries that a bare machine lacks: $strange" >&2
    exit 1
fi
bytes=$(du -sb "$dir" | cut -f 1)
echo "$dir: $bytes bytes ($((bytes >> 20)) MiB)"
if [ "$bytes" -gt $((32 << 20)) ]; then
    echo "$dir: more than 32 MiB" >&2
    exit 1
fi
