// The dot products of bytes that product.h is made of: one group of 32 k of B blocks of W against M rows of x, `stride`
// bytes apart, added to integers [M][B]. They are exact, so every way of computing them gives the same.
//
//     INT_ROWS, INT_BLOCKS    the largest M and B whose sums stay in registers

#pragma once

#include "matrix.h"

namespace danlu {

template <class T>
inline int32_t four_bytes(const T* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

#if defined(__AVX512VNNI__) && DANLU_LANES == 16

constexpr int INT_ROWS = 6, INT_BLOCKS = 2;

template <int M, int B>
inline void dot_int4(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < 4; j++) {
        __m512i first[B], second[B];
        for (int b = 0; b < B; b++) {
            __m512i both = _mm512_loadu_si512(w[b] + j * UNIT);
            first[b] = _mm512_and_si512(both, low), second[b] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        }
        for (int m = 0; m < M; m++) {
            __m512i x0 = _mm512_set1_epi32(four_bytes(x + m * stride + 4 * j));
            __m512i x1 = _mm512_set1_epi32(four_bytes(x + m * stride + 16 + 4 * j));
            for (int b = 0; b < B; b++) dot[m][b] = (Ints)_mm512_dpbusd_epi32((__m512i)dot[m][b], first[b], x0);
            for (int b = 0; b < B; b++) dot[m][b] = (Ints)_mm512_dpbusd_epi32((__m512i)dot[m][b], second[b], x1);
        }
    }
}

template <int M, int B>
inline void dot_int8(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    for (int j = 0; j < 8; j++) {
        __m512i bytes[B];
        for (int b = 0; b < B; b++) bytes[b] = _mm512_loadu_si512(w[b] + j * UNIT);
        for (int m = 0; m < M; m++) {
            __m512i x0 = _mm512_set1_epi32(four_bytes(x + m * stride + 4 * j));
            for (int b = 0; b < B; b++) dot[m][b] = (Ints)_mm512_dpbusd_epi32((__m512i)dot[m][b], bytes[b], x0);
        }
    }
}

#elif defined(__AVX2__) && DANLU_LANES == 8

constexpr int INT_ROWS = 4, INT_BLOCKS = 1;

// A pair of nibbles times bytes is at most 2 * 15 * 127 = 3,810, and eight of them still fit in 16 bits.
template <int M, int B>
inline void dot_int4(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    static_assert(B == 1);
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i pairs[M];
    for (int m = 0; m < M; m++) pairs[m] = _mm256_setzero_si256();
    for (int j = 0; j < 4; j++) {
        __m256i both = _mm256_loadu_si256((const __m256i*)(w[0] + j * UNIT));
        __m256i first = _mm256_and_si256(both, low), second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        for (int m = 0; m < M; m++) {
            __m256i a = _mm256_maddubs_epi16(first, _mm256_set1_epi32(four_bytes(x + m * stride + 4 * j)));
            __m256i b = _mm256_maddubs_epi16(second, _mm256_set1_epi32(four_bytes(x + m * stride + 16 + 4 * j)));
            pairs[m] = _mm256_add_epi16(pairs[m], _mm256_add_epi16(a, b));
            asm("" : "+x"(pairs[m]));  // add it now: gcc would do all products first and keep them in memory
        }
    }
    for (int m = 0; m < M; m++) dot[m][0] += (Ints)_mm256_madd_epi16(pairs[m], ones);
}

// |w| times x with the sign of w: a pair is at most 2 * 127 * 127 = 32,258, which fits; two pairs would not.
template <int M, int B>
inline void dot_int8(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    static_assert(B == 1);
    const __m256i ones = _mm256_set1_epi16(1);
    for (int j = 0; j < 8; j++) {
        __m256i bytes = _mm256_loadu_si256((const __m256i*)(w[0] + j * UNIT));
        __m256i size = _mm256_abs_epi8(bytes);
        for (int m = 0; m < M; m++) {
            __m256i turned = _mm256_sign_epi8(_mm256_set1_epi32(four_bytes(x + m * stride + 4 * j)), bytes);
            dot[m][0] += (Ints)_mm256_madd_epi16(_mm256_maddubs_epi16(size, turned), ones);
        }
    }
}

#elif defined(DANLU_NEON)

#if defined(__ARM_FEATURE_DOTPROD)

constexpr int INT_ROWS = 4, INT_BLOCKS = 2;

// Four neighbouring k of four rows of W times the J-th four of the sixteen numbers in x.
template <int J>
inline int32x4_t four_products(int32x4_t sum, int8x16_t w, int8x16_t x) {
    return vdotq_laneq_s32(sum, w, x, J);
}

#else

constexpr int INT_ROWS = 4, INT_BLOCKS = 1;

// Before ARMv8.2 products of bytes are 16 bits wide: 2 * 128 * 127 = 32,512 still fits.
template <int J>
inline int32x4_t four_products(int32x4_t sum, int8x16_t w, int8x16_t x) {
    const int8x8_t four = vreinterpret_s8_s32(vdup_laneq_s32(vreinterpretq_s32_s8(x), J));
    const int16x8_t low = vmull_s8(vget_low_s8(w), four), high = vmull_s8(vget_high_s8(w), four);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

#endif

// The J-th four of k 0 to 15 and of k 16 to 31.
template <bool NIBBLES, int J, int M, int B>
inline void dot_fours(const uint8_t* const* w, const int8x16_t (*x)[2], Ints (*dot)[B]) {
    for (int b = 0; b < B; b++) {
        const uint8x16_t both = vld1q_u8(w[b] + J * UNIT);
        const int8x16_t first = (int8x16_t)(NIBBLES ? vandq_u8(both, vdupq_n_u8(15)) : both);
        const int8x16_t second = (int8x16_t)(NIBBLES ? vshrq_n_u8(both, 4) : vld1q_u8(w[b] + (4 + J) * UNIT));
        for (int m = 0; m < M; m++)
            dot[m][b] = (Ints)four_products<J>(four_products<J>((int32x4_t)dot[m][b], first, x[m][0]), second, x[m][1]);
    }
}

template <bool NIBBLES, int M, int B>
inline void dot_group(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    int8x16_t rows[M][2];
    for (int m = 0; m < M; m++) rows[m][0] = vld1q_s8(x + m * stride), rows[m][1] = vld1q_s8(x + m * stride + 16);
    dot_fours<NIBBLES, 0, M>(w, rows, dot), dot_fours<NIBBLES, 1, M>(w, rows, dot);
    dot_fours<NIBBLES, 2, M>(w, rows, dot), dot_fours<NIBBLES, 3, M>(w, rows, dot);
}

template <int M, int B>
inline void dot_int4(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    dot_group<true, M>(w, x, stride, dot);
}

template <int M, int B>
inline void dot_int8(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    dot_group<false, M>(w, x, stride, dot);
}

#else

constexpr int INT_ROWS = 4, INT_BLOCKS = 1;

template <int M, int B>
inline void dot_int4(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++)
            for (int lane = 0; lane < LANES; lane++)
                for (int k = 0; k < 16; k++) {
                    uint8_t both = w[b][k / 4 * UNIT + lane * 4 + k % 4];
                    dot[m][b][lane] += (both & 15) * x[m * stride + k] + (both >> 4) * x[m * stride + k + 16];
                }
}

template <int M, int B>
inline void dot_int8(const uint8_t* const* w, const int8_t* x, size_t stride, Ints (*dot)[B]) {
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++)
            for (int lane = 0; lane < LANES; lane++)
                for (int k = 0; k < GROUP; k++) {
                    uint8_t byte = w[b][k / 4 * UNIT + lane * 4 + k % 4];
                    dot[m][b][lane] += (UNSIGNED_BYTES ? int32_t(byte) : int32_t(int8_t(byte))) * x[m * stride + k];
                }
}

#endif

}  // namespace danlu
