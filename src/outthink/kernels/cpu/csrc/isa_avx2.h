// Vector operations on AVX2 with FMA: two registers are one logical vector.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace outthink {
namespace {

constexpr int kTileVectors = 2;  // 8 accumulator registers with 2 rows
constexpr int kTileRows = 2;

struct Vec {
    __m256 a, b;
};
struct Words {
    __m256i a, b;
};

inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Vec splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, Vec x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
inline Vec add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline Vec sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline Vec mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline Vec div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline Vec fma(Vec x, Vec y, Vec z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
// Returns y where x is not a number.
inline Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }

inline float sum(Vec x) {
    const __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}
inline float largest(Vec x) {
    const __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
inline Vec round_nearest(Vec x) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(x.a, mode), _mm256_round_ps(x.b, mode)};
}
inline __m256 power_of_two(__m256 n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
// For n in [-126, 128]: the power is infinite at 128.
inline Vec times_power_of_two(Vec x, Vec n) {
    return {_mm256_mul_ps(x.a, power_of_two(n.a)), _mm256_mul_ps(x.b, power_of_two(n.b))};
}
inline Vec swap_pairs(Vec x) { return {_mm256_permute_ps(x.a, 0xB1), _mm256_permute_ps(x.b, 0xB1)}; }

// Lanes [begin, end) of x, `other` elsewhere.
inline Vec keep(Vec x, int begin, int end, float other) {
    const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
    const __m256i before = _mm256_set1_epi32(begin - 1), after = _mm256_set1_epi32(end);
    const auto inside = [&](__m256i lane) {
        return _mm256_castsi256_ps(_mm256_and_si256(_mm256_cmpgt_epi32(lane, before), _mm256_cmpgt_epi32(after, lane)));
    };
    const __m256 fill = _mm256_set1_ps(other);
    return {_mm256_blendv_ps(fill, x.a, inside(low)), _mm256_blendv_ps(fill, x.b, inside(high))};
}

inline Words load_words(const uint32_t* p) {
    const auto* q = reinterpret_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
inline Words splat_word(const uint32_t* p) {
    const __m256i x = _mm256_set1_epi32(static_cast<int>(*p));
    return {x, x};
}
inline Vec dot_f32(Vec acc, Words x, Words y) {
    return {_mm256_fmadd_ps(_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(y.a), acc.a),
            _mm256_fmadd_ps(_mm256_castsi256_ps(x.b), _mm256_castsi256_ps(y.b), acc.b)};
}
inline __m256 even_half(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
inline __m256 odd_half(__m256i x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xFFFF0000u))));
}
inline Vec dot_bf16(Vec acc, Words x, Words y) {
    acc.a = _mm256_fmadd_ps(even_half(x.a), even_half(y.a), acc.a);
    acc.b = _mm256_fmadd_ps(even_half(x.b), even_half(y.b), acc.b);
    acc.a = _mm256_fmadd_ps(odd_half(x.a), odd_half(y.a), acc.a);
    acc.b = _mm256_fmadd_ps(odd_half(x.b), odd_half(y.b), acc.b);
    return acc;
}

inline __m256 widen_bf16(const uint16_t* p) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
inline Vec load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
// Round to nearest even; not-a-number stays so because its top bits do.
inline __m256i rounded_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x00400000));
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
}
inline void store_bf16(uint16_t* p, Vec x) {
    const __m256i packed = _mm256_packus_epi32(rounded_bf16(x.a), rounded_bf16(x.b));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xD8));
}

inline Vec load_f16(const uint16_t* p) {
    const auto* q = reinterpret_cast<const __m128i*>(p);
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}

using Ints = Words;

inline Ints splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Vec to_float(Ints x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
// Products of bytes 0, 2 and 1, 3 of each word by way of 16 bits: the instruction that takes bytes saturates.
inline __m256i dot_bytes(__m256i acc, __m256i x, __m256i y) {
    const __m256i low = _mm256_set1_epi16(255);
    const __m256i x_even = _mm256_and_si256(x, low), x_odd = _mm256_srli_epi16(x, 8);
    const __m256i y_even = _mm256_srai_epi16(_mm256_slli_epi16(y, 8), 8), y_odd = _mm256_srai_epi16(y, 8);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(x_even, y_even));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(x_odd, y_odd));
}
// Adds the products of four unsigned bytes of x with four signed ones of y.
inline Ints dot_int8(Ints acc, Words x, Words y) {
    return {dot_bytes(acc.a, x.a, y.a), dot_bytes(acc.b, x.b, y.b)};
}
inline __m256i dot_small_bytes(__m256i acc, __m256i x, __m256i y) {
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), _mm256_set1_epi16(1)));
}
// The same for x below 16.
inline Ints dot_int4(Ints acc, Words x, Words y) {
    return {dot_small_bytes(acc.a, x.a, y.a), dot_small_bytes(acc.b, x.b, y.b)};
}
inline Words low_halves(Words x) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
inline Words high_halves(Words x) { return low_halves({_mm256_srli_epi16(x.a, 4), _mm256_srli_epi16(x.b, 4)}); }
// Whole numbers in [-127, 127].
inline void store_int8(int8_t* p, Vec x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}

// Whole numbers in [0, 255].
inline void store_uint8(uint8_t* p, Vec x) {
    const __m256i words = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
    const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
    const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
// x + 256 * y + z.
inline __m256i add_wide_half(__m256i x, __m256i y, __m256i z) {
    return _mm256_add_epi32(_mm256_add_epi32(x, _mm256_slli_epi32(y, 8)), z);
}
inline Ints add_wide(Ints x, Ints y, Ints z) { return {add_wide_half(x.a, y.a, z.a), add_wide_half(x.b, y.b, z.b)}; }
inline Ints load_ints(const int32_t* p) { return load_words(reinterpret_cast<const uint32_t*>(p)); }
inline void store_ints(int32_t* p, Ints x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p) + 1, x.b);
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }  // into the second-level cache

}  // namespace
}  // namespace outthink
