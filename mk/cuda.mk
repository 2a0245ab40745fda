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
