// One vector of LANES floats, and the little arithmetic on it that the kernels need.
//
// The compiler's own vector types do nearly everything: `a * b` on them is one AVX-512, AVX2 or NEON instruction, or a
// few scalar ones where there is none of these. Written by hand are only fused multiply-add (so that no compiler may
// decide it one way here and another way there: results must not depend on the shape of a tile), the conversions from
// and to narrow numbers, and, in dots.h, the dot products of bytes.
//
//     LANES   16 with AVX-512, 4 on ARM, else 8: one register. A vector of several is no loss to clang, but gcc would keep
//             it in memory. -DDANLU_LANES=16 forces it, which lets any machine test the wide layout

#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef DANLU_LANES
#if defined(__AVX512F__)
#define DANLU_LANES 16
#elif defined(__aarch64__)
#define DANLU_LANES 4
#else
#define DANLU_LANES 8
#endif
#endif

#if defined(__aarch64__) && DANLU_LANES == 4
#define DANLU_NEON
#endif

namespace danlu {

constexpr int LANES = DANLU_LANES;
constexpr int GROUP = 32;  // numbers that share one scale

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

#if (defined(__AVX512F__) && DANLU_LANES == 16) || defined(DANLU_NEON)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

inline Floats all(float x) { return x - Floats{}; }

inline Floats load(const float* p) {
    Floats v;
    std::memcpy(&v, p, sizeof v);
    return v;
}

inline void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }

inline Floats fma(Floats a, Floats b, Floats c) {
#if defined(__AVX512F__) && DANLU_LANES == 16
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && DANLU_LANES == 8
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(DANLU_NEON)
    return (Floats)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    Floats r;
    for (int i = 0; i < LANES; i++) r[i] = std::fma(a[i], b[i], c[i]);
    return r;
#endif
}

inline Ints all_ints(int32_t x) { return x - Ints{}; }

inline Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }

// bfloat16 is the upper half of a float32.
inline Floats load_bf16(const uint16_t* p) {
#if defined(DANLU_NEON)
    return (Floats)vshll_n_u16(vld1_u16(p), 16);
#else
    typedef uint16_t Halves __attribute__((vector_size(LANES * 2)));
    typedef uint32_t Words __attribute__((vector_size(LANES * 4)));
    Halves h;
    std::memcpy(&h, p, sizeof h);
    return (Floats)(__builtin_convertvector(h, Words) << 16);
#endif
}

inline float bf16_to_float(uint16_t h) {
    uint32_t bits = uint32_t(h) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

inline Floats load_bytes(const int8_t* p) {
#if defined(__AVX512F__) && DANLU_LANES == 16
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__) && DANLU_LANES == 8
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#elif defined(DANLU_NEON)
    int32_t four;
    std::memcpy(&four, p, 4);
    return (Floats)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four))))));
#else
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    Bytes b;
    std::memcpy(&b, p, sizeof b);
    return __builtin_convertvector(__builtin_convertvector(b, Ints), Floats);
#endif
}

// Numbers that fit in a byte.
inline void store_bytes(int8_t* p, Ints v) {
#if defined(DANLU_NEON)
    const int16x4_t narrow = vmovn_s32((int32x4_t)v);
    const int32_t four = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(narrow, narrow))), 0);
    std::memcpy(p, &four, 4);
#else
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    Bytes bytes = __builtin_convertvector(v, Bytes);
    std::memcpy(p, &bytes, LANES);
#endif
}

// Round to nearest, ties to even. A NaN stays one.
inline uint16_t float_to_bf16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
    return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline void store_bf16(uint16_t* p, Floats v) {
#if defined(__AVX512BF16__) && DANLU_LANES == 16
    __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    std::memcpy(p, &h, sizeof h);
#elif defined(DANLU_NEON)
    const uint32x4_t bits = (uint32x4_t)v, half = vdupq_n_u32(0x7fff), quiet = vdupq_n_u32(0x400000);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t number = vceqq_f32((float32x4_t)v, (float32x4_t)v);
    vst1_u16(p, vshrn_n_u32(vbslq_u32(number, vaddq_u32(bits, vaddq_u32(half, odd)), vorrq_u32(bits, quiet)), 16));
#else
    for (int i = 0; i < LANES; i++) p[i] = float_to_bf16(v[i]);
#endif
}

inline float half_to_float(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    float f;
    if (exponent == 0) {
        f = float(mantissa) * 0x1p-24f;
        return sign ? -f : f;
    }
    uint32_t bits = sign | (exponent == 31 ? 0x7f800000 : (exponent + 112) << 23) | mantissa << 13;
    std::memcpy(&f, &bits, 4);
    return f;
}

inline uint16_t float_to_half(float f) {
#if defined(__F16C__)
    return uint16_t(_cvtss_sh(f, 0));
#else
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    uint16_t sign = uint16_t(bits >> 16 & 0x8000);
    float a = std::fabs(f);
    if (!(a < 65520.0f)) return uint16_t(sign | (a != a ? 0x7e00 : 0x7c00));
    if (a < 0x1p-14f) return uint16_t(sign | uint16_t(std::nearbyint(a * 0x1p24f)));
    std::memcpy(&bits, &a, 4);
    bits += 0xfff + (bits >> 13 & 1);
    return uint16_t(sign | ((bits >> 13) - (112 << 10)));
#endif
}

inline Floats load_half(const uint16_t* p) {
#if defined(__AVX512F__) && DANLU_LANES == 16
    return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__) && DANLU_LANES == 8
    return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(DANLU_NEON)
    return (Floats)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
#else
    Floats v;
    for (int i = 0; i < LANES; i++) v[i] = half_to_float(p[i]);
    return v;
#endif
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// The numbers of a vector joined pair by pair: (v[i] with v[i + LANES / 2]) and so on.
template <class T, class Vector, class Join>
inline T reduce(Vector v, Join join) {
    T x[LANES];
    std::memcpy(x, &v, sizeof v);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) x[i] = join(x[i], x[i + half]);
    return x[0];
}

#if defined(__AVX512F__) && DANLU_LANES == 16
inline float sum(Floats v) { return _mm512_reduce_add_ps((__m512)v); }
inline int32_t sum(Ints v) { return _mm512_reduce_add_epi32((__m512i)v); }
inline float largest(Floats v) { return _mm512_reduce_max_ps((__m512)v); }
inline int32_t largest(Ints v) { return _mm512_reduce_max_epi32((__m512i)v); }
#else
inline float sum(Floats v) { return reduce<float>(v, [](float a, float b) { return a + b; }); }
inline int32_t sum(Ints v) { return reduce<int32_t>(v, [](int32_t a, int32_t b) { return a + b; }); }
inline float largest(Floats v) { return reduce<float>(v, [](float a, float b) { return a > b ? a : b; }); }
inline int32_t largest(Ints v) { return reduce<int32_t>(v, [](int32_t a, int32_t b) { return a > b ? a : b; }); }
#endif

// max |x| of n floats, a multiple of LANES. As whole numbers the bits of |x| have the same order, and an infinity and a
// NaN, which a comparison of floats may lose, are the largest.
inline float largest_size(const float* x, int n) {
    Ints most = {};
    for (int i = 0; i < n; i += LANES) {
        Ints bits = (Ints)load(x + i) & 0x7fffffff;
        most = bits > most ? bits : most;
    }
    int32_t bits = largest(most);
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

// e^r for |r| <= ln 2 / 2, a Taylor polynomial of degree 7.
inline Floats exp_near_zero(Floats r) {
    Floats p = all(1.0f / 5040);
    p = fma(p, r, all(1.0f / 720));
    p = fma(p, r, all(1.0f / 120));
    p = fma(p, r, all(1.0f / 24));
    p = fma(p, r, all(1.0f / 6));
    p = fma(p, r, all(0.5f));
    p = fma(p, r, all(1.0f));
    return fma(p, r, all(1.0f));
}

// e^x to about 2 units in the last place: x = n ln 2 + r, and e^r times 2^n. Below -87, and for -infinity, it is 0. Above
// 88 it is infinite, or held at e^88 where 2^n is made by writing n into the exponent.
inline Floats exp(Floats x) {
#if defined(__AVX512F__) && DANLU_LANES == 16
    __mmask16 seen = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    x = (Floats)_mm512_min_ps(_mm512_set1_ps(128.0f), (__m512)x);  // far above, r below would be anything; a NaN stays
    Floats n = (Floats)_mm512_roundscale_ps((__m512)(x * 1.44269504088896341f), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    Floats r = fma(n, all(-0.693359375f), x);  // ln 2 in two parts, so that n ln 2 is exact enough
    r = fma(n, all(2.12194440054690583e-4f), r);
    return (Floats)_mm512_maskz_scalef_ps(seen, (__m512)exp_near_zero(r), (__m512)n);
#else
    const Floats low = all(-87.0f), high = all(88.0f);
    Ints tiny = x < low;
    x = tiny ? low : x;
    x = x > high ? high : x;
    const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest whole number
    Floats shifted = fma(x, all(1.44269504088896341f), magic);
    Floats n = shifted - magic;
    Floats r = fma(n, all(-0.693359375f), x);
    r = fma(n, all(2.12194440054690583e-4f), r);
    Ints power = ((Ints)shifted << 23) + (Ints)all(1.0f);  // the low bits of `shifted` are n; the magic's shift out
    Floats result = exp_near_zero(r) * (Floats)power;
    return tiny ? Floats{} : result;
#endif
}

// f(number, first) for rows in tiles of MOST and one of what is left; the number is known to the compiler.
template <int LEFT, class F>
inline void last_tile(int left, int row, F& f) {
    if constexpr (LEFT > 0) {
        if (left == LEFT)
            f(std::integral_constant<int, LEFT>{}, row);
        else
            last_tile<LEFT - 1>(left, row, f);
    }
}

template <int MOST, class F>
inline void by_tiles(int rows, F f) {
    int row = 0;
    for (; row + MOST <= rows; row += MOST) f(std::integral_constant<int, MOST>{}, row);
    last_tile<MOST - 1>(rows - row, row, f);
}

inline Floats silu(Floats x) { return x / (all(1.0f) + exp(-x)); }

}  // namespace danlu
