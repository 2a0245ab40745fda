/* cuda_fp16.h - in cuda_runtime.h */
#include <cuda_runtime.h>
