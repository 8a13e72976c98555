// Packing of weights into tiles; see Linear.
#pragma once

#include <vector>

#include "step.h"

namespace outthink {

// A row-major matrix of float32 or bfloat16, or of int8 codes with scales [rows, groups of packed inputs] already chosen.
struct Source {
    const void* data;
    Format format;
    int rows, columns;
    const float* scales = nullptr;
};

// How many scales an output of quantized weights has.
int num_scales_of(const Linear& linear);

// Fills the tiles: output o is row `row_map[o]` of the sources stacked, input i is column `column_map[i]`; -1 stands for
// zeros. The maps are as long as the padded weights are wide and high, and point inside the sources. int8 weights
// are rounded with the scale that lets an output's largest be represented. Codes are taken as they are.
// Returns the number of a source with a weight that no code can stand for, because it is not finite or too large; -1 if
// there is none. Weights that are not quantized are never refused: what is not finite shows in what they compute.
int pack(const std::vector<Source>& sources, const std::vector<int32_t>& row_map,
          const std::vector<int32_t>& column_map, Weights& weights, const Kernels& kernels, Pool& pool);

}  // namespace outthink
