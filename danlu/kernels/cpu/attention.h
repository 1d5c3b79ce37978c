// Attention over a paged cache, for a few rows of queries that share one key/value head.
//
//     keys     [block][kv head][head_dim][16]     turned over: a load gives 16 keys of one dimension
//     values   [block][kv head][16][head_dim]
//
// With keys turned over, q k^T for 16 keys is a sum over dimensions of (one number of q) times (a vector of keys): no
// adding across a vector, and several rows of q use each load. Rows are the query heads of a group (they share keys and
// values), or those of several tokens of a prompt.
//
// One pass over the keys, the softmax kept relative to the largest score so far (Milakov & Gimelshein,
// arXiv:1805.02867, algorithm 3), 64 keys at a time:
//
//     m' = max(m, max s)      l' = l e^(m - m') + sum e^(s - m')      o' = o e^(m - m') + sum e^(s - m') v
//
// Keys are cut into splits of 256, each with its own m, l, o; a decoding token has its splits computed side by side, a
// prompt one after the other, and both join them by the same formula in the same order. All borders are absolute
// positions. So a query's result does not depend on which chunk, batch or thread computed it.

#pragma once

#include <limits>

#include "lanes.h"

namespace danlu {

constexpr int PAGE = 16;    // keys of a block of the cache
constexpr int CHUNK = 64;   // keys whose scores are held at once
constexpr int SPLIT = 256;  // keys that are summed without joining
constexpr int TILE = 32;    // most rows of queries at once
constexpr int V = PAGE / LANES;  // vectors of 16
constexpr int ROWS = 12 / V;     // rows that share a load: 12 sums under way keep the multipliers busy
constexpr float NEVER = -std::numeric_limits<float>::infinity();

// Where the keys and values of one layer and one kv head are; T is float or uint16_t (bfloat16).
template <class T>
struct Pages {
    const T* keys;
    const T* values;
    size_t stride;  // from one block to the next
    int head_dim;
};

inline Floats load_any(const float* p) { return load(p); }
inline Floats load_any(const uint16_t* p) { return load_bf16(p); }

// What a softmax over part of the keys needs to be joined with the other parts.
struct Partial {
    float most = NEVER, total = 0;
};

// s[r][0..16) = q[r] . keys, for R rows. q [R][head_dim], s with rows of CHUNK.
template <int R, class T>
inline void scores(const T* keys, const float* q, int head_dim, float* s) {
    Floats sums[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = Floats{};
    for (int d = 0; d < head_dim; d++) {
        Floats k[V];
        for (int v = 0; v < V; v++) k[v] = load_any(keys + d * PAGE + v * LANES);
        for (int r = 0; r < R; r++) {
            Floats x = all(q[r * head_dim + d]);
            for (int v = 0; v < V; v++) sums[r][v] = fma(k[v], x, sums[r][v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(s + r * CHUNK + v * LANES, sums[r][v]);
}

// o[r][d .. d + 16) = o * fade[r] + sum over pages and their keys of p[r][key] values[key], for R rows.
template <int R, class T>
inline void weigh(const T* const* pages, int n_pages, const float* p, const float* fade, int head_dim, int d, float* o) {
    Floats sums[R][V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) sums[r][v] = load(o + r * head_dim + d + v * LANES) * fade[r];
    for (int page = 0; page < n_pages; page++)
        for (int i = 0; i < PAGE; i++) {
            Floats values[V];
            for (int v = 0; v < V; v++) values[v] = load_any(pages[page] + i * head_dim + d + v * LANES);
            for (int r = 0; r < R; r++) {
                Floats x = all(p[r * CHUNK + page * PAGE + i]);
                for (int v = 0; v < V; v++) sums[r][v] = fma(values[v], x, sums[r][v]);
            }
        }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < V; v++) store(o + r * head_dim + d + v * LANES, sums[r][v]);
}

// The keys of one split against `rows` rows of q [rows][head_dim] (already scaled), row r at position at[r]; it sees keys
// at[r] - window < key <= at[r] (window 0: all). o [rows][head_dim] and part [rows] are overwritten.
template <class T>
inline void attend_split(
    const Pages<T>& pages, const int32_t* table, int split, const float* q, const int* at, int rows, int window,
    float* o, Partial* part
) {
    const int head_dim = pages.head_dim;
    std::memset(o, 0, size_t(rows) * head_dim * sizeof(float));
    int last = at[0], first = at[0];
    for (int r = 0; r < rows; r++) {
        part[r] = Partial{};
        last = std::max(last, at[r]);
        first = std::min(first, at[r]);
    }
    alignas(64) float s[TILE * CHUNK];
    alignas(64) float fade[TILE];
    for (int begin = split * SPLIT; begin < (split + 1) * SPLIT && begin <= last; begin += CHUNK) {
        if (window && begin + CHUNK - 1 <= first - window) continue;
        int n_pages = std::min(CHUNK, last + 1 - begin + PAGE - 1) / PAGE;
        const T* values[CHUNK / PAGE];
        for (int page = 0; page < n_pages; page++) {
            // A page wholly behind every window may have been given away: it is masked, so any page will do.
            int index = begin / PAGE + page;
            if (window && begin + page * PAGE + PAGE - 1 <= first - window) index = last / PAGE;
            size_t block = size_t(table[index]) * pages.stride;
            values[page] = pages.values + block;
            by_tiles<ROWS>(rows, [&](auto size, int r) {
                scores<decltype(size)::value>(pages.keys + block, q + r * head_dim, head_dim, s + r * CHUNK + page * PAGE);
            });
        }
        for (int r = 0; r < rows; r++) {
            float* row = s + r * CHUNK;
            int seen = std::min(at[r] - begin + 1, n_pages * PAGE);  // keys before `seen` are visible
            for (int i = std::max(seen, 0); i < CHUNK; i++) row[i] = NEVER;
            if (window)
                for (int i = 0; i < std::min(CHUNK, at[r] - window - begin + 1); i++) row[i] = NEVER;
            Floats top = load(row);
            for (int i = LANES; i < CHUNK; i += LANES) top = larger(load(row + i), top);
            float most = std::max(part[r].most, largest(top));
            if (most == NEVER) {  // nothing visible so far
                std::memset(row, 0, CHUNK * sizeof(float));
                fade[r] = 1.0f;
                continue;
            }
            fade[r] = exp(all(part[r].most - most))[0];
            Floats total = {};
            for (int i = 0; i < CHUNK; i += LANES) {
                Floats p = exp(load(row + i) - most);
                total += p;
                store(row + i, p);
            }
            part[r].total = std::fma(part[r].total, fade[r], sum(total));
            part[r].most = most;
        }
        for (int d = 0; d < head_dim; d += PAGE)
            by_tiles<ROWS>(rows, [&](auto size, int r) {
                weigh<decltype(size)::value>(values, n_pages, s + r * CHUNK, fade + r, head_dim, d, o + r * head_dim);
            });
    }
}

// Join a part into the whole: o and whole are changed.
inline void join(float* o, Partial& whole, const float* part_o, const Partial& part, int head_dim) {
    float most = std::max(whole.most, part.most);
    if (most == NEVER) return;
    float old = exp(all(whole.most - most))[0], fresh = exp(all(part.most - most))[0];
    whole.total = std::fma(whole.total, old, part.total * fresh);
    whole.most = most;
    for (int d = 0; d < head_dim; d += LANES) store(o + d, fma(load(o + d), all(old), load(part_o + d) * fresh));
}

}  // namespace danlu
