# cuda.mk - the CUDA backend (a shared object), the probe, and what runs where there is a GPU
CUDA_HOME := $(if $(HAVE_CUDA),$(patsubst %/bin/,%,$(dir $(realpath $(NVCC)))))
NVFLAGS = -arch=$(NVARCH) -std=c++17 -O2 -lineinfo -I. -Iinclude \
          -Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wshadow,-Wconversion,-Wformat=2 \
          $(if $(filter 1,$(WERROR)),-Werror=all-warnings -Xcompiler=-Werror)
cuda_src := $(sort $(filter-out kernels/cuda/probe.cu,$(wildcard kernels/cuda/*.cu)))
cuda_obj := $(patsubst %,$(B)/%.o,$(cuda_src))

cuda: $(B)/kvproof-cuda.so
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

-include $(cuda_obj:.o=.d)
.PHONY: cuda

# ---- the kernel check, and the same kernels on the host -------------------------------------------------
# check holds a CUDA plugin against kernels/ref. Where there is no GPU the plugin is the same .cu files,
# compiled as C++ against tests/gpu/emulate/: slow, but it is their arithmetic and their indexing.
CXX_OK := $(shell command -v $(CXX) 2>/dev/null)
check_src := tests/gpu/check.c tests/gpu/lab.c tests/gpu/cases.c tests/gpu/attention_cases.c
emu_src := $(cuda_src) tests/gpu/emulate/emulate.cc
EMU_CXXFLAGS = -std=c++17 -fPIC -fvisibility=hidden -ffp-contract=off $(OPT) -Wall -Wextra -Wno-unknown-pragmas \
               $(if $(filter 1,$(WERROR)),-Werror) -Itests/gpu/emulate -I. -Iinclude

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
