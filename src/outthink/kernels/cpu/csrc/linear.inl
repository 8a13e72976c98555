// Products of activations with packed weight tiles. Included after rows.inl.
#pragma once

#include "kernels.h"

namespace outthink {
namespace {

template <Format F>
inline Vec dot(Vec acc, Words a, Words b) {
    if constexpr (F == Format::f32) return dot_f32(acc, a, b);
    return dot_bf16(acc, a, b);
}

// Weights that will be needed after those of the loop that asks memory for them, two lines with each word.
struct Ahead {
    const uint32_t* weights;
    int step;    // words by which to go on
    int second;  // from the one line to the other

    void ask() {
        prefetch_far(weights);
        prefetch_far(weights + second);
        weights += step;
    }
};

template <int Rows>
using Tile = Vec[Rows][kTileVectors];

// Adds to rows x vectors of outputs; each accumulator runs over the words in order, whatever `Rows` is.
template <Format F, int Rows>
inline void multiply(const uint32_t* weights, const uint32_t* input, ptrdiff_t stride, int words, Ahead ahead,
                     Tile<Rows>& acc) {
    for (int k = 0; k < words; ++k, weights += kBlockOutputs) {
        Words w[kTileVectors];
        ahead.ask();
        for (int j = 0; j < kTileVectors; ++j) {
            prefetch(weights + 512 + j * kLanes);
            w[j] = load_words(weights + j * kLanes);
        }
        for (int r = 0; r < Rows; ++r) {
            const Words x = splat_word(input + r * stride + k);
            for (int j = 0; j < kTileVectors; ++j) acc[r][j] = dot<F>(acc[r][j], w[j], x);
        }
    }
}

// Exact sums of products with int8 activations over `count` inputs, on top of `start` for each row.
template <Format F, int Rows>
inline void multiply_codes(const uint32_t* weights, const uint32_t* input, ptrdiff_t stride, int count,
                           const int32_t (&start)[Rows], Ahead& ahead, Ints (&part)[Rows][kTileVectors]) {
    for (int r = 0; r < Rows; ++r) {
        for (int j = 0; j < kTileVectors; ++j) part[r][j] = splat_int(start[r]);
    }
    for (int k = 0; k < count / 4; k += F == Format::int8 ? 1 : 2, weights += kBlockOutputs) {
        Words w[kTileVectors];
        ahead.ask();
        for (int j = 0; j < kTileVectors; ++j) {
            prefetch(weights + 512 + j * kLanes);
            w[j] = load_words(weights + j * kLanes);
        }
        if constexpr (F == Format::int8) {
            for (int r = 0; r < Rows; ++r) {
                const Words x = splat_word(input + r * stride + k);
                for (int j = 0; j < kTileVectors; ++j) part[r][j] = dot_int8(part[r][j], w[j], x);
            }
        } else {
            for (int r = 0; r < Rows; ++r) {
                const Words x = splat_word(input + r * stride + k);
                for (int j = 0; j < kTileVectors; ++j) part[r][j] = dot_int4(part[r][j], low_halves(w[j]), x);
            }
            for (int r = 0; r < Rows; ++r) {
                const Words x = splat_word(input + r * stride + k + 1);
                for (int j = 0; j < kTileVectors; ++j) part[r][j] = dot_int4(part[r][j], high_halves(w[j]), x);
            }
        }
    }
}

// The same as `multiply` with int8 activations: groups of inputs are summed exactly, and added in order. Weights are
// unsigned, so that their offset times the activations' sum is taken off first.
template <Format F, int Group, int Rows>
inline void multiply_quantized(const Linear& linear, const uint32_t* weights, int block, int first, Span inputs,
                               const uint32_t* input, ptrdiff_t stride, Ahead ahead, Tile<Rows>& acc) {
    constexpr int kOffset = F == Format::int8 ? 128 : 8;
    const int scales_at = linear.inputs / 4, sums_at = scales_at + num_scales(linear.inputs);
    const int groups = (linear.inputs + Group - 1) / Group;
    // Kept in memory: the registers are the inner sums'.
    float total[Rows][kTileVectors][kLanes];
    for (int r = 0; r < Rows; ++r) {
        for (int j = 0; j < kTileVectors; ++j) store(total[r][j], acc[r][j]);
    }
    for (int begin = inputs.begin; begin < inputs.end; begin += Group) {
        const int count = inputs.end - begin < Group ? inputs.end - begin : Group;
        int32_t start[Rows];
        for (int r = 0; r < Rows; ++r) {
            const auto* sums = reinterpret_cast<const int32_t*>(input + r * stride + sums_at) + begin / kInputMultiple;
            start[r] = 0;
            for (int i = 0; i < count / kInputMultiple; ++i) start[r] -= kOffset * sums[i];
        }
        Ints part[Rows][kTileVectors];
        multiply_codes<F, Rows>(weights, input + begin / 4, stride, count, start, ahead, part);
        weights += words_of(F, count) * kBlockOutputs;
        Vec scales[kTileVectors];
        for (int j = 0; j < kTileVectors; ++j) {
            if constexpr (F == Format::int4) {
                const ptrdiff_t tile = static_cast<ptrdiff_t>(block) * groups + begin / Group;
                scales[j] = load_f16(linear.group_scales + tile * kBlockOutputs + (first + j) * kLanes);
            }
        }
        for (int r = 0; r < Rows; ++r) {
            const Vec scale = splat(reinterpret_cast<const float*>(input + r * stride + scales_at)[begin / kScaleGroup]);
            for (int j = 0; j < kTileVectors; ++j) {
                const Vec factor = F == Format::int4 ? mul(scales[j], scale) : scale;
                store(total[r][j], fma(to_float(part[r][j]), factor, load(total[r][j])));
            }
        }
        asm volatile("" ::: "memory");
    }
    for (int r = 0; r < Rows; ++r) {
        for (int j = 0; j < kTileVectors; ++j) acc[r][j] = load(total[r][j]);
    }
}

// 0 where the exponential of -x is infinite.
inline Vec silu(Vec x) {
    return div(x, add(splat(1.0f), exponential(min(sub(zero(), x), splat(89.0f)))));
}

inline void store_columns(float* out, Vec y, int count) {
    if (count >= kLanes) {
        store(out, y);
    } else if (count > 0) {
        float lanes[kLanes];
        store(lanes, y);
        for (int i = 0; i < count; ++i) out[i] = lanes[i];
    }
}

// Scales, bias, and what becomes of a tile's outputs.
template <Format F, int Rows>
inline void store_tile(const LinearTask& task, int block, int first, int row, Tile<Rows>& acc) {
    const int column = block * kBlockOutputs + first * kLanes;
    for (int r = 0; r < Rows; ++r) {
        if constexpr (F == Format::int8) {
            const float* scales = task.linear->scales + column;
            for (int j = 0; j < kTileVectors; ++j) acc[r][j] = mul(acc[r][j], load(scales + j * kLanes));
        }
        if (task.linear->bias) {
            const float* bias = task.linear->bias + column;
            for (int j = 0; j < kTileVectors; ++j) acc[r][j] = add(acc[r][j], load(bias + j * kLanes));
        }
        const ptrdiff_t start = (row + r) * task.result_stride;
        if (task.epilogue == Epilogue::silu_mul) {
            for (int j = 0; j + 1 < kTileVectors; j += 2) {
                const int index = (column / kLanes + j) / 2;
                store_activation(task.packed_format, task.packed + start, index, mul(silu(acc[r][j]), acc[r][j + 1]));
            }
            continue;
        }
        for (int j = 0; j < kTileVectors; ++j) {
            float* out = task.result + start + column + j * kLanes;
            if (task.epilogue == Epilogue::add) {
                store(out, add(load(out), acc[r][j]));
            } else {
                store_columns(out, acc[r][j], task.columns - column - j * kLanes);
            }
        }
    }
}

// A share of the inputs of a block for some of the rows; `sums` [rows][64] are those of the inputs before.
struct Part {
    int block, first;  // vector of the block's outputs
    int row;
    Span inputs;
    float* sums;
    Ahead ahead;
};

template <Format F, int Group, int Rows>
inline void linear_tile(const LinearTask& task, const Part& part) {
    const Linear& linear = *task.linear;
    const ptrdiff_t word = static_cast<ptrdiff_t>(part.block) * linear.words() + words_of(F, part.inputs.begin);
    const uint32_t* weights = linear.weights + word * kBlockOutputs + part.first * kLanes;
    const uint32_t* input = task.input + part.row * task.input_stride;
    const int words = words_of(F, part.inputs.end - part.inputs.begin);
    Tile<Rows> acc;
    for (int r = 0; r < Rows; ++r) {
        const float* sums = part.sums + r * kBlockOutputs + part.first * kLanes;
        for (int j = 0; j < kTileVectors; ++j) acc[r][j] = part.inputs.begin ? load(sums + j * kLanes) : zero();
    }
    if constexpr (is_quantized(F)) {
        multiply_quantized<F, Group, Rows>(linear, weights, part.block, part.first, part.inputs, input,
                                           task.input_stride, part.ahead, acc);
    } else {
        input += words_of(F, part.inputs.begin);
        multiply<F, Rows>(weights, input, task.input_stride, words, part.ahead, acc);
    }
    if (part.inputs.end == linear.inputs) return store_tile<F, Rows>(task, part.block, part.first, part.row, acc);
    for (int r = 0; r < Rows; ++r) {
        float* sums = part.sums + r * kBlockOutputs + part.first * kLanes;
        for (int j = 0; j < kTileVectors; ++j) store(sums + j * kLanes, acc[r][j]);
    }
}

template <Format F, int Group, int Rows = kTileRows>
inline void linear_rows(const LinearTask& task, const Part& part, int count) {
    if (count == Rows) {
        linear_tile<F, Group, Rows>(task, part);
    } else if constexpr (Rows > 1) {
        linear_rows<F, Group, Rows - 1>(task, part, count);
    }
}

// Of several tiles of rows all do one share of the inputs before the next: meanwhile the next share's weights, which lie
// behind these, come from memory.
template <Format F, int Group = kScaleGroup>
inline void linear_block(const LinearTask& task, int block, int row_begin, int row_end) {
    constexpr int kShare = 512, kVectors = kBlockOutputs / kLanes;
    const Linear& linear = *task.linear;
    const int rows = row_end - row_begin, tiles = (rows + kTileRows - 1) / kTileRows;
    const int share = tiles == 1 ? linear.inputs : kShare, passes = tiles * (kVectors / kTileVectors);
    float sums[kRowsPerItem * kBlockOutputs];
    for (int begin = 0; begin < linear.inputs; begin += share) {
        const Span inputs = {begin, begin + share < linear.inputs ? begin + share : linear.inputs};
        const int words = words_of(F, inputs.end - begin);
        const uint32_t* next = linear.weights + (static_cast<ptrdiff_t>(block) * linear.words() +
                                                 words_of(F, inputs.end)) * kBlockOutputs;
        int pass = 0;
        for (int first = 0; first < kVectors; first += kTileVectors) {
            for (int tile = 0; tile < tiles; ++tile, ++pass) {
                const int from = rows * tile / tiles, to = rows * (tile + 1) / tiles;
                const int lines = tiles == 1 ? 0 : passes < kVectors ? 2 : 1;
                const Ahead ahead = {next + static_cast<ptrdiff_t>(words) * kBlockOutputs * pass / passes,
                                     lines * kLanes, lines / 2 * kLanes};
                const Part part = {block, first, row_begin + from, inputs, sums + from * kBlockOutputs, ahead};
                linear_rows<F, Group>(task, part, to - from);
            }
        }
    }
}

void linear(const LinearTask& task, int block, int row_begin, int row_end) {
    switch (task.linear->format) {
        case Format::f32:
            return linear_block<Format::f32>(task, block, row_begin, row_end);
        case Format::bf16:
            return linear_block<Format::bf16>(task, block, row_begin, row_end);
        case Format::int8:
            return linear_block<Format::int8>(task, block, row_begin, row_end);
        case Format::int4:
            if (task.linear->group == kInputMultiple) {
                return linear_block<Format::int4, kInputMultiple>(task, block, row_begin, row_end);
            }
            return linear_block<Format::int4>(task, block, row_begin, row_end);
    }
}

template <Format F>
inline int64_t multiply_tile(int64_t rounds) {
    constexpr int kWords = kLanes;
    uint32_t weights[kWords * kBlockOutputs], input[kTileRows * kWords];
    float sums[kTileRows][kTileVectors][kLanes];
    for (uint32_t& word : weights) word = 0x3C013D02u;  // small numbers in every format
    for (uint32_t& word : input) word = 0x3D033C04u;
    const Ahead ahead = {weights, 0, 0};
    Tile<kTileRows> acc;
    for (int r = 0; r < kTileRows; ++r) {
        for (int j = 0; j < kTileVectors; ++j) acc[r][j] = zero();
    }
    const int32_t start[kTileRows] = {};
    for (int64_t i = 0; i < rounds; ++i) {
        asm volatile("" ::"r"(weights), "r"(input) : "memory");  // or all rounds would be one
        if constexpr (F == Format::int8) {
            Ints part[kTileRows][kTileVectors];
            Ahead again = ahead;
            multiply_codes<F, kTileRows>(weights, input, kWords, 4 * kWords, start, again, part);
            for (int r = 0; r < kTileRows; ++r) {
                for (int j = 0; j < kTileVectors; ++j) store(sums[r][j], to_float(part[r][j]));
            }
        } else {
            multiply<F, kTileRows>(weights, input, kWords, kWords, ahead, acc);
        }
    }
    if constexpr (F != Format::int8) {
        for (int r = 0; r < kTileRows; ++r) {
            for (int j = 0; j < kTileVectors; ++j) store(sums[r][j], acc[r][j]);
        }
    }
    asm volatile("" ::"r"(sums) : "memory");
    return rounds * kTileRows * kTileVectors * kLanes * kWords * (8 / words_of(F, 8));
}

int64_t multiply_cached(Format format, int64_t rounds) {
    switch (format) {
        case Format::f32:
            return multiply_tile<Format::f32>(rounds);
        case Format::bf16:
            return multiply_tile<Format::bf16>(rounds);
        default:
            return multiply_tile<Format::int8>(rounds);
    }
}

}  // namespace
}  // namespace outthink
