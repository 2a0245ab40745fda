# make                 kvproof and libkvproof.a under build/$(CONFIG); CUDA backend where nvcc is
# make demo            install what is missing, build, prove five techniques on a real config
# make check           install what is missing, build, run every test
# make install         PREFIX=/usr/local, DESTDIR=
# make CONFIG=asan     also debug, tsan, cov: each has its own tree, none disturbs another
# make OPENBLAS=0      without OpenBLAS: matrix products in our own loops
# make CUDA=0          leave CUDA out; CUDA=1 fails when nvcc is missing; the default takes what is there
# make CC=clang        another compiler; V=1 shows commands; WERROR=1 as in CI
# make tsan            races (mk/tsan.mk)
# make kill-check      runs killed at 50 random points leave results whole and go on (tests/kill.sh)
# make valgrind, fuzz, fuzz-replay, lint, format, bench, optime-score ROWS=rows.csv
# make gpu-probe, gpu-check, gpu-sanitize, gpu-bundle   (docs/gpu.md)
# Define NO_INSTALL=1 if make may not call apt; it then prints the command and stops.
CONFIG ?= release
CUDA   ?= auto
NVARCH ?= sm_90a
PREFIX ?= /usr/local
B      := build/$(CONFIG)
.DELETE_ON_ERROR:
.SUFFIXES:
.DEFAULT_GOAL := all

ifeq ($(origin CC),default)
CC := gcc
endif
OPT_release := -O2 -g -fno-semantic-interposition
OPT_debug   := -O0 -g3
OPT_asan    := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
OPT_tsan    := -O1 -g -fsanitize=thread -DKVP_LEAST_THREADS=2 -DKVP_PARALLEL_FROM=1
OPT_cov     := -O0 -g --coverage
OPT := $(or $(OPT_$(CONFIG)),$(error CONFIG=$(CONFIG): use release, debug, asan, tsan or cov))
# Sanitizer and coverage trees leave CUDA out: nvcc's objects would not be instrumented.
ifneq ($(filter asan tsan cov,$(CONFIG)),)
override CUDA := 0
endif
NVCC ?= $(shell command -v nvcc 2>/dev/null)
HAVE_CUDA := $(if $(filter 0,$(CUDA)),,$(or $(NVCC),$(if $(filter 1,$(CUDA)),$(error CUDA=1, but no nvcc was found))))

version := $(shell sed -n 's/^.define KVP_VERSION "\(.*\)"/\1/p' include/kvproof/kvproof.h)
# openblas before gsl: gsl brings its own slow cblas, and the first library that has a symbol serves it.
PKGS := jansson $(if $(filter 0,$(OPENBLAS)),,openblas) gsl
CPPFLAGS += -I. -Iinclude -D_GNU_SOURCE -DKVP_DATADIR='"$(PREFIX)/share/kvproof"' $(if $(filter 0,$(OPENBLAS)),-DKVP_NO_OPENBLAS)
WARN := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wvla -Wconversion -Wundef -Wstrict-prototypes \
        -Wformat=2 -Wwrite-strings $(if $(filter 1,$(WERROR)),-Werror)
ALL_CFLAGS = -std=c11 -fPIC $(OPT) $(WARN) -fopenmp $(CPPFLAGS) $(shell pkg-config --cflags $(PKGS) 2>/dev/null) $(CFLAGS)
LDLIBS = $(shell pkg-config --libs $(PKGS) 2>/dev/null) -ldl -lm
Q   := $(if $(filter 1,$(V)),,@)
say  = $(if $(Q),@printf '  %-5s %s\n' $(1) $@)
obj  = $(patsubst %,$(B)/%.o,$(1))

lib := $(sort $(wildcard calc/*.c calc/*/*.c kernels/*.c kernels/ref/*.c kernels/cpu/*.c validate/*.c \
         validate/engine/*.c validate/caches/*.c validate/serve/*.c validate/measure/*.c plots/*.c plots/charts/*.c))
tests_src := $(sort $(wildcard tests/calc/*.c tests/kernels/*.c tests/validate/*.c tests/techniques/*.c tests/plots/*.c))
tests     := $(tests_src:tests/%.c=$(B)/tests/%)
LIB := $(B)/libkvproof.a

all: $(B)/kvproof
	@$(if $(HAVE_CUDA),,echo 'nvcc not found (or CUDA=0): built without the CUDA backend')

$(LIB): $(call obj,$(lib))
	$(call say,AR)
	$(Q)rm -f $@ && $(AR) rcs $@ $^
$(B)/kvproof: $(call obj,kvproof.c) $(LIB)
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

# Rewritten only when a flag really changed; every object depends on it.
$(B)/flags: FORCE
	@mkdir -p $(B); f='$(CC) $(subst ','"'"',$(ALL_CFLAGS))'; [ "$$f" = "$$(cat $@ 2>/dev/null)" ] || printf '%s\n' "$$f" > $@
$(B)/%.c.o: %.c $(B)/flags | deps
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CFLAGS) -MMD -MP -c $< -o $@
$(tests): $(B)/tests/%: $(B)/tests/%.c.o $(LIB)
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ $$(pkg-config --libs check) $(LDLIBS) -o $@

-include mk/cuda.mk mk/fuzz.mk mk/tsan.mk
ifneq ($(HAVE_CUDA),)
all: cuda
endif

# What a machine needs before anything compiles. Says what and why; never runs twice for nothing.
deps:
	@NO_INSTALL=$(NO_INSTALL) CC='$(CC)' scripts/deps.sh build
test-deps:
	@NO_INSTALL=$(NO_INSTALL) CC='$(CC)' scripts/deps.sh check

demo: all
	@scripts/demo.sh $(B)

# Every suite prints Check's own summary; run.sh closes with one line that adds them up.
check: deps test-deps all $(tests) $(emulated) $(if $(wildcard mk/fuzz.mk),fuzz-replay)
	@$(if $(emulated),,echo 'no C++ compiler, or tsan: the CUDA kernels are not run on the host')
	@B=$(B) LIBS="$(LDLIBS)" CUDA_BUILT=$(if $(HAVE_CUDA),1) tests/run.sh $(tests) $(if $(emulated),tests/gpu/emulated.sh)

valgrind: deps test-deps all $(tests)
	@B=$(B) tests/valgrind.sh $(tests)

# A run that is killed, at N random points: tests/kill.sh
kill-check: all
	@tests/kill.sh $(B) $(or $(N),50)

bench: all
	@scripts/bench.sh $(B)

# How well times are predicted that the fit never saw: ROWS=rows.csv [SEEDS=3] [BY=row]
optime-score: all
	@scripts/optime-score.sh $(B) '$(ROWS)' $(or $(SEEDS),3) $(BY)

install: all
	install -D -m 755 $(B)/kvproof $(DESTDIR)$(PREFIX)/bin/kvproof
	install -D -m 644 $(LIB) $(DESTDIR)$(PREFIX)/lib/libkvproof.a
	install -d $(DESTDIR)$(PREFIX)/include/kvproof $(DESTDIR)$(PREFIX)/lib/kvproof \
	  $(DESTDIR)$(PREFIX)/share/kvproof/models $(DESTDIR)$(PREFIX)/share/kvproof/devices
	install -m 644 include/kvproof/*.h $(DESTDIR)$(PREFIX)/include/kvproof
	install -m 644 data/models/*.json $(DESTDIR)$(PREFIX)/share/kvproof/models
	install -m 644 data/devices/*.json $(DESTDIR)$(PREFIX)/share/kvproof/devices
	install -D -m 644 docs/kvproof.1 $(DESTDIR)$(PREFIX)/share/man/man1/kvproof.1
	$(if $(HAVE_CUDA),install -m 755 $(B)/kvproof-cuda.so $(DESTDIR)$(PREFIX)/lib/kvproof/)
	install -d $(DESTDIR)$(PREFIX)/lib/pkgconfig
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(version)|' -e 's|@REQUIRES@|$(PKGS)|' kvproof.pc.in \
	  > $(DESTDIR)$(PREFIX)/lib/pkgconfig/kvproof.pc
uninstall:
	rm -rf $(DESTDIR)$(PREFIX)/bin/kvproof $(DESTDIR)$(PREFIX)/lib/libkvproof.a \
	  $(DESTDIR)$(PREFIX)/include/kvproof $(DESTDIR)$(PREFIX)/lib/kvproof $(DESTDIR)$(PREFIX)/share/kvproof \
	  $(DESTDIR)$(PREFIX)/share/man/man1/kvproof.1 $(DESTDIR)$(PREFIX)/lib/pkgconfig/kvproof.pc

# Each header compiles by itself, as C11.
hdr-check: deps
	@for h in include/kvproof/*.h kernels/*.h kernels/ops/*.h calc/*.h validate/*.h validate/*/*.h plots/*.h; do \
	  printf '#include "%s"\n' "$$h" | $(CC) $(ALL_CFLAGS) -fsyntax-only -x c - || exit 1; done
lint: deps
	@clang-tidy --quiet $(lib) kvproof.c -- -std=c11 $(CPPFLAGS) $(shell pkg-config --cflags $(PKGS))
format:
	@clang-format -i $$(git ls-files '*.c' '*.h')
clean:
	rm -rf build

-include $(patsubst %.o,%.d,$(call obj,$(lib) kvproof.c $(tests_src)))
.PHONY: all deps test-deps demo check valgrind kill-check bench optime-score install uninstall hdr-check lint format clean FORCE
