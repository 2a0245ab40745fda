# make tsan                     races: kernels, validate and techniques suites under ThreadSanitizer, in build/tsan
# make tsan TSAN='kernels/gemm' some of them
#
# clang, because libomp has archer, a tool that tells ThreadSanitizer what OpenMP orders; gcc's libgomp has none, and every
# loop would be a race. Products are our own loops (OPENBLAS=0): serial, and ThreadSanitizer sees what they read. OpenBLAS's
# threaded library cannot be seen into, and Debian's serial one may not be called by several threads at once (it gives wrong
# sums). Two threads at least, and every kernel in parallel however small (kernels/cpu/cpu.h).
TSAN_CC ?= clang
TSAN    ?= $(filter kernels/% validate/% techniques/%,$(tests_src:tests/%.c=%))

tsan: deps test-deps
	@+$(MAKE) --no-print-directory CONFIG=tsan CC='$(TSAN_CC)' OPENBLAS=0 build/tsan/kvproof $(TSAN:%=build/tsan/tests/%)
	@CC='$(TSAN_CC)' tests/tsan.sh build/tsan $(TSAN)
.PHONY: tsan
