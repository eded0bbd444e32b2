// Attention in f32, for the mode that checks.
#include "base.cuh"
