// Gradient norm, AdamW, rounding of masters.
#include "base.cuh"
