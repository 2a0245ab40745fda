#!/bin/sh
# emulated.sh - the CUDA kernels' arithmetic and indexing on the host (tests/gpu/emulate): each against the
# reference on a few random cases, then techniques through the whole program on a golden model: three in the
# release tree, one where sanitizers make it slow.
set -u
export KVPROOF_CUDA="$PWD/${B:?the build folder}/kvproof-emulated.so"
export ROUNDS=2 FLAGS='--tiny' MODELS="${MODELS:-llama-gqa}"
export TECHNIQUES='kivi:bits=4,group=8,residual=8+paged:8'
case $B in
*/release) TECHNIQUES="dense h2o:heavy=4,recent=6 $TECHNIQUES" ;;
esac
exec scripts/gpu-check.sh "$B" tests/golden "$B/emulated"
