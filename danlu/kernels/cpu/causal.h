// Attention of a training pass: every token sees itself and what is before it in its row (and in its segment).
//
//     S = scale Q K^T     P = softmax(S)     O = P V
//     dV = P^T dO     dP = dO V^T     dS = P (dP - delta) scale     dQ = dS K     dK = dS^T Q       delta = rowsum(dO O)
//
// In tiles of KEYS keys by QUERIES queries, so that no [T, T] matrix exists (FlashAttention, arXiv:2205.14135 and
// 2307.08691). A tile is held with its keys as rows and its queries as columns: softmax then runs down the lanes of a
// vector, without a sum across one, P^T and dS^T are the left factors of dV and dK as they stand, and two neighbouring
// rows woven together are the panel (panel.h) of the products O^T = V^T P^T and dQ^T = K^T dS^T.
//
// One piece of work is a row of the batch and a head of keys, with all heads of queries that share it. Its own order is
// fixed, so the result does not depend on the number of threads.

#pragma once

#include "panel.h"

namespace danlu {

constexpr int VECTORS = 4;                 // of queries in a tile
constexpr int QUERIES = VECTORS * LANES;
constexpr int KEYS = 64;
constexpr float HIDDEN = -INFINITY;        // the score of a key that may not be seen

struct Causal {
    int batch, length, heads, kv_heads, head_dim;
    float scale;
    const int64_t* segments;        // [batch, length] or null
    int64_t q_stride, k_stride, v_stride;  // numbers between two tokens

    int group() const { return heads / kv_heads; }
    int padded(int tile) const { return (length + tile - 1) / tile * tile; }
    size_t token(int row, int place) const { return size_t(row) * length + place; }
};

// Scores of R keys from `key` on against the queries of a tile; what may not be seen becomes HIDDEN.
template <class N, int R>
inline void scores(const Causal& c, int row, int query, int key, const typename N::Number* k, const typename N::Number* q_panel,
                   Floats (*s)[VECTORS]) {
    multiply<N, R, VECTORS>(k + size_t(key) * c.head_dim, c.head_dim, q_panel, QUERIES, c.head_dim, s);
    const bool edge = key + R - 1 > query;
    Ints lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < VECTORS; v++) {
            Floats x = s[r][v] * c.scale;
            if (edge) x = lane + all_ints(query + v * LANES) < all_ints(key + r) ? all(HIDDEN) : x;
            s[r][v] = x;
        }
    if (!c.segments) return;
    for (int r = 0; r < R; r++) {
        if (key + r >= c.length) continue;  // hidden from all that count
        const int64_t own = c.segments[c.token(row, key + r)];
        for (int i = 0; i < QUERIES && query + i < c.length; i++)
            if (c.segments[c.token(row, query + i)] != own) s[r][i / LANES][i % LANES] = HIDDEN;
    }
}

// Numbers of float32 tensors stay, those of bfloat16 go in pairs where the processor has them.
template <class T>
using Arithmetic = std::conditional_t<std::is_same_v<T, float>, Single, Pair>;

// out [B, T, H, hd]; log_sums [B, H, T]: of each query's exp(scores), which the way back needs.
template <class T>
void causal_attention(int threads, const Causal& c, const T* q, const T* k, const T* v, T* out, float* log_sums) {
    using N = Arithmetic<T>;
    using Number = typename N::Number;
    constexpr int R = TILE_SUMS;
    const int dim = c.head_dim, keys = c.padded(KEYS);
    in_parallel(threads, c.batch * c.kv_heads, [&](int piece) {
        const int row = piece / c.kv_heads, kv_head = piece % c.kv_heads;
        Number* memory = scratch<Number>(size_t(keys) * dim * 3 + size_t(QUERIES) * dim * 2 + size_t(KEYS) * QUERIES);
        Number* k_rows = memory;                                // [keys, hd]
        Number* v_across = k_rows + size_t(keys) * dim;         // [hd, keys]
        Number* spare = v_across + size_t(keys) * dim;          // as large
        Number* q_rows = spare + size_t(keys) * dim;            // [QUERIES, hd]
        Number* q_panel = q_rows + size_t(QUERIES) * dim;
        Number* p_panel = q_panel + size_t(QUERIES) * dim;      // [KEYS / WIDE][QUERIES][WIDE]
        float* floats = scratch<float, 1>(size_t(KEYS) * QUERIES + size_t(dim) * QUERIES * 2);
        float *s = floats, *o = s + KEYS * QUERIES, *turned = o + size_t(dim) * QUERIES;
        // The rows of v lie where those of k will be.
        pack_rows(v + c.token(row, 0) * c.v_stride + kv_head * dim, c.v_stride, c.length, keys, dim, k_rows);
        rows_across<N>(k_rows, keys, dim, spare, v_across);
        pack_rows(k + c.token(row, 0) * c.k_stride + kv_head * dim, c.k_stride, c.length, keys, dim, k_rows);
        for (int head = kv_head * c.group(); head < (kv_head + 1) * c.group(); head++)
            for (int query = 0; query < c.length; query += QUERIES) {
                const int valid = std::min(QUERIES, c.length - query);
                pack_rows(q + c.token(row, query) * c.q_stride + head * dim, c.q_stride, valid, QUERIES, dim, q_rows);
                panel_across<N>(q_rows, QUERIES, dim, q_panel);
                std::memset(o, 0, sizeof(float) * dim * QUERIES);
                Floats most[VECTORS], total[VECTORS];
                for (int i = 0; i < VECTORS; i++) most[i] = all(-1e30f), total[i] = Floats{};
                for (int first = 0; first < query + valid; first += KEYS) {
                    Floats higher[VECTORS];
                    for (int i = 0; i < VECTORS; i++) higher[i] = most[i];
                    for (int key = 0; key < KEYS; key += R) {
                        Floats x[R][VECTORS];
                        scores<N, R>(c, row, query, first + key, k_rows, q_panel, x);
                        for (int r = 0; r < R; r++)
                            for (int i = 0; i < VECTORS; i++) {
                                higher[i] = larger(x[r][i], higher[i]);
                                store(s + (key + r) * QUERIES + i * LANES, x[r][i]);
                            }
                    }
                    Floats fade[VECTORS];
                    for (int i = 0; i < VECTORS; i++) fade[i] = exp(most[i] - higher[i]), total[i] *= fade[i], most[i] = higher[i];
                    for (int key = 0; key < KEYS; key += N::WIDE)
                        for (int i = 0; i < VECTORS; i++) {
                            Floats p[N::WIDE];
                            for (int w = 0; w < N::WIDE; w++) {
                                p[w] = exp(load(s + (key + w) * QUERIES + i * LANES) - most[i]);
                                total[i] += p[w];
                            }
                            put_panel<N>(p_panel + size_t(key) * QUERIES + i * LANES * N::WIDE, p);
                        }
                    multiply_all<N>(v_across + first, keys, p_panel, dim, QUERIES, KEYS, [&](int d, int column, Floats x) {
                        float* at = o + d * QUERIES + column;
                        store(at, fma(load(at), fade[column / LANES], x));
                    });
                }
                for (int d = 0; d < dim; d++)
                    for (int i = 0; i < VECTORS; i++) store(o + d * QUERIES + i * LANES, load(o + d * QUERIES + i * LANES) / total[i]);
                transpose((const uint32_t*)o, QUERIES, dim, QUERIES, (uint32_t*)turned, dim);
                for (int i = 0; i < valid; i++) convert(turned + size_t(i) * dim, out + (c.token(row, query + i) * c.heads + head) * dim, dim);
                float* logs = log_sums + (size_t(row) * c.heads + head) * c.length + query;
                for (int i = 0; i < valid; i++) logs[i] = most[i / LANES][i % LANES] + std::log(total[i / LANES][i % LANES]);
            }
    });
}

// d_q [B, T, H, hd], d_k and d_v [B, T, Hkv, hd], each with `d_stride` numbers between two tokens.
template <class T>
void causal_attention_backward(int threads, const Causal& c, const T* q, const T* k, const T* v, const T* out, const float* log_sums,
                               const T* d_out, T* d_q, T* d_k, T* d_v, int64_t d_stride) {
    using N = Arithmetic<T>;
    using Number = typename N::Number;
    constexpr int R = TILE_SUMS;
    const int dim = c.head_dim, keys = c.padded(KEYS);
    in_parallel(threads, c.batch * c.kv_heads, [&](int piece) {
        const int row = piece / c.kv_heads, kv_head = piece % c.kv_heads;
        const size_t all_keys = size_t(keys) * dim, tile = size_t(QUERIES) * dim, square = size_t(KEYS) * QUERIES;
        Number* memory = scratch<Number>(all_keys * 4 + tile * 6 + square * 3);
        Number *k_rows = memory, *v_rows = k_rows + all_keys;    // [keys, hd]
        Number *k_across = v_rows + all_keys, *spare = k_across + all_keys;  // [hd, keys]
        Number *q_rows = spare + all_keys, *q_panel = q_rows + tile, *q_down = q_panel + tile;
        Number *g_rows = q_down + tile, *g_panel = g_rows + tile, *g_down = g_panel + tile;
        Number *p = g_down + tile, *ds = p + square, *ds_panel = ds + square;
        float* floats = scratch<float, 1>(all_keys * 2 + tile * 2 + 2 * QUERIES);
        float *dk = floats, *dv = dk + all_keys, *dq = dv + all_keys, *turned = dq + tile;
        float *log_sum = turned + tile, *delta = log_sum + QUERIES;
        std::memset(floats, 0, sizeof(float) * all_keys * 2);
        pack_rows(k + c.token(row, 0) * c.k_stride + kv_head * dim, c.k_stride, c.length, keys, dim, k_rows);
        pack_rows(v + c.token(row, 0) * c.v_stride + kv_head * dim, c.v_stride, c.length, keys, dim, v_rows);
        rows_across<N>(k_rows, keys, dim, spare, k_across);
        for (int head = kv_head * c.group(); head < (kv_head + 1) * c.group(); head++)
            for (int query = 0; query < c.length; query += QUERIES) {
                const int valid = std::min(QUERIES, c.length - query);
                const size_t at = (c.token(row, query) * c.heads + head) * dim, step = size_t(c.heads) * dim;
                pack_rows(q + c.token(row, query) * c.q_stride + head * dim, c.q_stride, valid, QUERIES, dim, q_rows);
                pack_rows(d_out + at, step, valid, QUERIES, dim, g_rows);
                panel_across<N>(q_rows, QUERIES, dim, q_panel), panel_down<N>(q_rows, QUERIES, dim, q_down);
                panel_across<N>(g_rows, QUERIES, dim, g_panel), panel_down<N>(g_rows, QUERIES, dim, g_down);
                for (int i = 0; i < QUERIES; i++) {
                    Floats dot = {};
                    if (i < valid)
                        by_vectors(dim, [&](int d, int n) { dot = fma(get(d_out + at + i * step + d, n), get(out + at + i * step + d, n), dot); });
                    delta[i] = sum(dot);
                    // A query behind the end sees nothing: exp(score - infinity) is 0.
                    log_sum[i] = i < valid ? log_sums[(size_t(row) * c.heads + head) * c.length + query + i] : INFINITY;
                }
                std::memset(dq, 0, sizeof(float) * tile);
                for (int first = 0; first < query + valid; first += KEYS) {
                    for (int key = 0; key < KEYS; key += R) {
                        Floats x[R][VECTORS], dp[R][VECTORS];
                        scores<N, R>(c, row, query, first + key, k_rows, q_panel, x);
                        for (int r = 0; r < R; r++)
                            for (int i = 0; i < VECTORS; i++) {
                                x[r][i] = exp(x[r][i] - load(log_sum + i * LANES));
                                store(p + (key + r) * QUERIES + i * LANES, x[r][i]);
                            }
                        multiply<N, R, VECTORS>(v_rows + size_t(first + key) * dim, dim, g_panel, QUERIES, dim, dp);
                        for (int r = 0; r < R; r++)
                            for (int i = 0; i < VECTORS; i++) {
                                dp[r][i] = x[r][i] * (dp[r][i] - load(delta + i * LANES)) * c.scale;
                                store(ds + (key + r) * QUERIES + i * LANES, dp[r][i]);
                            }
                        for (int r = 0; r < R; r += N::WIDE)
                            for (int i = 0; i < VECTORS; i++) {
                                Floats woven[N::WIDE];
                                for (int w = 0; w < N::WIDE; w++) woven[w] = dp[r + w][i];
                                put_panel<N>(ds_panel + size_t(key + r) * QUERIES + i * LANES * N::WIDE, woven);
                            }
                    }
                    auto added_to = [](float* to, int columns) {
                        return [=](int i, int column, Floats x) {
                            float* place = to + size_t(i) * columns + column;
                            store(place, load(place) + x);
                        };
                    };
                    multiply_all<N>(p, QUERIES, g_down, KEYS, dim, QUERIES, added_to(dv + size_t(first) * dim, dim));
                    multiply_all<N>(ds, QUERIES, q_down, KEYS, dim, QUERIES, added_to(dk + size_t(first) * dim, dim));
                    multiply_all<N>(k_across + first, keys, ds_panel, dim, QUERIES, KEYS, added_to(dq, QUERIES));
                }
                transpose((const uint32_t*)dq, QUERIES, dim, QUERIES, (uint32_t*)turned, dim);
                for (int i = 0; i < valid; i++) convert(turned + size_t(i) * dim, d_q + c.token(row, query + i) * d_stride + head * dim, dim);
            }
        for (int i = 0; i < c.length; i++) {
            convert(dk + size_t(i) * dim, d_k + c.token(row, i) * d_stride + kv_head * dim, dim);
            convert(dv + size_t(i) * dim, d_v + c.token(row, i) * d_stride + kv_head * dim, dim);
        }
    });
}

}  // namespace danlu
