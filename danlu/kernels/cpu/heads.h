// What happens to queries and keys between the product that makes them and attention: a norm of each head (QK-norm,
// arXiv:2302.05442, section 2) and its turn by the angle of its position (RoPE, see model/rope.py), in one pass.
//
//     x [tokens, H + 2 Hkv, hd] -> y of the same shape        heads: queries, keys, values; values are copied
//     n = x r w                     w: of queries or of keys; null means no norm
//     y = turn(n)                   cos, sin [tables, hd / 2], token t reads row t % tables; null means no turn
//
// The gradients of y come as three tensors, each with its own distance between tokens; that of x is one.

#pragma once

#include "rows.h"

namespace danlu {

struct Heads {
    int tokens, heads, kv_heads, head_dim, tables;
    float eps;
    const float *q_weight, *k_weight, *cos, *sin;

    int all() const { return heads + 2 * kv_heads; }
    const float* weight(int head) const { return head < heads ? q_weight : head < heads + kv_heads ? k_weight : nullptr; }
    bool is_value(int head) const { return head >= heads + kv_heads; }
};

template <class T>
void norm_and_rotate(int threads, const Heads& h, const T* x, T* y) {
    const int dim = h.head_dim, half = dim / 2;
    by_blocks(threads, h.tokens, [&](int, int token) {
        const size_t table = size_t(token % h.tables) * half;
        for (int head = 0; head < h.all(); head++) {
            const size_t at = (size_t(token) * h.all() + head) * dim;
            if (h.is_value(head)) {
                std::memcpy(y + at, x + at, dim * sizeof(T));
                continue;
            }
            const float* w = h.weight(head);
            const float r = w ? inverse_length(x + at, dim, h.eps) : 1.0f;
            by_vectors(half, [&](int i, int count) {
                Floats first = get(x + at + i, count), second = get(x + at + half + i, count);
                if (w) first *= r * get(w + i, count), second *= r * get(w + half + i, count);
                if (h.cos) {
                    Floats c = get(h.cos + table + i, count), s = get(h.sin + table + i, count);
                    Floats turned = first * c - second * s;
                    second = second * c + first * s, first = turned;
                }
                put(y + at + i, first, count), put(y + at + half + i, second, count);
            });
        }
    });
}

// strides: numbers between two tokens of d_q, d_k, d_v. d_weight [2, hd]: of queries, of keys.
template <class T>
void norm_and_rotate_backward(int threads, const Heads& h, const T* d_q, const T* d_k, const T* d_v, const int64_t* strides,
                              const T* x, T* d_x, float* d_weight) {
    const int dim = h.head_dim, half = dim / 2;
    Array<float> partial(size_t(blocks(h.tokens)) * 2 * dim);
    by_blocks(threads, h.tokens, [&](int block, int token) {
        const size_t table = size_t(token % h.tables) * half;
        float* g = scratch<float>(dim);  // the gradient of n
        for (int head = 0; head < h.all(); head++) {
            const size_t at = (size_t(token) * h.all() + head) * dim;
            if (h.is_value(head)) {
                std::memcpy(d_x + at, d_v + token * strides[2] + (head - h.heads - h.kv_heads) * dim, dim * sizeof(T));
                continue;
            }
            const bool query = head < h.heads;
            const T* d_y = query ? d_q + token * strides[0] + head * dim : d_k + token * strides[1] + (head - h.heads) * dim;
            by_vectors(half, [&](int i, int count) {  // turned back
                Floats first = get(d_y + i, count), second = get(d_y + half + i, count);
                if (h.cos) {
                    Floats c = get(h.cos + table + i, count), s = get(h.sin + table + i, count);
                    Floats turned = first * c + second * s;
                    second = second * c - first * s, first = turned;
                }
                put(g + i, first, count), put(g + half + i, second, count);
            });
            const float* w = h.weight(head);
            if (!w) {
                by_vectors(dim, [&](int i, int count) { put(d_x + at + i, get(g + i, count), count); });
                continue;
            }
            float* d_w = partial.data() + (size_t(block) * 2 + !query) * dim;
            const float r = inverse_length(x + at, dim, h.eps);
            Floats dot = {};
            by_vectors(dim, [&](int i, int count) {
                Floats product = get(g + i, count) * get(x + at + i, count) * r;
                dot = fma(product, get(w + i, count), dot);
                put(d_w + i, get(d_w + i, count) + product, count);
            });
            const float mean = sum(dot) / float(dim);
            by_vectors(dim, [&](int i, int count) {
                Floats n = get(x + at + i, count) * r;
                put(d_x + at + i, (get(g + i, count) * get(w + i, count) - n * mean) * r, count);
            });
        }
    });
    add_blocks(partial.data(), blocks(h.tokens), 2 * dim, d_weight);
}

}  // namespace danlu
