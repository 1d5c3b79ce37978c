// y = x W^T over the layouts of matrix.h.
//
// Quantised weights meet activations that are rounded to bytes, with one float scale for every 32 of a row; the product
// of two groups is an exact integer, and only then are the scales multiplied:
//
//     y[m, n] = sum over groups g of  sw[n, g] sx[m, g] (sum over k in g of  qw[n, k] qx[m, k])
//                                   + mw[n, g] sx[m, g] (sum over k in g of  qx[m, k])         if W has offsets mw
//
// Where a weight's byte holds q + zero, the sum begins at -zero times the sum of qx, which is known once x is rounded.
//
// A tile is M rows of x against B blocks of W: each load of x serves B products and each load of W serves M. M B sums
// and, for bytes, as many integers stay in registers, and that decides the largest tile (TILE_ROWS, TILE_BLOCKS).
//
// What is guaranteed: an output depends on its row of x and its row of W alone. Every tile shape adds the same numbers in
// the same order (integers exactly; floats group after group, or k after k), so a row gives the same bits in a batch of
// one and in a batch of a thousand. What is not: equal bits between machines with different LANES or instructions.

#pragma once

#include "matrix.h"

namespace danlu {

// Rows of x, rounded to bytes in groups of 32:  x[m, k] ~ scale[m, k / 32] * q[m, k].
struct Rounded {
    int8_t* q;        // [M, K]
    float* scale;     // [M, K / 32]
    float* total;     // [M, K / 32]: a group's scale times the sum of its q
    int32_t* begin;   // [M, K / 32]: minus the weights' zero times the sum of a group's q
    int columns, zero;

    static size_t bytes(int m, int columns) { return size_t(m) * columns + size_t(m) * (columns / GROUP) * 12 + 64; }

    static Rounded in(uint8_t* memory, int m, int columns, int zero) {
        Rounded r;
        r.columns = columns, r.zero = zero;
        r.scale = (float*)memory;
        r.total = r.scale + size_t(m) * (columns / GROUP);
        r.begin = (int32_t*)(r.total + size_t(m) * (columns / GROUP));
        r.q = (int8_t*)(r.begin + size_t(m) * (columns / GROUP));
        return r;
    }

    void round_row(int m, const float* x) const {
        for (int g = 0; g < columns / GROUP; g++) {
            const float* from = x + g * GROUP;
            const float most = largest_size(from, GROUP);
            const bool finite = most <= FLT_MAX;
            float step = finite ? most / 127.0f : NAN, inverse = finite && most > 0 ? 127.0f / most : 0.0f;
            int8_t* to = q + size_t(m) * columns + g * GROUP;
            const Floats magic = all(12582912.0f);
            Ints wholes = {};
            for (int i = 0; i < GROUP; i += LANES) {
                // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
                Ints whole = (Ints)fma(load(from + i), all(inverse), magic) - (Ints)magic;
                wholes += whole;
                store_bytes(to + i, whole);
            }
            const size_t at = size_t(m) * (columns / GROUP) + g;
            const int32_t all_q = sum(wholes);
            scale[at] = step, total[at] = step * float(all_q), begin[at] = -zero * all_q;
        }
    }
};

// Rows of x as a product reads them: floats, and the same in the weights' own arithmetic.
struct Rows {
    const float* floats;
    size_t stride;          // of floats
    Rounded bytes;          // for int8 and int4
    uint16_t* halves;       // for bfloat16 in pairs, `stride` apart

    static size_t memory(int m, int columns) { return std::max(Rounded::bytes(m, columns), size_t(m) * (columns + 16) * 2); }

    // Row t from floats x, in the arithmetic of w. `stride` is a multiple of 16, and what lies behind the columns is finite.
    void convert(const Matrix& w, int t, const float* x) const {
        if (w.quantised()) bytes.round_row(t, x);
        if (w.kind == BFLOAT16 && BFLOAT16_PAIRS) {
            uint16_t* to = halves + t * stride;
            for (int k = 0; k < w.columns; k += LANES) store_bf16(to + k, load(x + k));
        }
    }

    // Whether a product with w reads the floats themselves.
    static bool as_floats(const Matrix& w) { return w.kind == FLOAT32 || (w.kind == BFLOAT16 && !BFLOAT16_PAIRS); }
};

template <class T>
inline int32_t four_bytes(const T* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

// ---- one group of 32 k of B blocks against M rows of x, `stride` bytes apart: added to integers [M][B] ----------------

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

// ---- tiles: B blocks of W from `block` on against M rows of x from `row` on -------------------------------------------

constexpr int FLOAT_ROWS = 6, FLOAT_BLOCKS = 2;

// The first rows of x meet weights that come from memory. They are asked for so many bytes ahead (tuned on a Zen 4), past
// the end of a tile into the next one, and into the second cache: more reads can be under way there than in the first.
constexpr size_t AHEAD = 16 << 10;

template <int BYTES>
inline void ask_ahead(const uint8_t* w) {
    for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(w + AHEAD + i, 0, 2);
}

template <int M, int B, bool NIBBLES, bool OFFSETS>
inline void tile_bytes(const Matrix& w, int block, const Rounded& x, int row, Floats (*y)[B]) {
    constexpr int group_bytes = NIBBLES ? INT4_GROUP : 8 * UNIT;
    constexpr int read_bytes = B * (group_bytes + (NIBBLES ? LANES * (OFFSETS ? 4 : 2) : 0));  // of one group of all blocks
    const size_t groups = x.columns / GROUP, stride = x.columns;
    const int8_t* q = x.q + row * stride;
    const float *sx = x.scale + row * groups, *tx = x.total + row * groups;
    const int32_t* begin = x.begin + row * groups;
    const uint8_t* at[B];
    const uint16_t *sw[B], *mw[B];
    for (int b = 0; b < B; b++) {
        at[b] = w.block(block + b);
        sw[b] = (const uint16_t*)(at[b] + w.half_scales()), mw[b] = (const uint16_t*)(at[b] + w.half_offsets());
    }
    Floats total[M][B];  // local: bytes may alias anything, and y would be written and read again in every group
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++) total[m][b] = Floats{};
    for (size_t g = 0; g < groups; g++, q += GROUP) {
        Ints dot[M][B];
        for (int m = 0; m < M; m++)
            for (int b = 0; b < B; b++) dot[m][b] = all_ints(begin[m * groups + g]);
        if (row == 0) ask_ahead<read_bytes>(w.block(block) + g * read_bytes);
        if constexpr (NIBBLES)
            dot_int4<M, B>(at, q, stride, dot);
        else
            dot_int8<M, B>(at, q, stride, dot);
        for (int b = 0; b < B; b++) {
            at[b] += group_bytes;
            Floats s = NIBBLES ? load_half(sw[b] + g * LANES) : Floats{};
            for (int m = 0; m < M; m++) {
                Floats d = to_floats(dot[m][b]);
                total[m][b] = NIBBLES ? fma(d * sx[m * groups + g], s, total[m][b]) : fma(d, all(sx[m * groups + g]), total[m][b]);
            }
            if constexpr (OFFSETS) {
                const Floats offset = load_half(mw[b] + g * LANES);
                for (int m = 0; m < M; m++) total[m][b] = fma(offset, all(tx[m * groups + g]), total[m][b]);
            }
        }
    }
    for (int b = 0; b < B; b++) {
        Floats s = NIBBLES ? all(1.0f) : load(w.scale.data() + size_t(block + b) * LANES);
        for (int m = 0; m < M; m++) y[m][b] = NIBBLES ? total[m][b] : total[m][b] * s;
    }
}

template <int M, int B, bool HALVES>
inline void tile_floats(const Matrix& w, int block, const Rows& x, int row, Floats (*y)[B]) {
    constexpr int width = HALVES ? 2 : 4;
    const float* from = x.floats + row * x.stride;
    const uint8_t* at[B];
    for (int b = 0; b < B; b++) at[b] = w.block(block + b);
    Floats sums[M][B];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++) sums[m][b] = Floats{};
    for (int k = 0; k < w.columns; k++) {
        Floats v[B];
        for (int b = 0; b < B; b++) {
            const uint8_t* p = at[b] + size_t(k) * LANES * width;
            v[b] = HALVES ? load_bf16((const uint16_t*)p) : load((const float*)p);
        }
        for (int m = 0; m < M; m++) {
            Floats xm = all(from[m * x.stride + k]);
            for (int b = 0; b < B; b++) sums[m][b] = fma(v[b], xm, sums[m][b]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++) y[m][b] = sums[m][b];
}

#if defined(__AVX512BF16__) && DANLU_LANES == 16

template <int M, int B>
inline void tile_pairs(const Matrix& w, int block, const Rows& x, int row, Floats (*y)[B]) {
    const uint16_t* from = x.halves + row * x.stride;
    const uint8_t* at[B];
    for (int b = 0; b < B; b++) at[b] = w.block(block + b);
    __m512 sums[M][B];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++) sums[m][b] = _mm512_setzero_ps();
    for (int k = 0; k < w.columns; k += 2) {
        __m512bh v[B];
        if (row == 0) ask_ahead<B * UNIT>(w.block(block) + size_t(k / 2) * B * UNIT);
        for (int b = 0; b < B; b++) {
            v[b] = (__m512bh)_mm512_loadu_si512(at[b] + size_t(k) * LANES * 2);
        }
        for (int m = 0; m < M; m++) {
            __m512bh xm = (__m512bh)_mm512_set1_epi32(four_bytes(from + m * x.stride + k));
            for (int b = 0; b < B; b++) sums[m][b] = _mm512_dpbf16_ps(sums[m][b], v[b], xm);
        }
    }
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++) y[m][b] = (Floats)sums[m][b];
}

#endif

// Not inlined: what is done with a tile (a sink) is another type for each caller, and tiles are large.
template <bool BYTES, int M, int B>
__attribute__((noinline)) void tile(const Matrix& w, int block, const Rows& x, int row, Floats (*y)[B]) {
    if constexpr (BYTES) {
        if (w.kind == INT8) return tile_bytes<M, B, false, false>(w, block, x.bytes, row, y);
        if (w.offsets) return tile_bytes<M, B, true, true>(w, block, x.bytes, row, y);
        return tile_bytes<M, B, true, false>(w, block, x.bytes, row, y);
    } else {
        if (w.kind == FLOAT32) return tile_floats<M, B, false>(w, block, x, row, y);
#if defined(__AVX512BF16__) && DANLU_LANES == 16
        return tile_pairs<M, B>(w, block, x, row, y);
#else
        return tile_floats<M, B, true>(w, block, x, row, y);
#endif
    }
}

// ---- y (+)= x W^T for blocks begin .. end and all rows: sink(row, column, LANES outputs) ------------------------------

template <bool BYTES, int ROWS, int BLOCKS, class Sink>
inline void multiply_tiled(const Matrix& w, int begin, int end, const Rows& x, int n_rows, Sink sink) {
    auto some = [&](auto count, int block) {
        constexpr int B = decltype(count)::value;
        by_tiles<ROWS>(n_rows, [&](auto size, int row) {
            constexpr int M = decltype(size)::value;
            Floats y[M][B];
            tile<BYTES, M, B>(w, block, x, row, y);
            for (int m = 0; m < M; m++)
                for (int b = 0; b < B; b++) sink(row + m, (block + b) * LANES, y[m][b]);
        });
    };
    int block = begin;
    for (; block + BLOCKS <= end; block += BLOCKS) some(std::integral_constant<int, BLOCKS>{}, block);
    for (; block < end; block++) some(std::integral_constant<int, 1>{}, block);
}

template <class Sink>
inline void multiply_blocks(const Matrix& w, int begin, int end, const Rows& x, int n_rows, Sink sink) {
    if (w.quantised())
        multiply_tiled<true, INT_ROWS, INT_BLOCKS>(w, begin, end, x, n_rows, sink);
    else
        multiply_tiled<false, FLOAT_ROWS, FLOAT_BLOCKS>(w, begin, end, x, n_rows, sink);
}

}  // namespace danlu
