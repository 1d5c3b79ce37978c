// One step of a decoder: ids and positions of all sequences in, logits of the rows that want them out.
//
//     x = embedding[ids]                                                          [T, D]
//     per layer   qkv = norm(x) Wqkv^T         -> keys and values into the cache
//                 a   = attention(q, cache)
//                 x  += a Wout^T
//                 h   = silu(gate) * up        of norm(x) Wgate_up^T
//                 x  += h Wdown^T
//     logits = norm(x[rows]) Whead^T                                              [S, V]
//
// Only attention looks from one row to another. All that lies between two attentions is done in one of two ways:
//
//     together    few rows: the team shares each product, piece by piece, and meets at a barrier behind each. Every weight
//                 is read once, and that is what a few rows cost.
//     alone       many rows: each member takes some of them through all products up to the next attention. It meets nobody,
//                 and what it wrote last is still in its own cache; the weights are read once for every such part.
//
// A row's numbers do not depend on the way. Behind the last attention only the rows that something is asked of go on.

#pragma once

#include "model.h"

namespace danlu {

// Rows that go through products: all of the team's, or some of one member's that works alone.
struct Share {
    const int32_t* rows;
    int n;
    bool alone;
};

// What a product reads; and, where there are adapters, what they made of it.
struct Input {
    Share share;
    Rows rows;
    const float* low = nullptr;
    int product = -1;  // layer * 4 + which; -1: the head, which has no adapters
};

class Stepper {
  public:
    Stepper(Model& model, int worker) : m(model), s(model.shape), worker(worker), own(model.own[worker]) {}

    // Logits and hidden states may be null. `head`: whether the best of each row is looked for.
    void run(const int32_t* ids, int n_out, const int32_t* out_rows, float* logits, bool head, float* hidden) {
        own.best.assign(head ? n_out : 0, Best{});
        const int D = s.hidden, T = m.n_tokens;
        const size_t stride = padded(D);
        const Matrix& table = m.embedding.rows ? m.embedding : m.head;
        each(T, [&](int t) {
            float* row = &m.x[t * stride];
            table.row(ids[t], row);
            if (!m.vectors[POSITIONS].empty()) {
                const float* at = &m.vectors[POSITIONS][size_t(m.positions[t]) * D];
                for (int d = 0; d < D; d++) row[d] += at[d];
            }
        });
        m.team.barrier();
        by_rows(m.every.data(), T, [&](const Share& share) { before_attention(0, share); });
        for (int l = 0; l < s.layers; l++) {
            m.team.barrier();
            attention(l, l + 1 == s.layers);
            m.team.barrier();
            if (l + 1 < s.layers)
                by_rows(m.every.data(), T, [&](const Share& share) {
                    after_attention(l, share);
                    meet(share, m.layers[l + 1].qkv);
                    before_attention(l + 1, share);
                });
            else
                by_rows(out_rows, n_out, [&](const Share& share) { after_attention(l, share); });
        }
        ask(m.head);
        m.team.barrier();
        // The last norm, for the rows asked for.
        Input input = prepare({out_rows, n_out, false}, m.head, [&](int i, float* to) {
            norm(&m.x[out_rows[i] * stride], m.vectors[FINAL_NORM], m.vectors[FINAL_NORM_BIAS], to);
            if (hidden && (worker == 0 || !m.each_prepares(n_out))) std::memcpy(hidden + size_t(i) * D, to, D * sizeof(float));
            return to;
        });
        if (!head) return;
        const int V = s.vocab;
        multiply(input, m.head, [&](int i, int n, Floats y) {
            float* to = logits ? logits + size_t(i) * V + n : nullptr;
            if (n + LANES > V) {
                if (to) std::memcpy(to, &y, (V - n) * sizeof(float));
                for (int lane = V - n; lane < LANES; lane++) y[lane] = NEVER;
            } else if (to)
                store(to, y);
            own.best[i].see(n, y);
        });
    }

  private:
    Model& m;
    const Shape& s;
    const int worker;
    Model::Own& own;
    int stage = 0, products = 0;  // how many of each the team has begun to share

    // ---- the products of a layer ----

    void before_attention(int l, const Share& share) {
        const Layer& layer = m.layers[l];
        const size_t stride = padded(s.hidden), wide = padded(m.q_width + 2 * m.kv_width);
        Input input = prepare(share, layer.qkv, [&](int i, float* to) {
            return norm(&m.x[share.rows[i] * stride], layer.vectors[ATTENTION_NORM], layer.vectors[ATTENTION_NORM_BIAS], to);
        }, 4 * l + QKV);
        const float* bias = layer.qkv.bias.empty() ? nullptr : layer.qkv.bias.data();
        multiply(input, layer.qkv, [&](int i, int n, Floats y) {
            if (bias) y += load(bias + n);
            store(&m.qkv[share.rows[i] * wide + n], y);
        });
        if (share.alone)
            for (int i = 0; i < share.n; i++)
                for (int h = 0; h < s.kv_heads; h++) remember(l, share.rows[i], h);
        else
            ask(layer.out);
    }

    void after_attention(int l, const Share& share) {
        const Layer& layer = m.layers[l];
        const size_t stride = padded(s.hidden), inner = padded(s.inner);
        auto add = [&](const Matrix& w) {
            return [&, bias = w.bias.data(), biased = !w.bias.empty()](int i, int n, Floats y) {
                float* to = &m.x[share.rows[i] * stride + n];
                if (biased) y += load(bias + n);
                store(to, load(to) + y);
            };
        };
        Input input = prepare(share, layer.out, [&](int i, float* to) { return attended_row(share.rows[i], to); }, 4 * l + OUT);
        multiply(input, layer.out, add(layer.out));
        meet(share, layer.gate_up);

        input = prepare(share, layer.gate_up, [&](int i, float* to) {
            return norm(&m.x[share.rows[i] * stride], layer.vectors[MLP_NORM], layer.vectors[MLP_NORM_BIAS], to);
        }, 4 * l + GATE_UP);
        const float* bias = layer.gate_up.bias.empty() ? nullptr : layer.gate_up.bias.data();
        if (s.mlp == SWIGLU)  // blocks of gate and up take turns, and a piece always holds both
            multiply(input, layer.gate_up, [&](int i, int n, Floats y) {
                if (bias) y += load(bias + n);
                float* gate = &own.gate[size_t(i) * LANES];
                if (n / LANES % 2 == 0)
                    store(gate, y);
                else
                    store(&m.inner[share.rows[i] * inner + n / LANES / 2 * LANES], silu(load(gate)) * y);
            });
        else
            multiply(input, layer.gate_up, [&](int i, int n, Floats y) {
                if (bias) y += load(bias + n);
                for (int lane = 0; lane < LANES; lane++) y[lane] = gelu(y[lane]);
                store(&m.inner[share.rows[i] * inner + n], y);
            });
        meet(share, layer.down);

        input = prepare(share, layer.down, [&](int i, float*) { return &m.inner[share.rows[i] * inner]; }, 4 * l + DOWN);
        multiply(input, layer.down, add(layer.down));
    }

    // ---- who does what ----

    // f(share) until all rows are done: in parts by members alone, if there are enough of them for everyone, else together.
    template <class F>
    void by_rows(const int32_t* rows, int n, F f) {
        const int size = m.team.size();
        if (!works_alone(n)) return f(Share{rows, n, false});
        // Parts of equal size, a multiple of a tile where that is possible, at least one for each member.
        const int parts = (n + size * ALONE_MOST - 1) / (size * ALONE_MOST) * size;
        const int part = (n + parts - 1) / parts;
        auto& counter = m.counters[stage++];
        for (int at; (at = Team::next(counter) * part) < n;) f(Share{rows + at, std::min(part, n - at), true});
    }

    bool works_alone(int n) const { return n >= ALONE_FROM * m.team.size(); }

    // Behind a product: all wait for all, unless they work alone. `next` is what will be read then.
    void meet(const Share& share, const Matrix& next) {
        if (share.alone) return;
        ask(next);
        m.team.barrier();
    }

    // f(i) for i < n, shared among the team.
    template <class F>
    void each(int n, F f, int piece = 1) {
        auto& counter = m.counters[stage++];
        for (int at; (at = Team::next(counter) * piece) < n;)
            for (int i = at; i < std::min(n, at + piece); i++) f(i);
    }

    // What the adapter of row i of a share adds to a product; null when it has none, or adds nothing there.
    const LowRank* low_rank(const Share& share, int i, int product) const {
        const Adapter* adapter = m.spans[m.span_of[share.rows[i]]].adapter;
        return adapter && adapter->products[product].width ? &adapter->products[product] : nullptr;
    }

    // f(what their adapter adds to a product, first row, number) for neighbouring rows that share one.
    template <class F>
    void by_adapter(const Share& share, int product, int row, int end, F f) const {
        while (row < end) {
            const int from = row;
            const LowRank* adapter = low_rank(share, row, product);
            while (++row < end && low_rank(share, row, product) == adapter) {}
            if (adapter) f(*adapter, from, row - from);
        }
    }

    // The input of a product with w in the arithmetic of w. make(i, row) gives row i: it writes it there, or says where it is.
    template <class F>
    Input prepare(const Share& share, const Matrix& w, F make, int product = -1) {
        const int n = share.n;
        const bool mine = share.alone || m.each_prepares(n);
        const size_t stride = padded(w.columns);
        float* rows = mine ? own.rows.data() : m.rows.data();
        uint8_t* memory = mine ? own.converted.data() : m.converted.data();
        Input input{share, {rows, stride, Rounded::in(memory, n, w.columns, w.zero()), (uint16_t*)memory}};
        float* low = mine ? own.low.data() : m.low.data();
        if (product >= 0 && m.low_width) input.low = low, input.product = product;
        auto some = [&](int from, int end) {
            for (int i = from; i < end; i++) {
                const float* row = make(i, rows + i * stride);
                input.rows.convert(w, i, row);
                if (row != rows + i * stride && (input.low || Rows::as_floats(w)))
                    std::memcpy(rows + i * stride, row, w.columns * sizeof(float));
            }
            if (input.low)
                by_adapter(share, product, from, end, [&](const LowRank& adapter, int i, int count) {
                    adapter.shrink(rows + i * stride, stride, count, low + i * m.low_width, m.low_width);
                });
        };
        if (mine) {
            some(0, n);
        } else {
            const int piece = std::max(1, n / (8 * m.team.size()));
            each((n + piece - 1) / piece, [&](int i) { some(i * piece, std::min(n, (i + 1) * piece)); });
            m.team.barrier();
        }
        return input;
    }

    // The first block of a member's part of a product: parts lie behind each other, so that each is read from end to end.
    int part_of(const Matrix& w, int member) const {
        const int size = m.team.size();
        return member == size ? w.blocks : w.blocks / 2 * member / size * 2;
    }

    // Blocks of a piece: an even number, about eight pieces for every member, small enough to share, large enough to count.
    int piece_of(const Matrix& w) const { return std::max(2, (w.blocks / (8 * m.team.size()) + 1) / 2 * 2); }

    // Ask memory for the beginning of this member's part of a product that comes after the next barrier. A few rows are
    // done with as soon as their weights are there, and between products memory would have nothing to do.
    void ask(const Matrix& w) const {
        if (m.n_tokens > ASKING) return;
        const uint8_t *at = w.block(part_of(w, worker)), *end = w.block(part_of(w, worker + 1));
        end = std::min(end, at + AHEAD);
        for (; at < end; at += 64) __builtin_prefetch(at, 0, 2);
    }

    template <class Sink>
    void multiply(const Input& x, const Matrix& w, Sink take) {
        // What adapters add waits in own.more, [row][two blocks][LANES], until the product of its block is there.
        auto expand = [&](int b) {
            if (!x.low) return;
            by_adapter(x.share, x.product, 0, x.share.n, [&](const LowRank& adapter, int i, int count) {
                adapter.expand(b, x.low + i * m.low_width, m.low_width, count, &own.more[(2 * i + b % 2) * LANES], 2 * LANES);
            });
        };
        auto sink = [&](int i, int column, Floats y) {
            if (x.low) {
                const LowRank* adapter = low_rank(x.share, i, x.product);
                const int b = column / LANES;
                if (adapter && adapter->changes(b)) y += load(&own.more[(2 * i + b % 2) * LANES]);
            }
            take(i, column, y);
        };
        auto blocks = [&](int begin, int end) {
            for (int b = begin; b < end; b += 2) {
                const int next = std::min(b + 2, end);
                for (int i = b; i < next; i++) expand(i);
                multiply_blocks(w, b, next, x.rows, x.share.n, sink);
            }
        };
        if (x.share.alone) return blocks(0, w.blocks);
        const int size = m.team.size(), piece = piece_of(w), number = products++;
        for (int i = 0; i < size; i++) {  // its own part, then what others have left of theirs
            const int owner = (worker + i) % size, end = part_of(w, owner + 1);
            for (int at; (at = part_of(w, owner) + piece * Team::next(m.own[owner].taken[number])) < end;)
                blocks(at, std::min(end, at + piece));
        }
    }

    // ---- attention ----

    template <class T>
    Pages<T> pages(int l, int kv_head) const {
        const size_t own = Format<T>::bytes(s.head_dim), page = s.kv_heads * own, layer = m.n_pages * page;
        uint8_t* keys = m.cache + 2 * l * layer + kv_head * own;
        return {keys, keys + layer, page, s.head_dim};
    }

    void attention(int l, bool last) {
        if (s.kept == KEPT_FLOAT32)
            attention<float>(l, last);
        else if (s.kept == KEPT_BFLOAT16)
            attention<uint16_t>(l, last);
        else
            attention<int8_t>(l, last);
    }

    // Behind the last layer only rows that are wanted need an answer.
    template <class T>
    void attention(int l, bool last) {
        const Layer& layer = m.layers[l];
        const bool remembered = works_alone(m.n_tokens);
        if (m.chunked && !remembered) {
            each(m.n_tokens, [&](int t) {
                if (m.spans[m.span_of[t]].n == 1) return;
                for (int h = 0; h < s.kv_heads; h++) remember<T>(l, t, h);
            });
            m.team.barrier();
        }
        using Factor = typename Format<T>::Factor;
        const int group = s.heads / s.kv_heads, hd = s.head_dim;
        Factor* q = (Factor*)own.q.data();
        const size_t out = padded(m.q_width);
        each(int(m.items.size()), [&](int i) {
            const Item& item = m.items[i];
            const Span& span = m.spans[item.span];
            Pages<T> where = pages<T>(l, item.kv_head);
            int at[TILE];
            Partial part[TILE];
            if (span.n == 1) {
                if (item.begin == span.splits() - 1 && !remembered)
                    for (int h = 0; h < item.n_heads; h++) remember<T>(l, span.row, item.kv_head + h);
                const Span* mates[TILE];
                int n = 0;
                for (int mate = 0; mate < item.n_mates; mate++) {
                    const Span& one = m.spans[m.mates[item.mates + mate]];
                    if (!last || m.is_wanted[one.row]) mates[n++] = &one;
                }
                if (!n) return;
                // For each head, of each mate, the queries of its group.
                auto each_group = [&](auto f) {
                    for (int h = 0; h < item.n_heads; h++)
                        for (int mate = 0; mate < n; mate++) f(item.kv_head + h, *mates[mate], (h * n + mate) * group);
                };
                each_group([&](int kv_head, const Span& one, int row) {
                    for (int g = 0; g < group; g++) query(layer, one.row, kv_head * group + g, q + (row + g) * hd);
                    std::fill_n(at + row, group, one.length - 1);
                });
                const int rows = item.n_heads * n * group;
                attend_split(where, item.n_heads, span.table, item.begin, q, at, rows, layer.window, own.o.data(), part);
                each_group([&](int kv_head, const Span& one, int row) {
                    const size_t place = one.partial + (size_t(kv_head) * one.splits() + item.begin) * group;
                    std::memcpy(&m.partial_o[place * hd], &own.o[row * hd], group * hd * sizeof(float));
                    std::copy_n(part + row, group, &m.partials[place]);
                });
                return;
            }
            // A tile of tokens, all heads of the group.
            int tokens = std::min(TILE / group, span.n - item.begin), rows = tokens * group;
            int start = span.length - span.n + item.begin;
            const uint8_t* wanted = &m.is_wanted[span.row + item.begin];
            if (last && std::find(wanted, wanted + tokens, 1) == wanted + tokens) return;
            for (int t = 0; t < tokens; t++)
                for (int g = 0; g < group; g++) {
                    query(layer, span.row + item.begin + t, item.kv_head * group + g, q + (t * group + g) * hd);
                    at[t * group + g] = start + t;
                }
            Partial whole[TILE];
            std::fill(own.whole.begin(), own.whole.end(), 0.0f);
            int first = layer.window ? std::max(0, start - layer.window + 1) / SPLIT : 0;
            for (int split = first; split * SPLIT < start + tokens; split++) {
                attend_split(where, 1, span.table, split, q, at, rows, layer.window, own.o.data(), part);
                for (int r = 0; r < rows; r++) join(&own.whole[r * hd], whole[r], &own.o[r * hd], part[r], hd);
            }
            for (int t = 0; t < tokens; t++)
                for (int g = 0; g < group; g++) {
                    const float* from = &own.whole[(t * group + g) * hd];
                    float* to = &m.attended[(span.row + item.begin + t) * out + (item.kv_head * group + g) * hd];
                    Floats share = all(1.0f / whole[t * group + g].total);
                    for (int d = 0; d < hd; d += LANES) store(to + d, load(from + d) * share);
                }
        });
    }

    // The attention's output of one token; splits that were computed side by side are joined here.
    const float* attended_row(int t, float* to) {
        const Span& span = m.spans[m.span_of[t]];
        if (span.n > 1) return &m.attended[t * padded(m.q_width)];
        const int group = s.heads / s.kv_heads, hd = s.head_dim, splits = span.splits();
        std::memset(to, 0, m.q_width * sizeof(float));
        for (int h = 0; h < s.heads; h++) {
            float* o = to + h * hd;
            Partial whole;
            for (int split = 0; split < splits; split++) {
                size_t part = span.partial + (size_t(h / group) * splits + split) * group + h % group;
                join(o, whole, &m.partial_o[part * hd], m.partials[part], hd);
            }
            Floats share = all(1.0f / whole.total);
            for (int d = 0; d < hd; d += LANES) store(o + d, load(o + d) * share);
        }
        return to;
    }

    // Query head h of token t: normed, turned, scaled.
    template <class Factor>
    void query(const Layer& layer, int t, int h, Factor* to) {
        const float* from = &m.qkv[t * size_t(padded(m.q_width + 2 * m.kv_width)) + h * s.head_dim];
        float* head = own.head.data();
        turned(from, layer.vectors[Q_NORM], m.positions[t], head);
        for (int d = 0; d < s.head_dim; d++) head[d] *= s.scale;
        as_factors(head, s.head_dim, to);
    }

    // Key and value of token t, kv head h, into the cache.
    void remember(int l, int t, int h) {
        if (s.kept == KEPT_FLOAT32)
            remember<float>(l, t, h);
        else if (s.kept == KEPT_BFLOAT16)
            remember<uint16_t>(l, t, h);
        else
            remember<int8_t>(l, t, h);
    }

    template <class T>
    void remember(int l, int t, int h) {
        const float* row = &m.qkv[t * size_t(padded(m.q_width + 2 * m.kv_width)) + m.q_width];
        const Span& span = m.spans[m.span_of[t]];
        const int position = span.length - span.n + t - span.row;
        float* key = own.head.data();
        turned(row + h * s.head_dim, m.layers[l].vectors[K_NORM], m.positions[t], key);
        const Pages<T> where = pages<T>(l, h);
        keep(where, span.table[position / PAGE], position, key, row + m.kv_width + h * s.head_dim);
        if (position == span.length - 1) clear_behind(where, span.table[position / PAGE], position);
    }

    // A head after its norm (if it has one) and its rotary turn (if positions are rotary): pairs (d, d + hd / 2).
    void turned(const float* from, const Array<float>& weight, int position, float* to) const {
        const int hd = s.head_dim, half = hd / 2;
        if (weight.empty())
            std::memcpy(to, from, hd * sizeof(float));
        else
            rms(from, weight.data(), hd, to);
        if (m.vectors[COS].empty()) return;
        const float* cosine = &m.vectors[COS][size_t(position) * half];
        const float* sine = &m.vectors[SIN][size_t(position) * half];
        for (int d = 0; d < half; d++) {
            float a = to[d], b = to[d + half];
            to[d] = std::fma(a, cosine[d], -(b * sine[d]));
            to[d + half] = std::fma(b, cosine[d], a * sine[d]);
        }
    }

    // ---- rows ----

    void rms(const float* x, const float* weight, int n, float* to) const {
        Floats squares = {};
        int i = 0;
        for (; i + LANES <= n; i += LANES) squares = fma(load(x + i), load(x + i), squares);
        float total = sum(squares);
        for (; i < n; i++) total = std::fma(x[i], x[i], total);
        float r = 1.0f / std::sqrt(total / float(n) + s.eps);
        for (i = 0; i < n; i++) to[i] = x[i] * r * weight[i];
    }

    const float* norm(const float* x, const Array<float>& weight, const Array<float>& bias, float* to) const {
        const int n = s.hidden;
        if (s.norm == RMS) {
            rms(x, weight.data(), n, to);
            return to;
        }
        double total = 0, squares = 0;
        for (int i = 0; i < n; i++) total += x[i];
        float mean = float(total / n);
        for (int i = 0; i < n; i++) squares += double(x[i] - mean) * double(x[i] - mean);
        float r = 1.0f / std::sqrt(float(squares / n) + s.eps);
        for (int i = 0; i < n; i++) to[i] = (x[i] - mean) * r * weight[i] + (bias.empty() ? 0.0f : bias[i]);
        return to;
    }

    float gelu(float x) const {
        if (s.mlp == GELU_ERF) return 0.5f * x * (1 + std::erf(x * 0.70710678118654752f));
        return 0.5f * x * (1 + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    }
};

}  // namespace danlu
