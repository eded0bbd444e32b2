// What matrix products leave to kernels of our own, and products where the library has none.
#include "base.cuh"
