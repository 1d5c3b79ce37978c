// Products of small matrices that stay in the nearest cache, for attention:  C [R, LANES * V] = A B.
//
//     A    rows of numbers along the depth; from one row to the next it is `stride`, from WIDE numbers to the next `step`
//     B    a panel [depth / WIDE][columns][WIDE]: WIDE neighbours along the depth lie together
//
// Where an instruction multiplies and adds two bfloat16 at once and that is fast, numbers are bfloat16 (WIDE 2); elsewhere
// they are float32 (WIDE 1), and bfloat16 tensors are widened when they are packed. Sums are float32 in both.
//
//     DANLU_PAIRS   which of the two. AMD's cores take vdpbf16ps as fast as a multiply-add of half as many float32. Intel's
//                   with AMX take longer for it than for two of those; what is fast there in bfloat16 is the matrix unit.
//                   gcc 12 calls such a processor cooperlake when it does not know it yet

#pragma once

#include "rows.h"

#ifndef DANLU_PAIRS
#if defined(__AVX512BF16__) && DANLU_LANES == 16 && !defined(__AMX_TILE__) && !defined(__sapphirerapids__) && !defined(__cooperlake__)
#define DANLU_PAIRS 1
#else
#define DANLU_PAIRS 0
#endif
#endif

namespace danlu {

struct Single {
    using Number = float;
    static constexpr int WIDE = 1;

    static Floats panel(const float* p) { return load(p); }
    static Floats broadcast(const float* p) { return all(*p); }
    static Floats add_product(Floats a, Floats b, Floats sum) { return fma(a, b, sum); }
};

#if DANLU_PAIRS
struct Pair {
    using Number = uint16_t;
    static constexpr int WIDE = 2;

    static Floats panel(const uint16_t* p) { return (Floats)_mm512_loadu_si512(p); }
    static Floats broadcast(const uint16_t* p) {
        int32_t both;
        std::memcpy(&both, p, 4);
        return (Floats)_mm512_set1_epi32(both);
    }
    static Floats add_product(Floats a, Floats b, Floats sum) { return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); }
};
constexpr bool PAIRS = true;
#else
using Pair = Single;  // bfloat16 is widened
constexpr bool PAIRS = false;
#endif

// Rows of a tile. With four vectors each, half of the registers hold sums.
constexpr int TILE_SUMS = REGISTERS / 8;

template <class N, int R, int V>
inline void multiply(const typename N::Number* a, size_t stride, const typename N::Number* b, int columns, int depth, Floats (*sums)[V],
                     size_t step = N::WIDE) {
    Floats local[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) local[r][v] = Floats{};
    for (int k = 0; k < depth; k += N::WIDE, a += step, b += size_t(columns) * N::WIDE) {
        Floats panel[V];
        for (int v = 0; v < V; v++) panel[v] = N::panel(b + v * LANES * N::WIDE);
        for (int r = 0; r < R; r++) {
            Floats x = N::broadcast(a + r * stride);
            for (int v = 0; v < V; v++) local[r][v] = N::add_product(x, panel[v], local[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = local[r][v];
}

// f(1) ... f(4), the number known to the compiler
template <class F>
inline void by_width(int vectors, F f) {
    switch (vectors) {
        case 1: return f(std::integral_constant<int, 1>{});
        case 2: return f(std::integral_constant<int, 2>{});
        case 3: return f(std::integral_constant<int, 3>{});
        default: return f(std::integral_constant<int, 4>{});
    }
}

// sink(row, column, LANES sums) for all of C [rows, columns]; rows a multiple of TILE_SUMS, columns of LANES.
template <class N, class Sink>
inline void multiply_all(const typename N::Number* a, size_t stride, const typename N::Number* b, int rows, int columns, int depth, Sink sink) {
    for (int column = 0; column < columns; column += 4 * LANES)
        by_width(std::min(4, (columns - column) / LANES), [&](auto width) {
            constexpr int V = decltype(width)::value;
            for (int row = 0; row < rows; row += TILE_SUMS) {
                Floats sums[TILE_SUMS][V];
                multiply<N, TILE_SUMS, V>(a + row * stride, stride, b + size_t(column) * N::WIDE, columns, depth, sums);
                for (int r = 0; r < TILE_SUMS; r++)
                    for (int v = 0; v < V; v++) sink(row + r, column + v * LANES, sums[r][v]);
            }
        });
}

// ---- packing: `rows` rows of T, `stride` apart, of which those from `valid` on count as zeros ---------------------------

template <class T, class U>
inline void convert(const T* from, U* to, int n) {
    if constexpr (std::is_same_v<T, U>)
        std::memcpy(to, from, n * sizeof(T));
    else
        by_vectors(n, [&](int i, int count) { put(to + i, get(from + i, count), count); });
}

template <class T, class U>
inline void pack_rows(const T* from, size_t stride, int valid, int rows, int depth, U* to) {
    for (int row = 0; row < valid; row++) convert(from + row * stride, to + size_t(row) * depth, depth);
    if (rows > valid) std::memset((void*)(to + size_t(valid) * depth), 0, size_t(rows - valid) * depth * sizeof(U));
}

// [rows, columns] -> [columns, rows] of units of four bytes, rows and columns a multiple of 4
inline void transpose(const uint32_t* from, size_t from_stride, int rows, int columns, uint32_t* to, size_t to_stride) {
#if defined(__SSE2__)
    for (int r = 0; r < rows; r += 4)
        for (int c = 0; c < columns; c += 4) {
            __m128 v[4];
            for (int i = 0; i < 4; i++) v[i] = _mm_loadu_ps((const float*)(from + (r + i) * from_stride + c));
            _MM_TRANSPOSE4_PS(v[0], v[1], v[2], v[3]);
            for (int i = 0; i < 4; i++) _mm_storeu_ps((float*)(to + (c + i) * to_stride + r), v[i]);
        }
#elif defined(__aarch64__)
    for (int r = 0; r < rows; r += 4)
        for (int c = 0; c < columns; c += 4) {
            uint64x2_t pair[4];  // of rows r, r + 1 and of r + 2, r + 3: columns 0 and 2, columns 1 and 3
            for (int i = 0; i < 4; i += 2) {
                const uint32x4_t a = vld1q_u32(from + (r + i) * from_stride + c), b = vld1q_u32(from + (r + i + 1) * from_stride + c);
                pair[i] = vreinterpretq_u64_u32(vtrn1q_u32(a, b)), pair[i + 1] = vreinterpretq_u64_u32(vtrn2q_u32(a, b));
            }
            for (int i = 0; i < 2; i++) {
                vst1q_u32(to + (c + i) * to_stride + r, vreinterpretq_u32_u64(vtrn1q_u64(pair[i], pair[i + 2])));
                vst1q_u32(to + (c + i + 2) * to_stride + r, vreinterpretq_u32_u64(vtrn2q_u64(pair[i], pair[i + 2])));
            }
        }
#else
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
#endif
}

// A panel whose columns are the rows and whose depth goes along them: B = rows^T.
template <class N>
inline void panel_across(const typename N::Number* rows, int n_rows, int depth, typename N::Number* to) {
    transpose((const uint32_t*)rows, depth / N::WIDE, n_rows, depth / N::WIDE, (uint32_t*)to, n_rows);
}

// One step down a panel: WIDE vectors, of consecutive rows, become neighbours. Float sums are rounded here.
template <class N>
inline void put_panel(typename N::Number* to, const Floats* rows) {
#if DANLU_PAIRS
    if constexpr (N::WIDE == 2) {
        __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)rows[1], (__m512)rows[0]);
        const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                               20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
        _mm512_storeu_si512(to, _mm512_permutexvar_epi16(order, both));
        return;
    }
#endif
    for (int i = 0; i < N::WIDE; i++) put(to + i * LANES, rows[i], LANES);
}

// A panel whose depth goes over the rows, `columns` numbers each: B = rows.
template <class N>
inline void panel_down(const typename N::Number* rows, int n_rows, int columns, typename N::Number* to) {
    for (int row = 0; row < n_rows; row += N::WIDE)
        for (int c = 0; c < columns; c += LANES) {
            Floats v[N::WIDE];
            for (int i = 0; i < N::WIDE; i++) v[i] = load(rows + size_t(row + i) * columns + c);
            put_panel<N>(to + (size_t(row) * columns + size_t(c) * N::WIDE), v);
        }
}

// Rows turned over: [rows, depth] -> [depth, rows], A = rows^T. `spare` has room for as many numbers.
template <class N>
inline void rows_across(const typename N::Number* rows, int n_rows, int depth, typename N::Number* spare, typename N::Number* to) {
    panel_down<N>(rows, n_rows, depth, spare);  // [rows / WIDE][depth][WIDE]
    transpose((const uint32_t*)spare, depth, n_rows / N::WIDE, depth, (uint32_t*)to, n_rows / N::WIDE);
}

}  // namespace danlu
