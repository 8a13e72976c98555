// What the machine can do at most: read memory, which bounds a step over few rows, and multiply, which bounds one over
// many.
#pragma once

#include <cstddef>

#include "kernels.h"

namespace outthink {

// Bytes per second, the best of several passes over a block that no cache should hold.
double read_bandwidth(size_t bytes, int threads);
// Multiplications per second of the inner loop of products with weights of this format, on data in the first-level
// cache; the best of several passes.
double multiply_rate(const Kernels& kernels, Format format, int threads);

}  // namespace outthink
