// Attention over a paged cache, for a few rows of queries.
//
//     a page of one kv head     float32, bfloat16    keys [head_dim][16]          values [16][head_dim]
//                               bfloat16 in pairs    keys [head_dim / 2][16][2]   values [8][head_dim][2]
//                               int8                 keys [head_dim][16]          values [16][head_dim], each with float scales [16]
//
// With keys turned over, q k^T for 16 keys is a sum over dimensions of (one number of q) times (a vector of keys): no
// adding across a vector, and several rows of q use each load. Rows are the query heads of a group (they share keys and
// values), or those of several tokens of a prompt. In pairs, where the processor multiplies and adds two bfloat16 at once,
// q and the softmax are rounded to bfloat16 too; their sums are float32 always. An int8 page has one scale for each of
// its 16 keys and one for each of its 16 values: a key's joins its score, a value's its weight.
//
// One pass over the keys, the softmax kept relative to the largest score so far (Milakov & Gimelshein,
// arXiv:1805.02867, algorithm 3), 64 keys at a time:
//
//     m' = max(m, max s)      l' = l e^(m - m') + sum e^(s - m')      o' = o e^(m - m') + sum e^(s - m') v
//
// Keys are cut into splits of 256, each with its own m, l, o; a decoding token has its splits computed side by side, a
// prompt one after the other, and both join them by the same formula in the same order. All borders are absolute
// positions. So a query's result does not depend on which chunk, batch or thread computed it.
//
// A decoding token reads every key once, and a page is too short for the processor's prefetcher: while it looks at keys
// it asks for the values of the same pages, and while it sums values for the next keys.

#pragma once

#include <limits>

#include "matrix.h"

namespace danlu {

constexpr int PAGE = 16;    // keys of a block of the cache
constexpr int CHUNK = 64;   // keys whose scores are held at once
constexpr int PAGES = CHUNK / PAGE;
constexpr int SPLIT = 256;  // keys that are summed without joining
constexpr int TILE = 32;    // most rows of queries at once
constexpr int V = PAGE / LANES;  // vectors of 16
constexpr float NEVER = -std::numeric_limits<float>::infinity();

// Rows, and pages or vectors of 16 dimensions, whose sums stay in registers.
constexpr int ROWS_AT_ONCE = LANES == 16 ? 6 : 3, WIDTH_AT_ONCE = LANES == 16 ? 4 : 2;

enum Kept : int { KEPT_FLOAT32 = 0, KEPT_BFLOAT16 = 1, KEPT_INT8 = 2 };

// How numbers of type T lie in a page, and what q and the softmax are multiplied as.
template <class T>
struct Format {
    static constexpr int pair = std::is_same_v<T, uint16_t> && BFLOAT16_PAIRS ? 2 : 1;  // numbers that are multiplied at once
    static constexpr bool scaled = std::is_same_v<T, int8_t>;
    using Factor = std::conditional_t<pair == 2, uint16_t, float>;

    // Bytes of the keys, or of the values, of one kv head in a page.
    static size_t bytes(int head_dim) { return size_t(PAGE) * head_dim * sizeof(T) + (scaled ? PAGE * sizeof(float) : 0); }
    static const float* scales(const T* page, int head_dim) { return (const float*)(page + size_t(PAGE) * head_dim); }
    static size_t key_place(int head_dim, int key, int d) { return (size_t(d / pair) * PAGE + key) * pair + d % pair; }
    static size_t value_place(int head_dim, int key, int d) { return (size_t(key / pair) * head_dim + d) * pair + key % pair; }
};

inline size_t page_bytes(Kept kept, int kv_heads, int head_dim) {
    return kv_heads * (kept == KEPT_FLOAT32    ? Format<float>::bytes(head_dim)
                       : kept == KEPT_BFLOAT16 ? Format<uint16_t>::bytes(head_dim)
                                               : Format<int8_t>::bytes(head_dim));
}

// Where the keys and values of one layer are, from one kv head on.
template <class T>
struct Pages {
    uint8_t* keys;
    uint8_t* values;
    size_t stride;  // bytes from one block to the next
    int head_dim;

    // Numbers from one kv head to the next.
    size_t head() const { return Format<T>::bytes(head_dim) / sizeof(T); }

    T* key(int block) const { return (T*)(keys + block * stride); }
    T* value(int block) const { return (T*)(values + block * stride); }
};

// One number of a row (or a pair of them) times LANES numbers (or pairs) of a page, added to a sum.
inline Floats multiply_add(const float* page, const float* x, Floats sum) { return fma(load(page), all(*x), sum); }
inline Floats multiply_add(const int8_t* page, const float* x, Floats sum) { return fma(load_bytes(page), all(*x), sum); }
inline Floats multiply_add(const uint16_t* page, const float* x, Floats sum) { return fma(load_bf16(page), all(*x), sum); }
#if defined(__AVX512BF16__) && DANLU_LANES == 16
inline Floats multiply_add(const uint16_t* page, const uint16_t* x, Floats sum) {
    int32_t both;
    std::memcpy(&both, x, 4);
    return (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(page), (__m512bh)_mm512_set1_epi32(both));
}
#endif

inline void put(float* to, float x) { *to = x; }
inline void put(uint16_t* to, float x) { *to = float_to_bf16(x); }

// n floats, a multiple of 16, as factors of a product.
inline void as_factors(const float* from, int n, float* to) { std::memcpy(to, from, n * sizeof(float)); }
inline void as_factors(const float* from, int n, uint16_t* to) {
    for (int i = 0; i < n; i += LANES) store_bf16(to + i, load(from + i));
}

// What a softmax over part of the keys needs to be joined with the other parts.
struct Partial {
    float most = NEVER, total = 0;
};

// s[r][16 p ..] = q[r] . keys of page p, for R rows and P pages; `ahead` pages are asked for meanwhile.
template <int R, int P, class T>
inline void scores(const T* const* pages, const T* const* ahead, const typename Format<T>::Factor* q, int head_dim, float* s) {
    constexpr int pair = Format<T>::pair;
    Floats sums[R][P][V];
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++)
            for (int v = 0; v < V; v++) sums[r][p][v] = Floats{};
    for (int d = 0; d < head_dim; d += pair)
        for (int p = 0; p < P; p++) {
            if (ahead) __builtin_prefetch(ahead[p] + d * PAGE, 0, 2);
            for (int v = 0; v < V; v++)
                for (int r = 0; r < R; r++)
                    sums[r][p][v] = multiply_add(pages[p] + d * PAGE + v * LANES * pair, q + r * head_dim + d, sums[r][p][v]);
        }
    for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++)
            for (int v = 0; v < V; v++) {
                Floats y = sums[r][p][v];
                if (Format<T>::scaled) y *= load(Format<T>::scales(pages[p], head_dim) + v * LANES);
                store(s + r * CHUNK + p * PAGE + v * LANES, y);
            }
}

// o[r][d ..] = o * fade[r] + sum over pages and their keys of p[r][key] values[key], for R rows and 16 W dimensions.
template <int R, int W, class T>
inline void weigh(
    const T* const* pages, const T* const* ahead, int n_pages, const typename Format<T>::Factor* p, const float* fade,
    int head_dim, int d, float* o
) {
    constexpr int pair = Format<T>::pair;
    Floats sums[R][W * V];
    for (int r = 0; r < R; r++)
        for (int v = 0; v < W * V; v++) sums[r][v] = load(o + r * head_dim + d + v * LANES) * fade[r];
    for (int page = 0; page < n_pages; page++)
        for (int i = 0; i < PAGE; i += pair)
            for (int v = 0; v < W * V; v++) {
                const size_t place = size_t(i) * head_dim + (d + v * LANES) * pair;
                if (ahead) __builtin_prefetch(ahead[page] + place, 0, 2);
                for (int r = 0; r < R; r++)
                    sums[r][v] = multiply_add(pages[page] + place, p + r * CHUNK + page * PAGE + i, sums[r][v]);
            }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < W * V; v++) store(o + r * head_dim + d + v * LANES, sums[r][v]);
}

// The scores of one chunk, s [rows][CHUNK]; what lies behind n_pages is not written.
template <class T>
inline void chunk_scores(
    const T* const* keys, const T* const* ahead, int n_pages, const typename Format<T>::Factor* q, int rows, int head_dim,
    float* s
) {
    by_tiles<WIDTH_AT_ONCE>(n_pages, [&](auto width, int page) {
        constexpr int P = decltype(width)::value;
        by_tiles<ROWS_AT_ONCE>(rows, [&](auto size, int r) {
            scores<decltype(size)::value, P>(
                keys + page, r == 0 ? ahead + page : nullptr, q + r * head_dim, head_dim, s + r * CHUNK + page * PAGE);
        });
    });
}

// The keys of one split against rows of q [rows][head_dim] (already scaled), an equal part of them for each of `heads` kv
// heads; row r is at position at[r] and sees keys at[r] - window < key <= at[r] (window 0: all). o [rows][head_dim] and
// part [rows] are overwritten. Heads lie behind each other in a page, so memory is read in their order.
template <class T>
inline void attend_split(
    const Pages<T>& pages, int heads, const int32_t* table, int split, const typename Format<T>::Factor* q, const int* at,
    int rows, int window, float* o, Partial* part
) {
    using Factor = typename Format<T>::Factor;
    const int head_dim = pages.head_dim, each = rows / heads;
    std::memset(o, 0, size_t(rows) * head_dim * sizeof(float));
    int last = at[0], first = at[0];
    for (int r = 0; r < rows; r++) {
        part[r] = Partial{};
        last = std::max(last, at[r]);
        first = std::min(first, at[r]);
    }
    // The block of a page of keys. One wholly behind every window may have been given away: it is masked, so any will do.
    auto block = [&](int page) {
        page = std::min(page, last / PAGE);
        return table[window && page * PAGE + PAGE - 1 <= first - window ? last / PAGE : page];
    };
    alignas(64) float s[TILE * CHUNK];
    alignas(64) Factor weights[TILE * CHUNK];
    alignas(64) float fade[TILE] = {}, most[TILE];
    for (int begin = split * SPLIT; begin < (split + 1) * SPLIT && begin <= last; begin += CHUNK) {
        if (window && begin + CHUNK - 1 <= first - window) continue;
        int n_pages = std::min(CHUNK, last + 1 - begin + PAGE - 1) / PAGE;
        // In the order they are read in: keys of each head, values of each head, keys of the next chunk.
        const T* read[2 * TILE + 1][PAGES];
        for (int page = 0; page < PAGES; page++) {
            const int index = begin / PAGE + page;
            for (int h = 0; h < heads; h++) {
                read[h][page] = pages.key(block(index)) + h * pages.head();
                read[heads + h][page] = pages.value(block(index)) + h * pages.head();
            }
            read[2 * heads][page] = pages.key(block(index + PAGES));
        }
        for (int h = 0; h < heads; h++)
            chunk_scores(read[h], read[h + 1], n_pages, q + h * each * head_dim, each, head_dim, s + h * each * CHUNK);
        for (int r = 0; r < rows; r++) {
            float* row = s + r * CHUNK;
            int seen = std::min(at[r] - begin + 1, n_pages * PAGE);  // keys before `seen` are visible
            for (int i = std::max(seen, 0); i < CHUNK; i++) row[i] = NEVER;
            if (window)
                for (int i = 0; i < std::min(CHUNK, at[r] - window - begin + 1); i++) row[i] = NEVER;
            Floats top = load(row);
            for (int i = LANES; i < CHUNK; i += LANES) top = larger(load(row + i), top);
            most[r] = std::max(part[r].most, largest(top));
            fade[r] = most[r] == NEVER ? 0.0f : part[r].most - most[r];
            part[r].most = most[r];
        }
        for (int r = 0; r < rows; r += LANES) store(fade + r, exp(load(fade + r)));
        for (int r = 0; r < rows; r++) {
            float* row = s + r * CHUNK;
            const Floats high = all(most[r] == NEVER ? 0.0f : most[r]);  // nothing visible so far: e^-infinity for all
            Floats total = {};
            for (int i = 0; i < CHUNK; i += LANES) {
                Floats p = exp(load(row + i) - high);
                total += p;
                store(row + i, p);
            }
            part[r].total = std::fma(part[r].total, fade[r], sum(total));
            if (Format<T>::scaled)
                for (int page = 0; page < n_pages; page++)
                    for (int v = 0; v < V; v++) {
                        float* p = row + page * PAGE + v * LANES;
                        store(p, load(p) * load(Format<T>::scales(read[heads + r / each][page], head_dim) + v * LANES));
                    }
            as_factors(row, CHUNK, weights + r * CHUNK);
        }
        for (int h = 0; h < heads; h++)
            by_tiles<WIDTH_AT_ONCE>(head_dim / PAGE, [&](auto width, int d) {
                constexpr int W = decltype(width)::value;
                by_tiles<ROWS_AT_ONCE>(each, [&](auto size, int i) {
                    const int r = h * each + i;
                    weigh<decltype(size)::value, W>(
                        read[heads + h], i == 0 ? read[heads + h + 1] : nullptr, n_pages, weights + r * CHUNK, fade + r, head_dim,
                        d * PAGE, o + r * head_dim);
                });
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

// n floats as bytes, `stride` apart; returns their scale, NaN where one of them is not a number.
inline float keep_bytes(const float* x, int n, int8_t* to, int stride) {
    float most = largest_size(x, n), inverse = most > 0 && most <= FLT_MAX ? 127.0f / most : 0.0f;
    for (int d = 0; d < n; d++) to[size_t(d) * stride] = int8_t(std::nearbyint(x[d] * inverse));
    return most <= FLT_MAX ? most / 127.0f : NAN;
}

// Key and value of one position, head_dim floats each, into its page.
template <class T>
inline void keep(const Pages<T>& pages, int block, int position, const float* key, const float* value) {
    const int place = position % PAGE, hd = pages.head_dim;
    T *keys = pages.key(block), *values = pages.value(block);
    if constexpr (Format<T>::scaled) {
        const_cast<float*>(Format<T>::scales(keys, hd))[place] = keep_bytes(key, hd, keys + place, PAGE);
        const_cast<float*>(Format<T>::scales(values, hd))[place] = keep_bytes(value, hd, values + size_t(place) * hd, 1);
    } else
        for (int d = 0; d < hd; d++) {
            put(keys + Format<T>::key_place(hd, place, d), key[d]);
            put(values + Format<T>::value_place(hd, place, d), value[d]);
        }
}

// The values behind a position in its page, which may be anybody's: a weight of 0 times what is not a number is not 0.
template <class T>
inline void clear_behind(const Pages<T>& pages, int block, int position) {
    const int hd = pages.head_dim;
    T* values = pages.value(block);
    for (int place = position % PAGE + 1; place < PAGE; place++) {
        for (int d = 0; d < hd; d++) values[Format<T>::value_place(hd, place, d)] = T(0);
        if constexpr (Format<T>::scaled) const_cast<float*>(Format<T>::scales(values, hd))[place] = 0.0f;
    }
}

}  // namespace danlu
