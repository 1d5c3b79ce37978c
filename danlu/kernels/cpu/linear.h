// The products of a linear layer in bfloat16, and of the head with its loss, for weights that are trained in float32.
//
//     y = x W^T        dx = g W        dW = g^T x            x [M, K], W [N, K], g and y [M, N]
//
// The weights are rounded while they are packed, in every call: that is one pass over a matrix that is small beside x,
// and saves a copy of it. dW is summed over all rows in float32 and written so.
//
// Layout of a packed right factor B [depth, columns]: blocks of BLOCK columns, each a panel (panel.h) of its own, so
// that a block lies in the nearest cache without gaps. The left factor is x or g as it stands; for dW it is g^T, and
// two neighbouring rows of g woven together hold the pairs of numbers that a step of it needs.
//
// Only where numbers go in pairs (panel.h). Elsewhere torch's products are as good or, with AMX, better. N and K are
// multiples of 16.

#pragma once

#include "panel.h"

namespace danlu {

#if DANLU_PAIRS

constexpr int BLOCK = 4 * LANES;   // columns of a panel
constexpr int ROWS = 64;           // of x in a piece of work
constexpr int TALL = 4;            // rows of a tile
constexpr int DEEP = 128;          // rows of x and g that are woven at a time

inline int pieces(int n, int each) { return (n + each - 1) / each; }

// B = W^T: a panel has BLOCK rows of W as its columns.
inline void pack_transposed(int threads, const float* w, int n, int k, uint16_t* panels) {
    in_parallel(threads, pieces(n, BLOCK), [&](int i) {
        const int first = i * BLOCK, count = std::min(BLOCK, n - first);
        uint16_t* rows = scratch<uint16_t, 5>(size_t(BLOCK) * k);
        convert(w + size_t(first) * k, rows, count * k);
        panel_across<Pair>(rows, count, k, panels + size_t(first) * k);
    });
}

// B = W: a panel has BLOCK columns of W and goes down its rows.
inline void pack(int threads, const float* w, int n, int k, uint16_t* panels) {
    in_parallel(threads, pieces(k, BLOCK), [&](int i) {
        const int first = i * BLOCK, count = std::min(BLOCK, k - first);
        uint16_t* to = panels + size_t(first) * n;
        for (int row = 0; row < n; row += 2)
            for (int c = 0; c < count; c += LANES, to += 2 * LANES) {
                Floats pair[2] = {load(w + size_t(row) * k + first + c), load(w + size_t(row + 1) * k + first + c)};
                put_panel<Pair>(to, pair);
            }
    });
}

// C [rows, columns] = A B in bfloat16, for one piece of rows. What a tile will write is fetched before it is computed: it
// is in no near cache, and a row of C is too short for the processor to see where the next one begins.
inline void multiply_piece(int piece, int all_rows, const uint16_t* a, const uint16_t* panels, int columns, int depth, uint16_t* c) {
    const int first = piece * ROWS, rows = std::min(ROWS, all_rows - first);
    a += size_t(first) * depth, c += size_t(first) * columns;
    for (int column = 0; column < columns; column += BLOCK)
        by_width(std::min(BLOCK, columns - column) / LANES, [&](auto width) {
            constexpr int V = decltype(width)::value;
            by_tiles<TALL>(rows, [&](auto size, int row) {
                constexpr int R = decltype(size)::value;
                uint16_t* to = c + size_t(row) * columns + column;
                for (int r = 0; r < R; r++) __builtin_prefetch(to + r * columns, 1), __builtin_prefetch(to + r * columns + V * LANES - 1, 1);
                Floats sums[R][V];
                multiply<Pair, R, V>(a + size_t(row) * depth, depth, panels + size_t(column) * depth, V * LANES, depth, sums);
                for (int r = 0; r < R; r++)
                    for (int v = 0; v < V; v++) store_bf16(to + size_t(r) * columns + v * LANES, sums[r][v]);
            });
        });
}

// Rows of `count` numbers, `stride` apart, woven in pairs: [DEEP / 2][count][2]. Rows behind `valid` count as zeros.
inline void weave(const uint16_t* from, size_t stride, int valid, int count, uint16_t* to) {
    for (int row = 0; row < DEEP; row += 2)
        for (int c = 0; c < count; c += LANES, to += 2 * LANES) {
            __m512i low = {}, high = {};
            if (row < valid) low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(from + row * stride + c)));
            if (row + 1 < valid) high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(from + (row + 1) * stride + c)));
            _mm512_storeu_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
}

// d_w [N, K] = g^T x, or += where `add`. A piece is BLOCK rows of d_w by two panels of it, over all rows of g and x in order.
inline void weight_gradient(int threads, int rows, int n, int k, const uint16_t* g, const uint16_t* x, float* d_w, bool add) {
    const int across = pieces(k, 2 * BLOCK);
    in_parallel(threads, pieces(n, BLOCK) * across, [&](int piece) {
        const int n0 = piece / across * BLOCK, k0 = piece % across * 2 * BLOCK;
        const int height = std::min(BLOCK, n - n0), width = std::min(2 * BLOCK, k - k0);
        float* sums = scratch<float, 6>(BLOCK * 2 * BLOCK);  // [height, 2 BLOCK]
        uint16_t *left = scratch<uint16_t, 6>(size_t(DEEP) * 3 * BLOCK), *right = left + size_t(DEEP) * BLOCK;
        std::memset(sums, 0, sizeof(float) * BLOCK * 2 * BLOCK);
        for (int row = 0; row < rows; row += DEEP) {
            const int valid = std::min(DEEP, rows - row);
            weave(g + size_t(row) * n + n0, n, valid, height, left);
            for (int c = 0; c < width; c += BLOCK) {
                const int columns = std::min(BLOCK, width - c);
                weave(x + size_t(row) * k + k0 + c, k, valid, columns, right);
                by_width(columns / LANES, [&](auto vectors) {
                    constexpr int V = decltype(vectors)::value;
                    for (int i = 0; i < height; i += 4) {
                        Floats s[4][V];
                        multiply<Pair, 4, V>(left + 2 * i, 2, right, columns, DEEP, s, size_t(height) * 2);
                        for (int r = 0; r < 4; r++)
                            for (int v = 0; v < V; v++) {
                                float* at = sums + (i + r) * 2 * BLOCK + c + v * LANES;
                                store(at, load(at) + s[r][v]);
                            }
                    }
                });
            }
        }
        for (int i = 0; i < height; i++)
            for (int c = 0; c < width; c += LANES) {
                float* to = d_w + size_t(n0 + i) * k + k0 + c;
                Floats v = load(sums + i * 2 * BLOCK + c);
                store(to, add ? load(to) + v : v);
            }
    });
}

inline void linear(int threads, int rows, int n, int k, const uint16_t* x, const float* w, uint16_t* y) {
    uint16_t* panels = scratch<uint16_t, 4>(size_t(n) * k);
    pack_transposed(threads, w, n, k, panels);
    in_parallel(threads, pieces(rows, ROWS), [&](int piece) { multiply_piece(piece, rows, x, panels, n, k, y); });
}

// d_x or d_w may be null: not wanted.
inline void linear_backward(int threads, int rows, int n, int k, const uint16_t* g, const uint16_t* x, const float* w, uint16_t* d_x, float* d_w) {
    if (d_x) {
        uint16_t* panels = scratch<uint16_t, 4>(size_t(n) * k);
        pack(threads, w, n, k, panels);
        in_parallel(threads, pieces(rows, ROWS), [&](int piece) { multiply_piece(piece, rows, g, panels, k, n, d_x); });
    }
    if (d_w) weight_gradient(threads, rows, n, k, g, x, d_w, false);
}

// The head and its loss, `chunk` rows at a time: logits [chunk, V] are the only memory that grows with the vocabulary. A
// piece of rows goes from its hidden states to their gradients without a pause. d_h and d_w may be null.
inline void linear_cross_entropy(int threads, int rows, int vocab, int size, int chunk, const uint16_t* h, const float* w,
                                 const int64_t* targets, uint16_t* logits, float* losses, uint16_t* d_h, float* d_w) {
    const size_t numbers = size_t(vocab) * size;
    uint16_t *across = scratch<uint16_t, 4>(numbers * 2), *down = across + numbers;
    pack_transposed(threads, w, vocab, size, across);
    if (d_h) pack(threads, w, vocab, size, down);
    for (int first = 0; first < rows; first += chunk) {
        const int count = std::min(chunk, rows - first);
        in_parallel(threads, pieces(count, ROWS), [&](int piece) {
            multiply_piece(piece, count, h + size_t(first) * size, across, vocab, size, logits);
            for (int row = piece * ROWS; row < std::min(count, (piece + 1) * ROWS); row++)
                losses[first + row] = softmax_cross_entropy_row(vocab, logits + size_t(row) * vocab, targets[first + row], d_h || d_w);
            if (d_h) multiply_piece(piece, count, logits, down, size, vocab, d_h + size_t(first) * size);
        });
        if (d_w) weight_gradient(threads, count, vocab, size, logits, h + size_t(first) * size, d_w, first > 0);
    }
}

#else

inline void linear(int, int, int, int, const uint16_t*, const float*, uint16_t*) {}
inline void linear_backward(int, int, int, int, const uint16_t*, const uint16_t*, const float*, uint16_t*, float*) {}
inline void linear_cross_entropy(int, int, int, int, int, const uint16_t*, const float*, const int64_t*, uint16_t*, float*, uint16_t*, float*) {}

#endif

}  // namespace danlu
