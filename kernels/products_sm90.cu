// Matrix products on Hopper (wgmma, TMA).
#include "base.cuh"
