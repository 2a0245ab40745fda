#!/bin/sh
# deps.sh build|check - see to it that this machine has what kvproof is built (or tested) with.
# Says what is missing and why, installs it with apt as root (or sudo without a password), and where
# it may not, prints the exact command and stops.
set -u
what=${1:-build}
missing=
why=

need() { # need TEST PACKAGE REASON
    if ! sh -c "$1" >/dev/null 2>&1; then
        missing="$missing $2"
        why="$why
  $2: $3"
    fi
}

need "command -v ${CC:-gcc}" "${CC:-gcc}" 'the C compiler'
need 'command -v make' make 'the build'
need 'command -v pkg-config' pkg-config 'finds the libraries below'
need 'test -e /usr/include/stdio.h' libc6-dev 'C headers'
need 'pkg-config --exists jansson' libjansson-dev 'reads config.json, writes results'
need 'pkg-config --exists gsl' libgsl-dev 'statistics of measurements'
need 'pkg-config --exists openblas' libopenblas-dev 'matrix products on the CPU'
case "${CC:-gcc}" in
*clang*) need 'ls /usr/lib/llvm-*/lib/libomp.so' libomp-dev 'OpenMP for clang' ;;
esac
need 'command -v gnuplot' gnuplot-nox 'draws the charts'
if [ "$what" = check ]; then
    need 'pkg-config --exists check' check 'the unit tests'
fi
[ -z "$missing" ] && exit 0

cmd="apt-get install -y --no-install-recommends$missing"
echo "kvproof needs these packages:$why" >&2
if ! command -v apt-get >/dev/null 2>&1; then
    echo "this machine has no apt-get: install the equivalents of:$missing" >&2
    exit 1
fi
if [ "${NO_INSTALL:-}" = 1 ]; then
    echo "run: sudo apt-get update && sudo $cmd" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo=sudo
else
    echo "run: sudo apt-get update && sudo $cmd" >&2
    exit 1
fi
echo "installing:$missing" >&2
$sudo apt-get update -qq >/dev/null
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $sudo ${sudo:+env DEBIAN_FRONTEND=noninteractive} $cmd >/dev/null || {
    echo "apt-get failed: run: sudo apt-get update && sudo $cmd" >&2
    exit 1
}
