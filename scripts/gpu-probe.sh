#!/bin/sh
# gpu-probe.sh PROGRAM DIR - run the probe and keep its JSON as DIR/probe-NAME-DATE.json: written beside it
# first and renamed, so that a file of that name is always whole. No GPU is a skip: one line, exit 0.
# QUICK=1: buffers of 256 MiB in place of 2 GiB.
set -u
program=$1 dir=$2
if [ ! -x "$program" ]; then
    echo "skipped: built without CUDA, so there is no $program"
    exit 0
fi
mkdir -p "$dir" || exit 1
tmp=$(mktemp "$dir/.probe-XXXXXX") || exit 1
trap 'rm -f "$tmp"' EXIT
"$program" ${QUICK:+--quick} >"$tmp"
status=$?
[ "$status" -eq 77 ] && exit 0
[ "$status" -eq 0 ] || exit "$status"
value() { sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}$/\1/p" "$tmp" | head -n 1; }
name=$(value device | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9.-')
date=$(value date | cut -c 1-10)
chmod 644 "$tmp"
mv "$tmp" "$dir/probe-$name-$date.json" && echo "$dir/probe-$name-$date.json"
