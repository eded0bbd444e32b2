// The classifier: gathered rows, loss and its gradient in one pass over the logits.
#include "base.cuh"
