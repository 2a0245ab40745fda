/* recurrent_plain.c - the loops of recurrent_loops.h for any processor. */
#define LOOP static
#define LOOPS_NAME cpu_rec_plain
#include "kernels/cpu/recurrent_loops.h"
