// Embedding, and its backward by sorted segments.
#include "base.cuh"
