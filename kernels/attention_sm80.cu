// Attention on tensor cores from sm_80 on (mma.sync).
#include "base.cuh"
