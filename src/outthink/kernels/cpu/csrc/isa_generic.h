// Vector operations in plain C++ on four-lane compiler vectors: SSE2, NEON, or whatever the target has.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace outthink {
namespace {

constexpr int kTileVectors = 2;  // even: gates and ups alternate
constexpr int kTileRows = 1;

using Four = float __attribute__((vector_size(16)));
using FourWords = uint32_t __attribute__((vector_size(16)));

struct Vec {
    Four v[4];
};
struct Words {
    FourWords v[4];
};

template <class Operation>
inline Vec each(Operation operation) {
    return {{operation(0), operation(1), operation(2), operation(3)}};
}

inline Vec splat(float x) {
    return each([&](int) { return Four{x, x, x, x}; });
}
inline Vec zero() { return splat(0.0f); }
inline Vec load(const float* p) {
    Vec x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline void store(float* p, Vec x) { std::memcpy(p, &x, sizeof x); }
inline Vec add(Vec x, Vec y) {
    return each([&](int i) { return x.v[i] + y.v[i]; });
}
inline Vec sub(Vec x, Vec y) {
    return each([&](int i) { return x.v[i] - y.v[i]; });
}
inline Vec mul(Vec x, Vec y) {
    return each([&](int i) { return x.v[i] * y.v[i]; });
}
inline Vec div(Vec x, Vec y) {
    return each([&](int i) { return x.v[i] / y.v[i]; });
}
// Two roundings: not every target has a fused operation.
inline Vec fma(Vec x, Vec y, Vec z) {
    return each([&](int i) { return x.v[i] * y.v[i] + z.v[i]; });
}
// Returns y where x is not a number.
inline Vec max(Vec x, Vec y) {
    return each([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
inline Vec min(Vec x, Vec y) {
    return each([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
}
inline float sum(Vec x) {
    const Four four = (x.v[0] + x.v[1]) + (x.v[2] + x.v[3]);
    return (four[0] + four[1]) + (four[2] + four[3]);
}
inline float largest(Vec x) {
    float lanes[16];
    store(lanes, x);
    float most = lanes[0];
    for (int i = 1; i < 16; ++i) most = lanes[i] > most ? lanes[i] : most;
    return most;
}
// For |x| < 2^22: adding 1.5 * 2^23 leaves no bits for a fraction.
inline Vec round_nearest(Vec x) {
    const Four magic = {12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
    return each([&](int i) { return (x.v[i] + magic) - magic; });
}
// A whole number kept within bounds; the lower one for what is no number, which may not be converted.
inline int32_t whole(float x, float least, float most) {
    return static_cast<int32_t>(x > least ? x < most ? x : most : least);
}
// For whole n in [-126, 128]: the power is infinite at 128.
inline Vec times_power_of_two(Vec x, Vec n) {
    float value[16], power[16];
    store(value, x);
    store(power, n);
    for (int i = 0; i < 16; ++i) {
        const uint32_t bits = static_cast<uint32_t>(whole(power[i], -126, 128) + 127) << 23;
        float factor;
        std::memcpy(&factor, &bits, 4);
        value[i] *= factor;
    }
    return load(value);
}
inline Vec swap_pairs(Vec x) {
    return each([&](int i) { return Four{x.v[i][1], x.v[i][0], x.v[i][3], x.v[i][2]}; });
}

// Lanes [begin, end) of x, `other` elsewhere.
inline Vec keep(Vec x, int begin, int end, float other) {
    float lanes[16];
    store(lanes, x);
    for (int i = 0; i < 16; ++i) lanes[i] = i >= begin && i < end ? lanes[i] : other;
    return load(lanes);
}

inline Words load_words(const uint32_t* p) {
    Words x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline Words splat_word(const uint32_t* p) {
    const FourWords x = {*p, *p, *p, *p};
    return {{x, x, x, x}};
}
inline Vec dot_f32(Vec acc, Words x, Words y) {
    return each([&](int i) { return acc.v[i] + reinterpret_cast<Four>(x.v[i]) * reinterpret_cast<Four>(y.v[i]); });
}
inline Vec dot_bf16(Vec acc, Words x, Words y) {
    return each([&](int i) {
        const Four even = reinterpret_cast<Four>(x.v[i] << 16) * reinterpret_cast<Four>(y.v[i] << 16);
        const FourWords top = {0xFFFF0000u, 0xFFFF0000u, 0xFFFF0000u, 0xFFFF0000u};
        const Four odd = reinterpret_cast<Four>(x.v[i] & top) * reinterpret_cast<Four>(y.v[i] & top);
        return (acc.v[i] + even) + odd;
    });
}

inline Vec load_bf16(const uint16_t* p) {
    uint32_t bits[16];
    for (int i = 0; i < 16; ++i) bits[i] = static_cast<uint32_t>(p[i]) << 16;
    Vec x;
    std::memcpy(&x, bits, sizeof x);
    return x;
}
inline void store_bf16(uint16_t* p, Vec x) {
    uint32_t bits[16];
    std::memcpy(bits, &x, sizeof x);
    for (int i = 0; i < 16; ++i) {
        const bool nan = (bits[i] & 0x7FFFFFFFu) > 0x7F800000u;
        const uint32_t rounded = nan ? bits[i] | 0x00400000u : bits[i] + 0x7FFFu + ((bits[i] >> 16) & 1u);
        p[i] = static_cast<uint16_t>(rounded >> 16);
    }
}

inline Vec load_f16(const uint16_t* p) {
    float lanes[16];
    for (int i = 0; i < 16; ++i) {
        // The bits moved to float32 read as the value times 2^-112, subnormal or not.
        const uint32_t bits = (static_cast<uint32_t>(p[i] & 0x7FFFu) << 13) | (static_cast<uint32_t>(p[i] >> 15) << 31);
        std::memcpy(lanes + i, &bits, 4);
        lanes[i] *= 5.192296858534828e33f;
    }
    return load(lanes);
}

struct Ints {
    int32_t v[16];
};

inline Ints splat_int(int32_t x) {
    Ints result;
    for (int i = 0; i < 16; ++i) result.v[i] = x;
    return result;
}
inline Vec to_float(Ints x) {
    float lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = static_cast<float>(x.v[i]);
    return load(lanes);
}
// Adds the products of four unsigned bytes of x with four signed ones of y.
inline Ints dot_int8(Ints acc, Words x, Words y) {
    uint8_t a[64];
    int8_t b[64];
    std::memcpy(a, &x, sizeof a);
    std::memcpy(b, &y, sizeof b);
    for (int i = 0; i < 16; ++i) {
        int32_t total = 0;
        for (int j = 0; j < 4; ++j) total += a[4 * i + j] * b[4 * i + j];
        acc.v[i] += total;
    }
    return acc;
}
inline Ints dot_int4(Ints acc, Words x, Words y) { return dot_int8(acc, x, y); }
inline Words low_halves(Words x) {
    const FourWords mask = {0x0F0F0F0Fu, 0x0F0F0F0Fu, 0x0F0F0F0Fu, 0x0F0F0F0Fu};
    return {{x.v[0] & mask, x.v[1] & mask, x.v[2] & mask, x.v[3] & mask}};
}
inline Words high_halves(Words x) { return low_halves({{x.v[0] >> 4, x.v[1] >> 4, x.v[2] >> 4, x.v[3] >> 4}}); }
// Whole numbers in [-127, 127].
inline void store_int8(int8_t* p, Vec x) {
    float lanes[16];
    store(lanes, x);
    for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(whole(lanes[i], -127, 127));
}

// Whole numbers in [0, 255].
inline void store_uint8(uint8_t* p, Vec x) {
    float lanes[16];
    store(lanes, x);
    for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(whole(lanes[i], 0, 255));
}
// x + 256 * y + z.
inline Ints add_wide(Ints x, Ints y, Ints z) {
    for (int i = 0; i < 16; ++i) x.v[i] += 256 * y.v[i] + z.v[i];
    return x;
}
inline Ints load_ints(const int32_t* p) {
    Ints x;
    std::memcpy(&x, p, sizeof x);
    return x;
}
inline void store_ints(int32_t* p, Ints x) { std::memcpy(p, &x, sizeof x); }

inline void prefetch(const void* p) { __builtin_prefetch(p); }
inline void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }  // into the second-level cache

}  // namespace
}  // namespace outthink
