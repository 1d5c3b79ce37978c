// Row by row: RMSNorm, SwiGLU and softmax with cross-entropy, forward and backward.
//
// Numbers come and go as float32 or bfloat16 (their upper half); all arithmetic is in float32 and rounds once, at the end.
// A sum over rows (the gradient of a norm's weight) is made in blocks whose number depends on the shape alone, and the
// blocks are added in order.

#pragma once

#include "parallel.h"

namespace danlu {

inline Floats load(const uint16_t* p) { return load_bf16(p); }
inline void store(uint16_t* p, Floats v) { store_bf16(p, v); }

inline float to_float(float x) { return x; }
inline float to_float(uint16_t x) { return bf16_to_float(x); }

// `count` numbers, the rest of the vector is 0.
template <class T>
inline Floats get(const T* p, int count) {
    if (count == LANES) return load(p);
    T padded[LANES] = {};
    std::memcpy(padded, p, count * sizeof(T));
    return load(padded);
}

template <class T>
inline void put(T* p, Floats v, int count) {
    if (count == LANES) return store(p, v);
    T padded[LANES];
    store(padded, v);
    std::memcpy(p, padded, count * sizeof(T));
}

// f(first, count) for n numbers, a vector at a time.
template <class F>
inline void by_vectors(int n, F f) {
    int i = 0;
    for (; i + LANES <= n; i += LANES) f(i, LANES);
    if (i < n) f(i, n - i);
}

constexpr int MOST_BLOCKS = 64;

inline int rows_per_block(int rows) { return std::max(16, (rows + MOST_BLOCKS - 1) / MOST_BLOCKS); }

inline int blocks(int rows) { return (rows + rows_per_block(rows) - 1) / rows_per_block(rows); }

// f(block, row) for all rows; the rows of a block in order, on one thread.
template <class F>
void by_blocks(int threads, int rows, F f) {
    const int each = rows_per_block(rows);
    in_parallel(threads, blocks(rows), [&](int block) {
        for (int row = block * each; row < std::min(rows, (block + 1) * each); row++) f(block, row);
    });
}

// partial [blocks, n] -> total [n]
inline void add_blocks(const float* partial, int blocks, int n, float* total) {
    std::memcpy(total, partial, n * sizeof(float));
    for (int block = 1; block < blocks; block++)
        for (int i = 0; i < n; i++) total[i] += partial[size_t(block) * n + i];
}

// ---- RMSNorm ----------------------------------------------------------------------------------------------------------

template <class T>
inline float inverse_length(const T* x, int n, float eps) {
    Floats squares = {};
    by_vectors(n, [&](int i, int count) {
        Floats v = get(x + i, count);
        squares = fma(v, v, squares);
    });
    return 1.0f / std::sqrt(sum(squares) / float(n) + eps);
}

// The sum a residual stream goes through, and its norm:  s = x + added,  y = s r w.  `added` may be null; then s is x.
template <class X, class A, class Y>
void add_rms_norm(int threads, int rows, int size, float eps, const X* x, const A* added, const float* w, X* s, Y* y, float* r) {
    by_blocks(threads, rows, [&](int, int row) {
        const size_t at = size_t(row) * size;
        if (added)
            by_vectors(size, [&](int i, int count) { put(s + at + i, get(x + at + i, count) + get(added + at + i, count), count); });
        const X* from = (added ? s : x) + at;
        const float scale = r[row] = inverse_length(from, size, eps);
        by_vectors(size, [&](int i, int count) { put(y + at + i, get(from + i, count) * scale * get(w + i, count), count); });
    });
}

// d_s = d_sum + r (g w - n mean(g w n)) with n = s r;  d_w = sum over rows of g n.  `d_sum` is the gradient that reaches s
// by the other way, or null; `d_added` is d_s again in the dtype of what was added, or null.
template <class X, class A, class Y>
void add_rms_norm_backward(int threads, int rows, int size, const Y* g, const X* d_sum, const X* s, const float* r, const float* w,
                           X* d_s, A* d_added, float* d_w) {
    Array<float> partial(size_t(blocks(rows)) * size);
    by_blocks(threads, rows, [&](int block, int row) {
        const size_t at = size_t(row) * size;
        float* d_weight = partial.data() + size_t(block) * size;
        const float scale = r[row];
        Floats dot = {};
        by_vectors(size, [&](int i, int count) {
            Floats product = get(g + at + i, count) * get(s + at + i, count) * scale;
            dot = fma(product, get(w + i, count), dot);
            put(d_weight + i, get(d_weight + i, count) + product, count);
        });
        const float mean = sum(dot) / float(size);
        by_vectors(size, [&](int i, int count) {
            Floats n = get(s + at + i, count) * scale;
            Floats d = (get(g + at + i, count) * get(w + i, count) - n * mean) * scale;
            if (d_sum) d += get(d_sum + at + i, count);
            put(d_s + at + i, d, count);
            if (d_added) put(d_added + at + i, d, count);
        });
    });
    add_blocks(partial.data(), blocks(rows), size, d_w);
}

// ---- SwiGLU: [rows, 2 F] -> [rows, F], silu(gate) up --------------------------------------------------------------------

template <class T>
void swiglu(int threads, int rows, int inner, const T* gate_up, T* y) {
    by_blocks(threads, rows, [&](int, int row) {
        const T *gate = gate_up + size_t(row) * 2 * inner, *up = gate + inner;
        T* to = y + size_t(row) * inner;
        by_vectors(inner, [&](int i, int count) { put(to + i, silu(get(gate + i, count)) * get(up + i, count), count); });
    });
}

// silu'(z) = sigmoid(z) (1 + z (1 - sigmoid(z)))
template <class T>
void swiglu_backward(int threads, int rows, int inner, const T* g, const T* gate_up, T* d_gate_up) {
    const Floats one = all(1.0f);
    by_blocks(threads, rows, [&](int, int row) {
        const size_t at = size_t(row) * 2 * inner;
        by_vectors(inner, [&](int i, int count) {
            Floats gate = get(gate_up + at + i, count), up = get(gate_up + at + inner + i, count);
            Floats d = get(g + size_t(row) * inner + i, count), sigmoid = one / (one + exp(-gate));
            put(d_gate_up + at + i, d * up * sigmoid * (one + gate * (one - sigmoid)), count);
            put(d_gate_up + at + inner + i, d * gate * sigmoid, count);
        });
    });
}

// ---- softmax and cross-entropy ------------------------------------------------------------------------------------------

// Returns logsumexp(z) - z[target]; z becomes softmax(z) - onehot(target) where `gradient` is wanted.
template <class T>
inline float softmax_cross_entropy_row(int vocab, T* z, int64_t target, bool gradient) {
    float* e = scratch<float>(vocab);
    Floats most = all(-INFINITY);
    const int whole = vocab / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) most = larger(load(z + i), most);
    float highest = largest(most);
    for (int i = whole; i < vocab; i++) highest = std::max(highest, to_float(z[i]));
    Floats sums = {};
    by_vectors(vocab, [&](int i, int count) {
        put(e + i, exp(get(z + i, count) - highest), count);
        sums += get(e + i, count);
    });
    const float total = sum(sums), loss = std::log(total) - (to_float(z[target]) - highest);
    if (!gradient) return loss;
    e[target] -= total;
    const float scale = 1.0f / total;
    by_vectors(vocab, [&](int i, int count) { put(z + i, get(e + i, count) * scale, count); });
    return loss;
}

template <class T>
void softmax_cross_entropy(int threads, int rows, int vocab, T* logits, const int64_t* targets, bool gradient, float* losses) {
    in_parallel(threads, rows, [&](int row) {
        losses[row] = softmax_cross_entropy_row(vocab, logits + size_t(row) * vocab, targets[row], gradient);
    });
}

}  // namespace danlu
