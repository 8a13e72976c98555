#include "pack.h"

#include <algorithm>
#include <atomic>
#include <cmath>
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

float from_float16(uint16_t half) {
    const uint32_t bits = (static_cast<uint32_t>(half & 0x7FFFu) << 13) | (static_cast<uint32_t>(half >> 15) << 31);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value * 0x1p112f;
}

// Of a number in [-65504, 65504], to nearest, ties to even.
uint16_t to_float16(float value) {
    if (value < 0.0f) return static_cast<uint16_t>(0x8000u | to_float16(-value));
    // Adding 2^e rounds to the spacing of float16 there: 2^-24 below 2^-14, and 2^-10 of the leading bit above.
    const int exponent = std::max(std::ilogb(std::max(value, 0x1p-30f)), -14);
    const float magic = std::ldexp(1.0f, exponent + 13);
    const volatile float sum = value + magic;
    const float scaled = (sum - magic) * 0x1p-112f;
    uint32_t bits;
    std::memcpy(&bits, &scaled, sizeof bits);
    return static_cast<uint16_t>(bits >> 13);
}

// The number of the source that holds this row of the stack, whose place in it becomes `index`.
int source_of(const std::vector<Source>& sources, int32_t& index) {
    size_t s = 0;
    for (; index >= sources[s].rows; ++s) index -= sources[s].rows;
    return static_cast<int>(s);
}

template <class Element, class Convert>
void gather(const Source& source, int32_t row, const std::vector<int32_t>& columns, float* out, Convert convert) {
    const auto* elements = static_cast<const Element*>(source.data) + ptrdiff_t{row} * source.columns;
    for (size_t i = 0; i < columns.size(); ++i) out[i] = columns[i] < 0 ? 0.0f : convert(elements[columns[i]]);
}

// One output's inputs, or codes, as float32; exact for all sources.
void gather_row(const Source& source, int32_t row, const std::vector<int32_t>& columns, float* out) {
    const auto number = [](auto x) { return static_cast<float>(x); };
    if (source.format == Format::f32) return gather<float>(source, row, columns, out, number);
    if (source.format == Format::bf16) return gather<uint16_t>(source, row, columns, out, widen);
    gather<int8_t>(source, row, columns, out, number);
}

float largest(const float* x, int count) {
    float most = 0.0f;
    for (int i = 0; i < count; ++i) most = std::max(most, std::fabs(x[i]));
    return most;
}

// Whether there are codes for all of a row. Scales of int4 are float16: at most 65504, for code -8.
bool has_codes(const float* x, int count, Format format) {
    const float most = format == Format::int4 ? 8.0f * 65504.0f : 3.402823466e38f;
    bool inside = true;
    for (int i = 0; i < count; ++i) inside &= std::fabs(x[i]) <= most;  // false for what is no number
    return inside;
}

// To the nearest whole number, ties to even, for |x| < 2^22.
float nearest(float x) { return (x + 12582912.0f) - 12582912.0f; }

uint32_t code(float x, float inverse, float least, float most, int offset) {
    return static_cast<uint32_t>(static_cast<int>(nearest(std::clamp(x * inverse, least, most))) + offset);
}

// The float16 scale of a group of int4 weights. The largest weight becomes code -8, whatever its sign, or is cut to it:
// of some scales the one with the least squared error.
uint16_t int4_scale(const float* x, int count, const Kernels& kernels) {
    float extreme = 0.0f;
    for (int i = 0; i < count; ++i) extreme = std::fabs(x[i]) > std::fabs(extreme) ? x[i] : extreme;
    uint16_t best = 0;
    float least = -1.0f;
    for (const float part : {1.0f, 0.92f, 0.85f, 0.78f}) {
        const uint16_t scale = to_float16(extreme * part / -8.0f);
        const float error = kernels.int4_error(x, count, from_float16(scale));
        if (least < 0.0f || error < least) {
            least = error;
            best = scale;
        }
    }
    return best;
}

// The row's words, and its scales into `weights`. Where `scales` are given, the row holds codes of those.
void encode(const float* row, const float* scales, int output, Weights& weights, const Kernels& kernels,
            uint32_t* words) {
    const Linear& linear = weights.linear;
    const int inputs = linear.inputs;
    if (linear.format == Format::f32) {
        std::memcpy(words, row, static_cast<size_t>(inputs) * sizeof(float));
    } else if (linear.format == Format::bf16) {
        for (int i = 0; i < inputs; i += 2) {
            words[i / 2] = narrow(row[i]) | static_cast<uint32_t>(narrow(row[i + 1])) << 16;
        }
    } else if (linear.format == Format::int8) {
        const float most = largest(row, inputs);  // below 2^-120 codes are smaller, so that the inverse is finite
        const float scale = scales ? scales[0] : most > 0.0f ? std::max(most, 127.0f * 0x1p-127f) / 127.0f : 0.0f;
        const float inverse = scales ? 1.0f : scale > 0.0f ? 1.0f / scale : 0.0f;
        weights.scales[static_cast<size_t>(output)] = scale;
        std::fill(words, words + linear.words(), 0u);
        for (int i = 0; i < inputs; ++i) words[i / 4] |= code(row[i], inverse, -128, 127, 128) << (i % 4 * 8);
    } else {
        const int groups = (inputs + linear.group - 1) / linear.group;
        std::fill(words, words + linear.words(), 0u);
        for (int g = 0; g < groups; ++g) {
            const int begin = g * linear.group, end = std::min(begin + linear.group, inputs);
            const uint16_t scale = scales ? to_float16(scales[g]) : int4_scale(row + begin, end - begin, kernels);
            const ptrdiff_t tile = ptrdiff_t{output / kBlockOutputs} * groups + g;
            weights.group_scales[tile * kBlockOutputs + output % kBlockOutputs] = scale;
            const float value = from_float16(scale), inverse = scales ? 1.0f : value != 0.0f ? 1.0f / value : 0.0f;
            for (int i = begin; i < end; ++i) {
                words[i / 8] |= code(row[i], inverse, -8, 7, 8) << (i % 4 * 8 + i % 8 / 4 * 4);
            }
        }
    }
}

}  // namespace

int num_scales_of(const Linear& linear) {
    return linear.format == Format::int4 ? (linear.inputs + linear.group - 1) / linear.group : 1;
}

int pack(const std::vector<Source>& sources, const std::vector<int32_t>& row_map,
          const std::vector<int32_t>& column_map, Weights& weights, const Kernels& kernels, Pool& pool) {
    const size_t words = static_cast<size_t>(weights.linear.words()), threads = static_cast<size_t>(pool.size());
    std::vector<std::vector<float>> rows(threads, std::vector<float>(column_map.size()));
    std::vector<std::vector<uint32_t>> groups(threads, std::vector<uint32_t>(kLanes * words));
    std::atomic<int> refused{-1};
    pool.expect(true);
    pool.each(weights.linear.outputs / kLanes, false, [&](int item, int thread) {
        std::vector<float>& row = rows[static_cast<size_t>(thread)];
        uint32_t* encoded = groups[static_cast<size_t>(thread)].data();
        const size_t first = static_cast<size_t>(item) * kLanes;
        for (size_t r = 0; r < kLanes; ++r) {
            std::fill(row.begin(), row.end(), 0.0f);
            const float* scales = nullptr;
            if (int32_t index = row_map[first + r]; index >= 0) {
                const int number = source_of(sources, index);
                const Source& source = sources[static_cast<size_t>(number)];
                gather_row(source, index, column_map, row.data());
                if (is_quantized(weights.linear.format) && !source.scales &&
                    !has_codes(row.data(), static_cast<int>(row.size()), weights.linear.format)) {
                    refused.store(number, std::memory_order_relaxed);
                    return;
                }
                if (source.scales) scales = source.scales + index * ptrdiff_t{num_scales_of(weights.linear)};
            }
            encode(row.data(), scales, static_cast<int>(first + r), weights, kernels, encoded + r * words);
        }
        uint32_t* tile = weights.tiles + first / kBlockOutputs * kBlockOutputs * words + first % kBlockOutputs;
        for (size_t w = 0; w < words; ++w) {
            for (size_t r = 0; r < kLanes; ++r) tile[w * kBlockOutputs + r] = encoded[r * words + w];
        }
    });
    return refused.load(std::memory_order_relaxed);
}

}  // namespace outthink
