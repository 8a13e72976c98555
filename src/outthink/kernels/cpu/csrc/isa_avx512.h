// Vector operations on AVX-512 with BF16: one register is one logical vector.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace outthink {
namespace {

constexpr int kTileVectors = 4;  // vectors of outputs computed together
constexpr int kTileRows = 6;     // rows computed together: 24 accumulators, 4 weights, 1 activation

using Vec = __m512;
using Words = __m512i;

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
// Returns b where a is not a number.
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a); }
inline Vec round_nearest(Vec a) { return _mm512_roundscale_ps(a, 0); }
inline Vec times_power_of_two(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
inline Vec swap_pairs(Vec a) { return _mm512_permute_ps(a, 0xB1); }

// Lanes [begin, end) of a, `other` elsewhere.
inline Vec keep(Vec a, int begin, int end, float other) {
    const uint32_t mask = ((1u << end) - 1u) & ~((1u << begin) - 1u);
    return _mm512_mask_mov_ps(_mm512_set1_ps(other), static_cast<__mmask16>(mask), a);
}

inline Words load_words(const uint32_t* p) { return _mm512_loadu_si512(p); }
inline Words splat_word(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
inline Vec dot_f32(Vec acc, Words a, Words b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), acc);
}
inline Vec dot_bf16(Vec acc, Words a, Words b) {
    return _mm512_dpbf16_ps(acc, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

inline Vec load_bf16(const uint16_t* p) {
    const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}
inline void store_bf16(uint16_t* p, Vec a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(a)));
}

inline Vec load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Not __m512i, whose lanes are 64 bits: GCC would keep a copy of every accumulator in memory.
using Ints = int32_t __attribute__((vector_size(64)));

inline Ints splat_int(int32_t x) { return reinterpret_cast<Ints>(_mm512_set1_epi32(x)); }
inline Vec to_float(Ints a) { return _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(a)); }
// Adds the products of four unsigned bytes of a with four signed ones of b.
inline Ints dot_int8(Ints acc, Words a, Words b) {
    return reinterpret_cast<Ints>(_mm512_dpbusd_epi32(reinterpret_cast<__m512i>(acc), a, b));
}
// The same for a below 16.
inline Ints dot_int4(Ints acc, Words a, Words b) { return dot_int8(acc, a, b); }
inline Words low_halves(Words a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
inline Words high_halves(Words a) { return low_halves(_mm512_srli_epi16(a, 4)); }
// Whole numbers in [-127, 127].
inline void store_int8(int8_t* p, Vec a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a)));
}

// Whole numbers in [0, 255].
inline void store_uint8(uint8_t* p, Vec a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}
// a + 256 * b + c.
inline Ints add_wide(Ints a, Ints b, Ints c) { return a + (b << 8) + c; }
inline Ints load_ints(const int32_t* p) { return reinterpret_cast<Ints>(_mm512_loadu_si512(p)); }
inline void store_ints(int32_t* p, Ints a) { _mm512_storeu_si512(p, reinterpret_cast<__m512i>(a)); }

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
inline void prefetch_far(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T1); }  // into the second-level cache

}  // namespace
}  // namespace outthink
