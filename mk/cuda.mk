# cuda.mk - the CUDA backend (a shared object), the probe, and what runs where there is a GPU
CUDA_HOME := $(if $(HAVE_CUDA),$(patsubst %/bin/,%,$(dir $(realpath $(NVCC)))))
NVFLAGS = -arch=$(NVARCH) -std=c++17 -O2 -lineinfo -I. -Iinclude \
          -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wshadow,-Wconversion,-Wformat=2 \
          $(if $(filter 1,$(WERROR)),-Werror=all-warnings -Xcompiler=-Werror)
cuda_src := $(sort $(filter-out kernels/cuda/probe.cu,$(wildcard kernels/cuda/*.cu)))
cuda_obj := $(patsubst %,$(B)/%.o,$(cuda_src))

cuda: $(B)/kvproof-cuda.so $(B)/gpu-probe
$(B)/nvflags: FORCE
	@mkdir -p $(B); f='$(NVCC) $(NVFLAGS)'; [ "$$f" = "$$(cat $@ 2>/dev/null)" ] || printf '%s\n' "$$f" > $@
$(B)/%.cu.o: %.cu $(B)/nvflags | deps
	$(call say,NVCC)
	@mkdir -p $(@D)
	$(Q)$(NVCC) $(NVFLAGS) -MMD -MP -c $< -o $@
# The runtime is inside; cuBLAS is found where this machine has it, or through LD_LIBRARY_PATH.
$(B)/kvproof-cuda.so: $(cuda_obj)
	$(call say,LD)
	$(Q)$(NVCC) $(NVFLAGS) -shared -cudart static -Xlinker=-rpath,$(CUDA_HOME)/lib64 $^ -lcublas -o $@
$(B)/gpu-probe: $(B)/kernels/cuda/probe.cu.o
	$(call say,LD)
	$(Q)$(NVCC) $(NVFLAGS) -cudart static -Xlinker=-rpath,$(CUDA_HOME)/lib64 $^ -lcublas -o $@
-include $(cuda_obj:.o=.d) $(B)/kernels/cuda/probe.cu.d

# ---- the kernel check, and the same kernels on the host -------------------------------------------------
# check holds a CUDA plugin against kernels/ref. Where there is no GPU the plugin is the same .cu files,
# compiled as C++ against tests/gpu/emulate/: slow, but it is their arithmetic and their indexing.
# Not under tsan, which does not follow fibers, and not without a C++ compiler.
ifeq ($(origin CXX),default)
CXX := $(if $(findstring clang,$(CC)),clang++,g++)
endif
ifneq ($(CONFIG),tsan)
emulated := $(if $(shell command -v $(CXX) 2>/dev/null),$(B)/kvproof-emulated.so $(B)/gpu-check)
endif
check_src := tests/gpu/check.c tests/gpu/lab.c tests/gpu/cases.c tests/gpu/attention_cases.c
emu_src := $(cuda_src) tests/gpu/emulate/emulate.cc
EMU_CXXFLAGS = -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off $(EMU_OPT) -Wall -Wextra -Wno-unknown-pragmas \
               $(if $(filter 1,$(WERROR)),-Werror) -Itests/gpu/emulate -I. -Iinclude
# The kernels in this tree's way; the scheduler and the loops in cuBLAS's place always fast, never instrumented.
EMU_OPT = $(OPT)
$(B)/emulate/tests/gpu/emulate/emulate.cc.o: EMU_OPT = -O2 -g -ftree-vectorize

$(B)/emuflags: FORCE
	@mkdir -p $(B); f='$(CXX) $(EMU_CXXFLAGS)'; [ "$$f" = "$$(cat $@ 2>/dev/null)" ] || printf '%s\n' "$$f" > $@
$(B)/emulate/%.o: % $(B)/emuflags | deps
	$(call say,CXX)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(EMU_CXXFLAGS) -MMD -MP -x c++ -c $< -o $@
$(B)/kvproof-emulated.so: $(emu_src:%=$(B)/emulate/%.o)
	$(call say,LD)
	$(Q)$(CXX) $(EMU_CXXFLAGS) -shared $^ -o $@
$(B)/gpu-check: $(call obj,$(check_src)) $(LIB)
	$(call say,LD)
	$(Q)$(CC) $(ALL_CFLAGS) $(LDFLAGS) $^ $(LDLIBS) -o $@
-include $(emu_src:%=$(B)/emulate/%.d) $(patsubst %.o,%.d,$(call obj,$(check_src)))

# ---- where there is a GPU -------------------------------------------------------------------------------
gpu-probe: $(if $(HAVE_CUDA),$(B)/gpu-probe)
	@scripts/gpu-probe.sh $(B)/gpu-probe data/measurements
gpu-check: all $(B)/gpu-check
	@scripts/gpu-check.sh $(B) tests/golden build/gpu-check
gpu-sanitize: all $(B)/gpu-check
	@scripts/gpu-sanitize.sh $(B)/gpu-check $(CUDA_HOME)

# Everything for a machine where nothing can be installed: jansson, gsl and OpenMP are inside the program.
BUNDLE_LIBS := -l:libjansson.a -l:libgsl.a -l:libgslcblas.a -l:libgomp.a -ldl -lm -lpthread
gpu-bundle:
	@$(if $(HAVE_CUDA),,echo 'gpu-bundle needs nvcc' && exit 1)
	@+$(MAKE) --no-print-directory B=build/bundle OPENBLAS=0 LDLIBS='$(BUNDLE_LIBS)' LDFLAGS='-Wl,--as-needed -static-libgcc' \
	  build/bundle/kvproof build/bundle/gpu-check build/bundle/kvproof-cuda.so build/bundle/gpu-probe
	@scripts/gpu-bundle.sh build/bundle build/gpu-bundle
.PHONY: cuda gpu-probe gpu-check gpu-sanitize gpu-bundle
