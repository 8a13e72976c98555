// Operators on single rows: embedding, norm, rotation and the writing of keys and values. Included after an isa header.
#pragma once

#include <cstring>

#include "kernels.h"

namespace outthink {
namespace {

// exp(x), relative error about 1e-6; below -87 it stays at exp(-87). From 88.4 to 89 it is infinite; beyond that it may
// be anything.
inline Vec exponential(Vec x) {
    x = max(x, splat(-87.0f));
    const Vec n = round_nearest(mul(x, splat(1.44269504f)));
    // ln 2 in two parts, so that the remainder is exact enough.
    Vec r = fma(n, splat(-0.693359375f), x);
    r = fma(n, splat(2.12194440e-4f), r);
    Vec p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = fma(mul(r, r), p, add(r, splat(1.0f)));
    return times_power_of_two(p, n);
}

// The same for x up to 0, with less work.
inline Vec exponential_below_one(Vec x) {
    x = max(mul(x, splat(1.44269504f)), splat(-126.0f));
    const Vec n = round_nearest(x);
    const Vec r = sub(x, n);
    // 2^r: for large |x| the error of the product above is the larger one, and then the result hardly counts.
    Vec p = splat(0x1.5bba08p-10f);
    p = fma(p, r, splat(0x1.3cea88p-7f));
    p = fma(p, r, splat(0x1.c6b752p-5f));
    p = fma(p, r, splat(0x1.ebf9bcp-3f));
    p = fma(p, r, splat(0x1.62e42ap-1f));
    p = fma(p, r, splat(1.0f));
    return times_power_of_two(p, n);
}

// Vector number `index` of a row of activations, in the format of the products that will read it.
inline void store_activation(Format format, uint32_t* row, int index, Vec x) {
    if (format == Format::f32) {
        store(reinterpret_cast<float*>(row) + index * kLanes, x);
    } else {
        store_bf16(reinterpret_cast<uint16_t*>(row) + index * kLanes, x);
    }
}

inline float root_of_mean_square(const float* x, int size, int padded, float eps) {
    Vec squares = zero();
    for (int i = 0; i < padded; i += kLanes) {
        const Vec v = load(x + i);
        squares = fma(v, v, squares);
    }
    return __builtin_sqrtf(sum(squares) / static_cast<float>(size) + eps);
}

void embed(const void* source, Format format, int size, int padded, float* out) {
    const int whole = size / kLanes * kLanes;
    if (format == Format::f32) {
        std::memcpy(out, source, static_cast<size_t>(size) * sizeof(float));
    } else {
        const auto* row = static_cast<const uint16_t*>(source);
        for (int i = 0; i < whole; i += kLanes) store(out + i, load_bf16(row + i));
        for (int i = whole; i < size; ++i) {
            const uint32_t bits = static_cast<uint32_t>(row[i]) << 16;
            std::memcpy(out + i, &bits, sizeof bits);
        }
    }
    for (int i = size; i < padded; ++i) out[i] = 0.0f;
}

// What the last of `codes` codes stands for, where `largest` is to be represented: at least so much that scales and their
// inverses are finite.
inline float span_of(float largest, float codes) {
    const float least = codes * 0x1p-127f;
    return largest > least ? largest : least;
}

// Calls value(i) for elements i, i + 16, ... and keeps them as int8 with a scale for each 128. Half way between two
// codes goes to the even one.
template <class Value>
inline void quantize_row(int padded, uint32_t* out, Value value) {
    auto* codes = reinterpret_cast<int8_t*>(out);
    auto* scales = reinterpret_cast<float*>(out + padded / 4);
    auto* sums = reinterpret_cast<int32_t*>(scales + num_scales(padded));
    for (int begin = 0; begin < padded; begin += kScaleGroup) {
        const int count = padded - begin < kScaleGroup ? padded - begin : kScaleGroup;
        Vec x[kScaleGroup / kLanes], most = zero(), zeros = zero();
        for (int i = 0; i < count / kLanes; ++i) {
            x[i] = value(begin + i * kLanes);
            most = max(most, max(x[i], sub(zero(), x[i])));
            zeros = fma(x[i], zero(), zeros);
        }
        const float span = span_of(largest(most), 127.0f);
        *scales++ = span / 127.0f;
        if (!(sum(zeros) == 0.0f)) {
            // Infinite or no number: that must show in the result, not become some code.
            scales[-1] = __builtin_nanf("");
            for (auto& v : x) v = zero();
        }
        const Vec inverse = splat(127.0f / span);
        for (int i = 0; i < count / kLanes; i += 2) {
            const Vec a = round_nearest(mul(x[i], inverse)), b = round_nearest(mul(x[i + 1], inverse));
            store_int8(codes + begin + i * kLanes, a);
            store_int8(codes + begin + (i + 1) * kLanes, b);
            *sums++ = static_cast<int32_t>(sum(add(a, b)));
        }
    }
}

void quantize(const QuantizeTask& task) {
    quantize_row(task.padded, task.out, [&](int i) { return load(task.x + i); });
}

float int4_error(const float* x, int count, float scale) {
    const Vec inverse = splat(scale != 0.0f ? 1.0f / scale : 0.0f);
    Vec total = zero();
    for (int i = 0; i < count; i += kLanes) {
        const Vec v = load(x + i);
        const Vec code = min(max(round_nearest(mul(v, inverse)), splat(-8.0f)), splat(7.0f));
        const Vec error = sub(mul(code, splat(scale)), v);
        total = fma(error, error, total);
    }
    return sum(total);
}

void normalize(const NormTask& task) {
    const Vec inverse = splat(1.0f / root_of_mean_square(task.x, task.size, task.padded, task.eps));
    if (task.format == Format::int8) {
        quantize_row(task.padded, task.out,
                     [&](int i) { return mul(mul(load(task.x + i), inverse), load(task.gain + i)); });
        return;
    }
    for (int i = 0; i < task.padded; i += kLanes) {
        const Vec y = mul(mul(load(task.x + i), inverse), load(task.gain + i));
        store_activation(task.format, task.out, i / kLanes, y);
    }
}

inline void rotate_head(const RotateTask& task, const float* x, const float* gain, float scale, Vec* out) {
    Vec inverse = splat(1.0f);
    if (gain) inverse = splat(1.0f / root_of_mean_square(x, task.head_dim, task.padded_dim, task.eps));
    for (int i = 0; i < task.padded_dim; i += kLanes) {
        Vec v = load(x + i);
        if (gain) v = mul(mul(v, inverse), load(gain + i));
        const Vec turned = fma(v, load(task.cos + i), mul(swap_pairs(v), load(task.sin + i)));
        out[i / kLanes] = mul(turned, splat(scale));
    }
}

inline float largest_magnitude(const Vec* x, int count) {
    Vec most = zero();
    for (int i = 0; i < count; ++i) most = max(max(x[i], sub(zero(), x[i])), most);
    return largest(most);
}

// As two int8 planes, 256 * high + low, with a scale. See query_words_of.
inline void store_wide_query(const Vec* x, int count, uint32_t* out) {
    const float span = span_of(largest_magnitude(x, count), 32512.0f);
    const Vec inverse = splat(32512.0f / span);
    auto* high = reinterpret_cast<int8_t*>(out);
    int8_t* low = high + count * kLanes;
    Vec high_sum = zero(), low_sum = zero(), zeros = zero();
    for (int i = 0; i < count; ++i) {
        const Vec code = round_nearest(mul(x[i], inverse));
        const Vec h = round_nearest(mul(code, splat(1.0f / 256.0f)));
        const Vec l = min(fma(h, splat(-256.0f), code), splat(127.0f));
        store_int8(high + i * kLanes, h);
        store_int8(low + i * kLanes, l);
        high_sum = add(high_sum, h);
        low_sum = add(low_sum, l);
        zeros = fma(x[i], zero(), zeros);
    }
    const bool finite = sum(zeros) == 0.0f;
    uint32_t* tail = out + count * kLanes / 2;
    const float scale = finite ? span / 32512.0f : __builtin_nanf("");
    const int32_t sums[2] = {finite ? static_cast<int32_t>(sum(high_sum)) : 0,
                             finite ? static_cast<int32_t>(sum(low_sum)) : 0};
    std::memcpy(tail, &scale, sizeof scale);
    std::memcpy(tail + 1, sums, sizeof sums);
}

// As int8, with the bfloat16 scale that is returned. What is not finite gets a scale that is not a number.
inline uint16_t quantize_head(const Vec* x, int count, int8_t* codes) {
    Vec zeros = zero();
    for (int i = 0; i < count; ++i) zeros = fma(x[i], zero(), zeros);
    const bool finite = sum(zeros) == 0.0f;
    uint32_t bits;
    const float wanted = span_of(finite ? largest_magnitude(x, count) : 0.0f, 127.0f) / 127.0f;
    std::memcpy(&bits, &wanted, sizeof bits);
    bits = finite ? (bits + 0xFFFFu) & 0xFFFF0000u : 0x7FC00000u;  // up, so that the largest stays within 127
    float scale;
    std::memcpy(&scale, &bits, sizeof scale);
    const Vec inverse = splat(1.0f / scale);
    for (int i = 0; i < count; ++i) {
        store_int8(codes + i * kLanes, round_nearest(mul(finite ? x[i] : zero(), inverse)));
    }
    return static_cast<uint16_t>(bits >> 16);
}

// Values are kept finite: a masked position has weight 0, and 0 times infinity would not be 0. Returns whether they were.
inline bool load_value(const float* x, int count, Vec* out) {
    Vec zeros = zero();
    for (int i = 0; i < count; ++i) {
        const Vec v = load(x + i * kLanes);
        zeros = fma(v, zero(), zeros);
        out[i] = min(max(v, splat(-3.0e38f)), splat(3.0e38f));
    }
    return sum(zeros) == 0.0f;
}

inline void store_value(const RotateTask& task, const Vec* x, uint32_t* page) {
    const int dim = task.padded_dim;
    for (int i = 0; i < dim; i += kLanes) {
        if (task.format == Format::f32) {
            store(reinterpret_cast<float*>(page) + task.slot * dim + i, x[i / kLanes]);
        } else {
            uint16_t halves[kLanes];
            store_bf16(halves, x[i / kLanes]);
            auto* out = reinterpret_cast<uint16_t*>(page) + 2 * (task.slot / 2 * dim + i) + task.slot % 2;
            for (int j = 0; j < kLanes; ++j) out[2 * j] = halves[j];
        }
    }
}

void rotate(const RotateTask& task) {
    const int dim = task.padded_dim, words = words_of(task.format, dim), heads = task.num_kv_heads;
    const float* x = task.projected;
    Vec head[kMaxHeadDim / kLanes];
    for (int h = 0; h < task.num_heads; ++h, x += dim) {
        rotate_head(task, x, task.q_gain, task.scale, head);
        uint32_t* query = task.queries + h * query_words_of(task.format, dim);
        if (task.format == Format::int8) {
            store_wide_query(head, dim / kLanes, query);
            continue;
        }
        for (int i = 0; i < dim / kLanes; ++i) store_activation(task.format, query, i, head[i]);
    }
    uint32_t row[kMaxHeadDim];
    Vec value[kMaxHeadDim / kLanes];
    const float* v = x + heads * dim;
    uint32_t* keys = task.page;
    uint32_t* values = task.page + page_values_at(task.format, heads, dim);
    auto* scales = reinterpret_cast<uint16_t*>(task.page + page_scales_at(task.format, heads, dim)) + task.slot;
    for (int h = 0; h < heads; ++h, x += dim, v += dim, keys += words * kPageSize, values += words * kPageSize) {
        rotate_head(task, x, task.k_gain, 1.0f, head);
        // A value that is not finite is told by its key, whose score is looked at wherever it is not masked.
        if (!load_value(v, dim / kLanes, value)) {
            for (int i = 0; i < dim / kLanes; ++i) head[i] = splat(__builtin_nanf(""));
        }
        if (task.format == Format::int8) {
            auto* codes = reinterpret_cast<int8_t*>(row);
            scales[h * kPageSize] = quantize_head(head, dim / kLanes, codes);
            for (int w = 0; w < words; ++w) keys[w * kPageSize + task.slot] = row[w] ^ 0x80808080u;
            scales[(heads + h) * kPageSize] = quantize_head(value, dim / kLanes, codes);
            auto* out = reinterpret_cast<int8_t*>(values) + 4 * (task.slot / 4 * dim) + task.slot % 4;
            for (int i = 0; i < dim; ++i) out[4 * i] = codes[i];
            continue;
        }
        for (int i = 0; i < dim / kLanes; ++i) store_activation(task.format, row, i, head[i]);
        for (int w = 0; w < words; ++w) keys[w * kPageSize + task.slot] = row[w];
        store_value(task, value, values);
    }
}

}  // namespace
}  // namespace outthink
