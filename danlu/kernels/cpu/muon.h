// Muon's update of many matrices (train/optim.py), each from its gradient to its new weights without leaving the cache
// of one core: as operators, the same is some twenty passes over memory that are longer than the products between them.
//
//     m += (1 - b) (g - m)      u = m + (1 - b) (g - m)      X = u / |u|, turned so that it is wide
//     X <- a X + (b G + c G G) X,  G = X X^T                 for each (a, b, c)
//     p <- decay p - rate X

#pragma once

#include "panel.h"

namespace danlu {

struct MuonMatrix {
    float *weights, *momentum;
    const float* gradient;
    int32_t rows, columns;
};

struct MuonStep {
    float blend, decay, scale;         // 1 - b; 1 - learning rate x weight decay; learning rate x 0.2
    int32_t iterations;
    const float* coefficients;         // [iterations, 3]
};

template <class N>
void muon_update(const MuonMatrix& w, const MuonStep& step) {
    using Number = typename N::Number;
    const size_t count = size_t(w.rows) * w.columns;
    const bool wide = w.rows <= w.columns;
    const int m = std::min(w.rows, w.columns), n = std::max(w.rows, w.columns);
    float* floats = scratch<float, 2>(count * 2);
    float *u = floats, *x = wide ? u : floats + count;  // x [m, n]
    Floats squares = {};
    for (size_t i = 0; i < count; i += LANES) {
        Floats g = load(w.gradient + i), momentum = load(w.momentum + i);
        momentum = momentum + (g - momentum) * step.blend;
        store(w.momentum + i, momentum);
        Floats direction = momentum + (g - momentum) * step.blend;
        store(u + i, direction);
        squares = fma(direction, direction, squares);
    }
    if (!wide) transpose((const uint32_t*)u, m, n, m, (uint32_t*)x, n);
    const float inverse = 1.0f / (std::sqrt(sum(squares)) + 1e-7f);
    for (size_t i = 0; i < count; i += LANES) store(x + i, load(x + i) * inverse);

    Number* numbers = scratch<Number, 3>(count * 2 + size_t(m) * m * 3);
    Number *rows = numbers, *panel = rows + count;                    // x, as a left factor and as a right one
    Number *gram = panel + count, *gram_panel = gram + size_t(m) * m, *polynomial = gram_panel + size_t(m) * m;
    for (int i = 0; i < step.iterations; i++) {
        const float *c = step.coefficients + 3 * i;
        convert(x, rows, int(count));
        panel_across<N>(rows, m, n, panel);
        multiply_all<N>(rows, n, panel, m, m, n, [&](int r, int column, Floats v) { put(gram + size_t(r) * m + column, v, LANES); });
        panel_down<N>(gram, m, m, gram_panel);
        multiply_all<N>(gram, m, gram_panel, m, m, m, [&](int r, int column, Floats v) {
            const size_t at = size_t(r) * m + column;
            put(polynomial + at, fma(v, all(c[2]), get(gram + at, LANES) * c[1]), LANES);
        });
        panel_down<N>(rows, m, n, panel);
        multiply_all<N>(polynomial, m, panel, m, n, m, [&](int r, int column, Floats v) {
            float* at = x + size_t(r) * n + column;
            store(at, fma(load(at), all(c[0]), v));
        });
    }
    if (!wide) transpose((const uint32_t*)x, n, m, n, (uint32_t*)u, m);
    const float rate = step.scale * std::sqrt(float(n));
    for (size_t i = 0; i < count; i += LANES) store(w.weights + i, load(w.weights + i) * step.decay - load(u + i) * rate);
}

inline void muon(int threads, int n, const MuonMatrix* matrices, const MuonStep& step) {
    in_parallel(threads, n, [&](int i) { muon_update<Pair>(matrices[i], step); });
}

}  // namespace danlu
