#include "pack.h"

#include <cstring>

namespace outthink {
namespace {

float widen(uint16_t half) {
    const uint32_t bits = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// To nearest, ties to even.
uint16_t narrow(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits | 0x00400000u) >> 16);
    return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

template <class From, class To>
void gather(const From* row, const std::vector<int32_t>& columns, To* out) {
    for (size_t i = 0; i < columns.size(); ++i) {
        const int32_t column = columns[i];
        if constexpr (std::is_same_v<From, To>) {
            out[i] = column < 0 ? To{} : row[column];
        } else if constexpr (std::is_same_v<To, float>) {
            out[i] = column < 0 ? 0.0f : widen(row[column]);
        } else {
            out[i] = column < 0 ? To{0} : narrow(row[column]);
        }
    }
}

// One output's inputs as words of `format`.
void gather_row(const std::vector<Source>& sources, int32_t index, const std::vector<int32_t>& columns, Format format,
                uint32_t* out) {
    for (const Source& source : sources) {
        if (index >= source.rows) {
            index -= source.rows;
            continue;
        }
        const ptrdiff_t start = ptrdiff_t{index} * source.columns;
        auto* floats = reinterpret_cast<float*>(out);
        auto* halves = reinterpret_cast<uint16_t*>(out);
        if (source.format == Format::f32) {
            const float* row = static_cast<const float*>(source.data) + start;
            format == Format::f32 ? gather(row, columns, floats) : gather(row, columns, halves);
        } else {
            const uint16_t* row = static_cast<const uint16_t*>(source.data) + start;
            format == Format::f32 ? gather(row, columns, floats) : gather(row, columns, halves);
        }
        return;
    }
}

}  // namespace

void pack(const std::vector<Source>& sources, const std::vector<int32_t>& row_map,
          const std::vector<int32_t>& column_map, Weights& weights) {
    const Format format = weights.linear.format;
    const size_t words = static_cast<size_t>(weights.linear.words);
    std::vector<uint32_t> rows(kLanes * words);
    for (size_t first = 0; first < row_map.size(); first += kLanes) {
        for (size_t r = 0; r < kLanes; ++r) {
            uint32_t* row = rows.data() + r * words;
            if (row_map[first + r] < 0) {
                std::memset(row, 0, words * sizeof(uint32_t));
            } else {
                gather_row(sources, row_map[first + r], column_map, format, row);
            }
        }
        uint32_t* tile = weights.tiles + first / kBlockOutputs * kBlockOutputs * words + first % kBlockOutputs;
        for (size_t w = 0; w < words; ++w) {
            for (size_t r = 0; r < kLanes; ++r) tile[w * kBlockOutputs + r] = rows[r * words + w];
        }
    }
}

}  // namespace outthink
