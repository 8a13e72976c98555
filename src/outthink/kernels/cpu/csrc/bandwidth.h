// How fast threads read memory: the limit of any computation that reads each weight once.
#pragma once

#include <cstddef>

namespace outthink {

// Bytes per second, the best of several passes over a block that no cache should hold.
double read_bandwidth(size_t bytes, int threads);

}  // namespace outthink
