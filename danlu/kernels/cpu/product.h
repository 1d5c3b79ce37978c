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

#include "dots.h"

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
