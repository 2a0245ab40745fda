/* recurrent_avx2.c - the loops where the compiler may use AVX2 and FMA; best_ops() in cpu.c asks the processor first. */
#if defined(__x86_64__)
#define LOOP __attribute__((target("avx2,fma,f16c"))) static
#define LOOPS_NAME cpu_rec_avx2
#include "kernels/cpu/ssm_avx2.h"
#define SSM_EIGHTS ssm_eights
#include "kernels/cpu/recurrent_loops.h"
#else
typedef int no_avx2; /* a translation unit is not empty */
#endif
