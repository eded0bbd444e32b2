// What Hopper adds, behind thin wrappers: barriers in shared memory, the tensor copy engine, warpgroup products. Tests run
// the kernels on a CPU; there `tests/shim/hopper.h` stands in for this file, under the same guard.
#ifndef TINYLLM_HOPPER
#define TINYLLM_HOPPER
#include "ptx.cuh"

#endif
