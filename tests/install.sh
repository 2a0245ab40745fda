#!/bin/sh
# install.sh BUILD - what make install leaves behind works: the binary with its own data, the library with
# nothing but pkg-config, and uninstall takes all files away.
set -u
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
passed=0 failed=0

check() { # check WHAT COMMAND...
    what=$1
    shift
    if "$@" >"$tmp/log" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAIL: $what:"
        head -n 5 "$tmp/log"
    fi
}

unset KVPROOF_DATA
at=$tmp/root/usr/local
# DESTDIR, not PREFIX: the prefix is compiled in, and nothing should be built anew.
inst() { "${MAKE:-make}" -s CONFIG="$(basename "$1")" PREFIX=/usr/local DESTDIR="$tmp/root" "$2"; }
check 'make install' inst "$1" install
check 'the installed binary finds its data' "$at/bin/kvproof" estimate llama-2-7b -d h200
cat >"$tmp/user.c" <<'C'
#include <kvproof/kvproof.h>

int main(void)
{
    struct kvp_model m;
    struct kvp_stack s = {0};
    struct kvp_estimate est;
    struct kvp_error e = {0};

    if (kvp_model_load(&m, MODEL, &e) != KVP_OK || kvp_stack_add(&s, "h2o:heavy=409,recent=409", &e) != KVP_OK ||
        kvp_estimate(&est, &m, &s, &(struct kvp_workload){.context = 4096}, &(struct kvp_options){0}, NULL, &e) != KVP_OK) {
        puts(e.text);
        return kvp_exit_status(e.code);
    }
    return est.memory.cache_bytes != 432218112; /* 2*32*32*818*128*2 + 32*32*818*4 */
}
C
user() {
    # shellcheck disable=SC2046
    ${CC:-gcc} -std=c11 -Wall -Wextra -Werror -DMODEL="\"$at/share/kvproof/models/llama-2-7b.json\"" "$tmp/user.c" -o "$tmp/user" \
        $(PKG_CONFIG_PATH=$at/lib/pkgconfig pkg-config --define-variable=prefix="$at" --cflags --libs kvproof) && "$tmp/user"
}
check 'a program with the installed library' user
check 'make uninstall' inst "$1" uninstall
left() { [ -z "$(find "$tmp/root" ! -type d)" ] || { find "$tmp/root" ! -type d && false; }; }
check 'uninstall leaves no file' left
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
