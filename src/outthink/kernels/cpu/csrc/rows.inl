// Operators on single rows: embedding, norm, rotation and the writing of keys and values. Included after an isa header.
#pragma once

#include <cstring>

#include "kernels.h"

namespace outthink {
namespace {

// exp(x) for x <= 88, relative error about 1e-6; below -87 it stays at exp(-87).
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
        float maximum = largest(most);
        *scales++ = maximum / 127.0f;
        if (!(sum(zeros) == 0.0f)) {
            // Infinite or no number: that must show in the result, not become some code.
            scales[-1] = __builtin_nanf("");
            maximum = 0.0f;
            for (auto& v : x) v = zero();
        }
        const Vec inverse = splat(maximum > 0.0f ? 127.0f / maximum : 0.0f);
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

inline void rotate_head(const RotateTask& task, const float* x, const float* gain, float scale, uint32_t* out) {
    Vec inverse = splat(1.0f);
    if (gain) inverse = splat(1.0f / root_of_mean_square(x, task.head_dim, task.padded_dim, task.eps));
    for (int i = 0; i < task.padded_dim; i += kLanes) {
        Vec v = load(x + i);
        if (gain) v = mul(mul(v, inverse), load(gain + i));
        const Vec turned = fma(v, load(task.cos + i), mul(swap_pairs(v), load(task.sin + i)));
        store_activation(task.format, out, i / kLanes, mul(turned, splat(scale)));
    }
}

// Values are kept finite: a masked position has weight 0, and 0 times infinity would not be 0.
inline void store_value(const RotateTask& task, const float* x, uint32_t* page) {
    const Vec most = splat(3.0e38f), least = splat(-3.0e38f);
    for (int i = 0; i < task.padded_dim; i += kLanes) {
        const Vec v = min(max(load(x + i), least), most);
        if (task.format == Format::f32) {
            store(reinterpret_cast<float*>(page) + task.slot * task.padded_dim + i, v);
        } else {
            uint16_t halves[kLanes];
            store_bf16(halves, v);
            auto* out = reinterpret_cast<uint16_t*>(page) + 2 * ((task.slot / 2) * task.padded_dim + i) + task.slot % 2;
            for (int j = 0; j < kLanes; ++j) out[2 * j] = halves[j];
        }
    }
}

void rotate(const RotateTask& task) {
    const int dim = task.padded_dim, words = words_of(task.format, dim);
    const float* x = task.projected;
    for (int h = 0; h < task.num_heads; ++h, x += dim) {
        rotate_head(task, x, task.q_gain, task.scale, task.queries + h * words);
    }
    uint32_t key[kMaxHeadDim];
    const float* v = x + task.num_kv_heads * dim;
    uint32_t* keys = task.page;
    uint32_t* values = keys + task.num_kv_heads * words * kPageSize;
    for (int h = 0; h < task.num_kv_heads; ++h, x += dim, v += dim) {
        rotate_head(task, x, task.k_gain, 1.0f, key);
        for (int w = 0; w < words; ++w) keys[w * kPageSize + task.slot] = key[w];
        store_value(task, v, values);
        keys += words * kPageSize;
        values += words * kPageSize;
    }
}

}  // namespace
}  // namespace outthink
