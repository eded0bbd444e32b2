// What stands in for kernels/hopper.cuh on a CPU.
#define TINYLLM_HOPPER
