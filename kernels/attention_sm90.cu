// Attention on Hopper (wgmma, TMA).
#include "base.cuh"
