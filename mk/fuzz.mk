# make fuzz-replay     every file of tests/fuzz/corpus through its target, any compiler (part of make check)
# make fuzz            libFuzzer with ASan and UBSan, FUZZ_TIME seconds a target; clang and its runtime
# make fuzz FUZZ=spec  one target. New inputs go to build/fuzz/found/TARGET, a crash to build/fuzz/crash-*.
FUZZ      ?= config spec checkpoint trace result
FUZZ_TIME ?= 600
FUZZ_CC   ?= clang
FUZZ_OPT  := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all
fuzz_all  := config spec checkpoint trace result
fuzz_src  := $(fuzz_all:%=tests/fuzz/fuzz_%.c) tests/fuzz/replay.c
fuzz_lib  := $(filter calc/% plots/charts/%,$(lib)) plots/gp.c plots/results.c plots/title.c validate/result.c

$(fuzz_all:%=$(B)/tests/fuzz/replay_%): $(B)/tests/fuzz/replay_%: $(B)/tests/fuzz/fuzz_%.c.o $(B)/tests/fuzz/replay.c.o $(LIB)
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@

fuzz-replay: $(fuzz_all:%=$(B)/tests/fuzz/replay_%)
	@for t in $(fuzz_all); do echo "== fuzz corpus: $$t"; $(B)/tests/fuzz/replay_$$t tests/fuzz/corpus/$$t || exit 1; done

fuzz-deps:
	@echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d && n ? 0 : 0; }' | \
	  $(FUZZ_CC) -fsanitize=fuzzer,address,undefined -x c - -o /dev/null 2>/dev/null || \
	  { echo 'make fuzz needs clang with libFuzzer and the sanitizers: sudo apt-get install -y clang libclang-rt-14-dev' \
	    '(the number is the major version of clang)' >&2; exit 1; }

build/fuzz/fuzz_%: tests/fuzz/fuzz_%.c tests/fuzz/fuzz.h $(fuzz_lib) $(wildcard calc/*.h plots/*.h plots/charts/*.h include/kvproof/*.h) | deps fuzz-deps
	$(call say,FUZZ)
	@mkdir -p $(@D)
	$(Q)$(FUZZ_CC) -std=c11 $(FUZZ_OPT) $(CPPFLAGS) $$(pkg-config --cflags $(PKGS)) $< $(fuzz_lib) \
	  $$(pkg-config --libs $(PKGS)) -lm -o $@

fuzz: $(FUZZ:%=build/fuzz/fuzz_%)
	@for t in $(FUZZ); do mkdir -p build/fuzz/found/$$t; \
	  build/fuzz/fuzz_$$t -max_total_time=$(FUZZ_TIME) -max_len=4096 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
	    -dict=tests/fuzz/$$t.dict -artifact_prefix=build/fuzz/ build/fuzz/found/$$t tests/fuzz/corpus/$$t || exit 1; done

-include $(patsubst %.o,%.d,$(call obj,$(fuzz_src)))
.PHONY: fuzz fuzz-deps fuzz-replay
