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

// Rows x vectors of outputs; each accumulator runs over the words in order, whatever `Rows` is.
template <Format F, int Rows>
inline void multiply(const uint32_t* weights, const uint32_t* input, ptrdiff_t stride, int words,
                     Vec (&acc)[Rows][kTileVectors]) {
    for (int r = 0; r < Rows; ++r) {
        for (int j = 0; j < kTileVectors; ++j) acc[r][j] = zero();
    }
    for (int k = 0; k < words; ++k, weights += kBlockOutputs) {
        Words w[kTileVectors];
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

inline Vec silu(Vec x) { return div(x, add(splat(1.0f), exponential(sub(zero(), x)))); }

inline void store_columns(float* out, Vec y, int count) {
    if (count >= kLanes) {
        store(out, y);
    } else if (count > 0) {
        float lanes[kLanes];
        store(lanes, y);
        for (int i = 0; i < count; ++i) out[i] = lanes[i];
    }
}

template <Format F, int Rows>
inline void linear_tile(const LinearTask& task, int block, int first, int row) {
    const Linear& linear = *task.linear;
    Vec acc[Rows][kTileVectors];
    multiply<F, Rows>(linear.weights + static_cast<ptrdiff_t>(block) * linear.words * kBlockOutputs + first * kLanes,
                      task.input + row * task.input_stride, task.input_stride, linear.words, acc);
    const int column = block * kBlockOutputs + first * kLanes;
    for (int r = 0; r < Rows; ++r) {
        if (linear.bias) {
            for (int j = 0; j < kTileVectors; ++j) acc[r][j] = add(acc[r][j], load(linear.bias + column + j * kLanes));
        }
        const ptrdiff_t start = (row + r) * task.result_stride;
        if (task.epilogue == Epilogue::silu_mul) {
            for (int j = 0; j + 1 < kTileVectors; j += 2) {
                const int index = (column / kLanes + j) / 2;
                store_activation(F, task.packed + start, index, mul(silu(acc[r][j]), acc[r][j + 1]));
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

template <Format F, int Rows = kTileRows>
inline void linear_rows(const LinearTask& task, int block, int first, int row, int count) {
    if (count == Rows) {
        linear_tile<F, Rows>(task, block, first, row);
    } else if constexpr (Rows > 1) {
        linear_rows<F, Rows - 1>(task, block, first, row, count);
    }
}

template <Format F>
inline void linear_block(const LinearTask& task, int block, int row_begin, int row_end) {
    const int rows = row_end - row_begin, tiles = (rows + kTileRows - 1) / kTileRows;
    for (int tile = 0; tile < tiles; ++tile) {
        const int begin = row_begin + rows * tile / tiles, end = row_begin + rows * (tile + 1) / tiles;
        for (int first = 0; first < kBlockOutputs / kLanes; first += kTileVectors) {
            linear_rows<F>(task, block, first, begin, end - begin);
        }
    }
}

void linear(const LinearTask& task, int block, int row_begin, int row_end) {
    if (task.linear->format == Format::f32) {
        linear_block<Format::f32>(task, block, row_begin, row_end);
    } else {
        linear_block<Format::bf16>(task, block, row_begin, row_end);
    }
}

}  // namespace
}  // namespace outthink
