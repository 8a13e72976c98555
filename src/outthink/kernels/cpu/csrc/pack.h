// Packing of weights into tiles; see Linear.
#pragma once

#include <vector>

#include "step.h"

namespace outthink {

// A row-major matrix of float32 or bfloat16.
struct Source {
    const void* data;
    Format format;
    int rows, columns;
};

// Output o of the packed weights is row `row_map[o]` of the sources stacked, input i is column `column_map[i]`;
// -1 stands for zeros. Sizes of both maps are padded: outputs to 64, inputs to 16.
Weights pack(const std::vector<Source>& sources, const std::vector<int32_t>& row_map,
             const std::vector<int32_t>& column_map, Format format);

}  // namespace outthink
