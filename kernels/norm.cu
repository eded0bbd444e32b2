// LayerNorm, forward and backward.
#include "base.cuh"
