// One step of a decoder in one call: ids and positions of all sequences in, logits of the rows that want them out.
//
//     x = embedding[ids]                                                          [T, D]
//     per layer   qkv = norm(x) Wqkv^T         -> keys and values into the cache
//                 a   = attention(q, cache)
//                 x  += a Wout^T
//                 h   = silu(gate) * up        of norm(x) Wgate_up^T
//                 x  += h Wdown^T
//     logits = norm(x[rows]) Whead^T                                              [S, V]
//
// The team (team.h) enters once and meets at barriers between stages. A stage is cut into pieces that its members take
// from a counter. Where a stage begins with work on whole rows (norm, rounding to bytes) and there are few rows, every
// member does that work for itself: a microsecond twice is cheaper than a barrier.
//
// The interface is plain C (the end of this file). Sizes are checked there, once; nothing inside checks again.

#include <cmath>
#include <chrono>
#include <string>

#include "attention.h"
#include "lora.h"
#include "product.h"
#include "team.h"

namespace danlu {

enum Norm : int { RMS = 0, LAYER = 1 };
enum Mlp : int { SWIGLU = 0, GELU_TANH = 1, GELU_ERF = 2 };
enum Which : int { QKV = 0, OUT = 1, GATE_UP = 2, DOWN = 3, HEAD = 4, EMBEDDING = 5 };
enum Vector : int { ATTENTION_NORM = 0, ATTENTION_NORM_BIAS, MLP_NORM, MLP_NORM_BIAS, Q_NORM, K_NORM, FINAL_NORM, FINAL_NORM_BIAS, POSITIONS, COS, SIN, VECTORS };

constexpr int STAGES = 10;  // counters of one layer: four products with their preparation, and attention's two
constexpr int FEW = 2;  // rows up to which every member prepares all of them for itself; not tuned
constexpr int ASKING = 8;  // rows up to which weights are asked for ahead, and how many bytes by each member
constexpr size_t ASKED = 32 << 10;

inline int padded(int n) { return (n + 15) / 16 * 16; }

struct Shape {
    int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab, max_position;
    int32_t norm, mlp, threads, max_tokens, kept;
    float eps, scale;
};

struct Layer {
    Matrix qkv, out, gate_up, down;
    std::vector<float> vectors[VECTORS];
    int window = 0;
};

struct Span {  // tokens of one sequence in this step: rows row .. row + n, positions length - n .. length
    int row, n, length;
    const int32_t* table;
    const Adapter* adapter = nullptr;
    size_t partial = 0;  // where its splits' results go, when n == 1 and there are several
    int splits() const { return (length + SPLIT - 1) / SPLIT; }
};

// The largest logit of a row among those that one member computed, lane by lane. Greedy sampling needs no more of them.
struct Best {
    Floats most = all(NEVER);
    Ints block = {};  // first column of the block that it is in
    Ints unsound = {};  // not 0 once there was a NaN or an infinity

    void see(int column, Floats y) {
        Ints more = y > most;
        most = more ? y : most;
        block = more ? all_ints(column) : block;
        unsound |= ~(y <= all(FLT_MAX));
    }

    // What all members saw of a row: the value, NaN if one of the logits was; of equals the first column.
    static float of(const Best* const* members, int n, int row, int32_t& column) {
        float most = NEVER;
        bool sound = true;
        column = 0;
        for (int m = 0; m < n; m++) {
            const Best& best = members[m][row];
            for (int i = 0; i < LANES; i++) {
                int32_t at = best.block[i] + i;
                if (best.most[i] > most || (best.most[i] == most && at < column)) most = best.most[i], column = at;
                sound = sound && !best.unsound[i];
            }
        }
        return sound ? most : NAN;
    }
};

struct Item {  // one piece of the attention stage
    int span, kv_head, begin;  // begin: the split (n == 1) or the first token
};

struct Model {
    explicit Model(const Shape& s) : shape(s), layers(s.layers), team(s.threads) {
        q_width = s.heads * s.head_dim;
        kv_width = s.kv_heads * s.head_dim;
        int widest = std::max({padded(s.hidden), padded(q_width), padded(s.inner)});
        x.resize(size_t(s.max_tokens) * padded(s.hidden));
        qkv.resize(size_t(s.max_tokens) * padded(q_width + 2 * kv_width));
        attended.resize(size_t(s.max_tokens) * padded(q_width));
        inner.resize(size_t(s.max_tokens) * padded(s.inner));
        rows.resize(size_t(s.max_tokens) * widest);
        converted.resize(Rows::memory(s.max_tokens, widest));
        own.resize(team.size());
        for (auto& mine : own) {
            mine.rows.resize(size_t(FEW) * widest);
            mine.converted.resize(Rows::memory(FEW, widest));
            mine.head.resize(s.head_dim);
            mine.q.resize(size_t(TILE) * s.head_dim);
            mine.o.resize(size_t(TILE) * s.head_dim);
            mine.whole.resize(size_t(TILE) * s.head_dim);
            mine.gate.resize(size_t(s.max_tokens) * LANES);
        }
        counters = std::vector<std::atomic<int>>(STAGES * s.layers + 4);
    }

    Shape shape;
    std::vector<Layer> layers;
    Matrix head, embedding;  // embedding is empty when it is the head
    std::vector<float> vectors[VECTORS];
    Team team;
    int q_width, kv_width;

    std::vector<float> x, qkv, attended, inner;  // [T, ...], rows padded to 16
    std::vector<float> rows;                     // the input of a product
    std::vector<uint8_t> converted;              // the same in the arithmetic of its weights
    std::vector<float> low;                      // the same, through an adapter's A (lora.h)
    struct Own {                                 // a member's own
        std::vector<float> rows, low, more, head, q, o, whole, gate;
        std::vector<uint8_t> converted;
        std::vector<Best> best;  // of the rows asked for
    };
    std::vector<Own> own;
    std::vector<std::atomic<int>> counters;

    // Of the step under way.
    int n_tokens = 0;
    const int32_t* positions = nullptr;
    std::vector<Span> spans;
    std::vector<Item> items;
    std::vector<int> span_of;  // row -> span
    bool chunked = false;      // whether some span has several tokens
    size_t low_width = 0;      // of a row in `low`; 0 when no span has an adapter
    std::vector<float> partial_o;
    std::vector<Partial> partials;
    uint8_t* cache = nullptr;
    size_t n_pages = 0;
};

// What a product reads; and, where there are adapters, what they made of it.
struct Input {
    Rows rows;
    const float* low = nullptr;
    int product = -1;  // layer * 4 + which; -1: the head, which has no adapters
};

class Stepper {
  public:
    Stepper(Model& model, int worker) : m(model), s(model.shape), worker(worker), own(model.own[worker]) {}

    void run(const int32_t* ids, int n_out, const int32_t* out_rows, float* logits, float* hidden) {
        own.best.assign(logits ? n_out : 0, Best{});
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
        for (int l = 0; l < s.layers; l++) block(l);
        // The last norm, for the rows asked for.
        Input input = prepare(m.head, n_out, [&](int i, float* to) {
            norm(&m.x[out_rows[i] * stride], m.vectors[FINAL_NORM], m.vectors[FINAL_NORM_BIAS], to);
            if (hidden && (n_out > FEW || worker == 0)) std::memcpy(hidden + size_t(i) * D, to, D * sizeof(float));
        });
        if (!logits) return;
        const int V = s.vocab;
        multiply(m.head, input, n_out, [&](int row, int n, Floats y) {
            float* to = logits + size_t(row) * V + n;
            if (n + LANES <= V)
                store(to, y);
            else {
                std::memcpy(to, &y, (V - n) * sizeof(float));
                for (int i = V - n; i < LANES; i++) y[i] = NEVER;
            }
            own.best[row].see(n, y);
        });
    }

  private:
    Model& m;
    const Shape& s;
    const int worker;
    Model::Own& own;
    int stage = 0;

    void block(int l) {
        Layer& layer = m.layers[l];
        const int T = m.n_tokens;
        const size_t stride = padded(s.hidden), wide = padded(m.q_width + 2 * m.kv_width);
        auto add = [&](const Matrix& w) {
            return [&, bias = w.bias.data(), biased = !w.bias.empty()](int row, int n, Floats y) {
                float* to = &m.x[row * stride + n];
                if (biased) y += load(bias + n);
                store(to, load(to) + y);
            };
        };

        Input input = prepare(layer.qkv, T, [&](int t, float* to) {
            norm(&m.x[t * stride], layer.vectors[ATTENTION_NORM], layer.vectors[ATTENTION_NORM_BIAS], to);
        }, 4 * l + QKV);
        const float* bias = layer.qkv.bias.empty() ? nullptr : layer.qkv.bias.data();
        multiply(layer.qkv, input, T, [&](int row, int n, Floats y) {
            if (bias) y += load(bias + n);
            store(&m.qkv[row * wide + n], y);
        });
        ask(layer.out);
        m.team.barrier();

        if (s.kept == KEPT_FLOAT32)
            attention<float>(l, layer);
        else if (s.kept == KEPT_BFLOAT16)
            attention<uint16_t>(l, layer);
        else
            attention<int8_t>(l, layer);
        m.team.barrier();

        input = prepare(layer.out, T, [&](int t, float* to) { attended_row(t, to); }, 4 * l + OUT);
        multiply(layer.out, input, T, add(layer.out));
        ask(layer.gate_up);
        m.team.barrier();

        const size_t inner = padded(s.inner);
        input = prepare(layer.gate_up, T, [&](int t, float* to) {
            norm(&m.x[t * stride], layer.vectors[MLP_NORM], layer.vectors[MLP_NORM_BIAS], to);
        }, 4 * l + GATE_UP);
        if (s.mlp == SWIGLU) {  // blocks of gate and up take turns, and a piece always holds both
            bias = layer.gate_up.bias.empty() ? nullptr : layer.gate_up.bias.data();
            multiply(layer.gate_up, input, T, [&](int row, int n, Floats y) {
                if (bias) y += load(bias + n);
                float* gate = &own.gate[size_t(row) * LANES];
                if (n / LANES % 2 == 0)
                    store(gate, y);
                else
                    store(&m.inner[row * inner + n / LANES / 2 * LANES], silu(load(gate)) * y);
            });
        } else {
            bias = layer.gate_up.bias.empty() ? nullptr : layer.gate_up.bias.data();
            multiply(layer.gate_up, input, T, [&](int row, int n, Floats y) {
                if (bias) y += load(bias + n);
                for (int i = 0; i < LANES; i++) y[i] = gelu(y[i]);
                store(&m.inner[row * inner + n], y);
            });
        }
        ask(layer.down);
        m.team.barrier();

        input = prepare(layer.down, T, [&](int t, float* to) {
            std::memcpy(to, &m.inner[t * inner], s.inner * sizeof(float));
        }, 4 * l + DOWN);
        multiply(layer.down, input, T, add(layer.down));
        ask(l + 1 < s.layers ? m.layers[l + 1].qkv : m.head);
        m.team.barrier();
    }

    // f(i) for i < n, shared among the team.
    template <class F>
    void each(int n, F f, int piece = 1) {
        auto& counter = m.counters[stage++];
        for (int at; (at = Team::next(counter) * piece) < n;)
            for (int i = at; i < std::min(n, at + piece); i++) f(i);
    }

    // What the adapter of row t adds to a product; null when it has none, or adds nothing there.
    const LowRank* low_rank(int t, int product) const {
        const Adapter* adapter = m.spans[m.span_of[t]].adapter;
        return adapter && adapter->products[product].width ? &adapter->products[product] : nullptr;
    }

    // f(what their adapter adds to a product, first row, number) for neighbouring rows that share one.
    template <class F>
    void by_adapter(int product, int row, int end, F f) const {
        while (row < end) {
            const int from = row;
            const LowRank* adapter = low_rank(row, product);
            while (++row < end && low_rank(row, product) == adapter) {}
            if (adapter) f(*adapter, from, row - from);
        }
    }

    // make(t, row) for every row of the input of a product with w, then in the arithmetic of w.
    template <class F>
    Input prepare(const Matrix& w, int n, F make, int product = -1) {
        const bool few = n <= FEW;
        const size_t stride = padded(w.columns);
        float* rows = few ? own.rows.data() : m.rows.data();
        uint8_t* memory = few ? own.converted.data() : m.converted.data();
        Input input{{rows, stride, Rounded::in(memory, n, w.columns, w.zero()), (uint16_t*)memory}};
        float* low = few ? own.low.data() : m.low.data();
        if (product >= 0 && m.low_width) input.low = low, input.product = product;
        auto some = [&](int from, int end) {
            for (int t = from; t < end; t++) {
                float* row = rows + t * stride;
                make(t, row);
                input.rows.convert(w, t);
            }
            if (input.low)
                by_adapter(product, from, end, [&](const LowRank& adapter, int t, int count) {
                    adapter.shrink(rows + t * stride, stride, count, low + t * m.low_width, m.low_width);
                });
        };
        if (few) {
            stage++;
            some(0, n);
        } else {
            const int piece = std::max(1, n / (8 * m.team.size()));
            each((n + piece - 1) / piece, [&](int i) { some(i * piece, std::min(n, (i + 1) * piece)); });
            m.team.barrier();
        }
        return input;
    }

    // Blocks of a piece: an even number, about eight pieces for every member, small enough to share, large enough to count.
    int piece_of(const Matrix& w) const { return std::max(2, (w.blocks / (8 * m.team.size()) + 1) / 2 * 2); }

    // Ask memory for the beginning of this member's first piece of a product that comes after the next barrier. A few
    // rows are done with as soon as their weights are there, and between products memory would have nothing to do.
    void ask(const Matrix& w) const {
        if (m.n_tokens > ASKING) return;
        const size_t begin = size_t(worker) * piece_of(w) * w.block_bytes;
        const size_t end = std::min(begin + ASKED, size_t(w.blocks) * w.block_bytes);
        for (size_t at = begin; at < end; at += 64) __builtin_prefetch(w.data.get() + at, 0, 2);
    }

    template <class Sink>
    void multiply(const Matrix& w, const Input& x, int n, Sink take) {
        // What adapters add waits in own.more, [row][two blocks][LANES], until the product of its block is there.
        auto expand = [&](int b) {
            if (!x.low) return;
            by_adapter(x.product, 0, n, [&](const LowRank& adapter, int row, int count) {
                adapter.expand(b, x.low + row * m.low_width, m.low_width, count, &own.more[(2 * row + b % 2) * LANES], 2 * LANES);
            });
        };
        auto sink = [&](int row, int column, Floats y) {
            if (x.low) {
                const LowRank* adapter = low_rank(row, x.product);
                const int b = column / LANES;
                if (adapter && adapter->changes(b)) y += load(&own.more[(2 * row + b % 2) * LANES]);
            }
            take(row, column, y);
        };
        const int piece = piece_of(w);
        auto& counter = m.counters[stage++];
        // The first piece is known beforehand (`ask`), the others go to whoever is free.
        for (int at = worker * piece; at < w.blocks; at = (m.team.size() + Team::next(counter)) * piece) {
            int end = std::min(w.blocks, at + piece);
            for (int b = at; b < end; b += 2) {
                const int next = std::min(b + 2, end);
                for (int i = b; i < next; i++) expand(i);
                multiply_blocks(w, b, next, x.rows, n, sink);
            }
        }
    }

    // ---- attention ----

    template <class T>
    Pages<T> pages(int l, int kv_head) const {
        const size_t own = Format<T>::bytes(s.head_dim), page = s.kv_heads * own, layer = m.n_pages * page;
        uint8_t* keys = m.cache + 2 * l * layer + kv_head * own;
        return {keys, keys + layer, page, s.head_dim};
    }

    template <class T>
    void attention(int l, Layer& layer) {
        if (m.chunked) {
            each(m.n_tokens, [&](int t) {
                if (m.spans[m.span_of[t]].n == 1) return;
                for (int h = 0; h < s.kv_heads; h++) remember<T>(l, layer, t, h);
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
            if (span.n == 1) {
                if (item.begin == span.splits() - 1) remember<T>(l, layer, span.row, item.kv_head);
                for (int g = 0; g < group; g++) {
                    query(layer, span.row, item.kv_head * group + g, q + g * hd);
                    at[g] = span.length - 1;
                }
                size_t part = span.partial + (size_t(item.kv_head) * span.splits() + item.begin) * group;
                attend_split(where, span.table, item.begin, q, at, group, layer.window, &m.partial_o[part * hd], &m.partials[part]);
                return;
            }
            // A tile of tokens, all heads of the group.
            int tokens = std::min(TILE / group, span.n - item.begin), rows = tokens * group;
            int start = span.length - span.n + item.begin;
            for (int t = 0; t < tokens; t++)
                for (int g = 0; g < group; g++) {
                    query(layer, span.row + item.begin + t, item.kv_head * group + g, q + (t * group + g) * hd);
                    at[t * group + g] = start + t;
                }
            Partial whole[TILE], part[TILE];
            std::fill(own.whole.begin(), own.whole.end(), 0.0f);
            int first = layer.window ? std::max(0, start - layer.window + 1) / SPLIT : 0;
            for (int split = first; split * SPLIT < start + tokens; split++) {
                attend_split(where, span.table, split, q, at, rows, layer.window, own.o.data(), part);
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
    void attended_row(int t, float* to) {
        const Span& span = m.spans[m.span_of[t]];
        if (span.n > 1) {
            std::memcpy(to, &m.attended[t * padded(m.q_width)], m.q_width * sizeof(float));
            return;
        }
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
    template <class T>
    void remember(int l, const Layer& layer, int t, int h) {
        const float* row = &m.qkv[t * size_t(padded(m.q_width + 2 * m.kv_width)) + m.q_width];
        const Span& span = m.spans[m.span_of[t]];
        const int position = span.length - span.n + t - span.row;
        float* key = own.head.data();
        turned(row + h * s.head_dim, layer.vectors[K_NORM], m.positions[t], key);
        keep(pages<T>(l, h), span.table[position / PAGE], position, key, row + m.kv_width + h * s.head_dim);
    }

    // A head after its norm (if it has one) and its rotary turn (if positions are rotary): pairs (d, d + hd / 2).
    void turned(const float* from, const std::vector<float>& weight, int position, float* to) const {
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

    void norm(const float* x, const std::vector<float>& weight, const std::vector<float>& bias, float* to) const {
        const int n = s.hidden;
        if (s.norm == RMS) return rms(x, weight.data(), n, to);
        double total = 0, squares = 0;
        for (int i = 0; i < n; i++) total += x[i];
        float mean = float(total / n);
        for (int i = 0; i < n; i++) squares += double(x[i] - mean) * double(x[i] - mean);
        float r = 1.0f / std::sqrt(float(squares / n) + s.eps);
        for (int i = 0; i < n; i++) to[i] = (x[i] - mean) * r * weight[i] + (bias.empty() ? 0.0f : bias[i]);
    }

    float gelu(float x) const {
        if (s.mlp == GELU_ERF) return 0.5f * x * (1 + std::erf(x * 0.70710678118654752f));
        return 0.5f * x * (1 + std::tanh(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    }
};

}  // namespace danlu

// ---- the interface in C -------------------------------------------------------------------------------------------------

using namespace danlu;

namespace {

thread_local std::string last_error;

int fail(const char* why) {
    last_error = why;
    return -1;
}

bool within(int value, int low, int high) { return value >= low && value <= high; }

Matrix* find(Model& model, int layer, int which) {
    if (which == HEAD) return &model.head;
    if (which == EMBEDDING) return &model.embedding;
    if (!within(layer, 0, model.shape.layers - 1)) return nullptr;
    Layer& l = model.layers[layer];
    return which == QKV ? &l.qkv : which == OUT ? &l.out : which == GATE_UP ? &l.gate_up : which == DOWN ? &l.down : nullptr;
}

void expected(const Shape& s, int which, int& rows, int& columns) {
    int q = s.heads * s.head_dim, kv = s.kv_heads * s.head_dim;
    switch (which) {
        case QKV: rows = q + 2 * kv, columns = s.hidden; break;
        case OUT: rows = s.hidden, columns = q; break;
        case GATE_UP: rows = s.mlp == SWIGLU ? 2 * s.inner : s.inner, columns = s.hidden; break;
        case DOWN: rows = s.hidden, columns = s.inner; break;
        default: rows = s.vocab, columns = s.hidden;
    }
}

}  // namespace

extern "C" {

const char* danlu_error() { return last_error.c_str(); }

// Instructions and lanes this library was compiled for.
const char* danlu_instructions() {
#if defined(__AVX512VNNI__) && DANLU_LANES == 16
    return "avx512-vnni";
#elif DANLU_LANES == 16
    return "16 lanes, plain";
#elif defined(__AVX2__)
    return "avx2";
#elif defined(__aarch64__)
    return "neon";
#else
    return "plain";
#endif
}

// Null and danlu_error() for a shape that this library cannot compute.
void* danlu_new(const Shape* shape) {
    const Shape& s = *shape;
    bool sane = within(s.layers, 1, 4096) && within(s.hidden, 1, 1 << 20) && within(s.heads, 1, 4096) &&
                within(s.kv_heads, 1, s.heads) && s.heads % s.kv_heads == 0 && s.heads / s.kv_heads <= TILE &&
                within(s.head_dim, 16, 1024) && s.head_dim % 16 == 0 && within(s.inner, 1, 1 << 22) &&
                within(s.vocab, 1, 1 << 24) && within(s.max_position, 1, 1 << 24) && within(s.norm, 0, 1) &&
                within(s.mlp, 0, 2) && within(s.kept, 0, 2) && within(s.threads, 1, 1024) && within(s.max_tokens, 1, 1 << 20);
    if (!sane) {
        fail("a shape that the kernels do not compute");
        return nullptr;
    }
    try {
        return new Model(s);
    } catch (const std::exception& e) {
        fail(e.what());
        return nullptr;
    }
}

void danlu_free(void* model) { delete static_cast<Model*>(model); }

// A weight matrix, row-major: float32 for kinds float32 and bfloat16, signed bytes for int8 (scale [rows]) and int4
// (scale [rows, columns / 32]). Gate rows come before up rows. bias [rows] may be null.
int danlu_matrix(void* handle, int layer, int which, int kind, int rows, int columns, const void* data, const float* scale, const float* bias) {
    Model& model = *static_cast<Model*>(handle);
    Matrix* w = find(model, layer, which);
    int n, k;
    expected(model.shape, which, n, k);
    if (!w || !within(kind, 0, 3)) return fail("no such matrix");
    if (rows != n || columns != k) return fail("a matrix of another shape");
    bool bytes = kind == INT8 || kind == INT4;
    if (bytes && (columns % GROUP || !scale)) return fail("columns must be a multiple of 32, and scales are needed");
    const bool pairs = which == GATE_UP && model.shape.mlp == SWIGLU;
    const int part = pairs ? rows / 2 : rows, part_blocks = (part + LANES - 1) / LANES;
    if (!w->shape(Kind(kind), pairs ? 2 * part_blocks * LANES : rows, columns)) return fail("out of memory");
    w->bias.assign(bias ? size_t(w->blocks) * LANES : 0, 0.0f);
    const int per_row = kind == INT4 ? columns / GROUP : 1;
    model.team.run([&](int worker) {
        for (int half = 0; half < (pairs ? 2 : 1); half++)
            for (int b = worker; b < part_blocks; b += model.team.size()) {
                int from = half * part + b * LANES, count = std::min(LANES, part - b * LANES);
                int to = (pairs ? 2 * b + half : b) * LANES;
                size_t offset = size_t(from) * columns;
                if (kind == INT8)
                    w->pack_int8((const int8_t*)data + offset, scale + from, to, count);
                else if (kind == INT4)
                    w->pack_int4((const int8_t*)data + offset, scale + size_t(from) * per_row, to, count);
                else
                    w->pack_floats((const float*)data + offset, to, count);
                if (bias) std::memcpy(&w->bias[to], bias + from, count * sizeof(float));
            }
    });
    return 0;
}

int danlu_vector(void* handle, int layer, int which, int64_t n, const float* data) {
    Model& model = *static_cast<Model*>(handle);
    const Shape& s = model.shape;
    if (!within(which, 0, VECTORS - 1)) return fail("no such vector");
    bool global = which >= FINAL_NORM;
    if (!global && !within(layer, 0, s.layers - 1)) return fail("no such layer");
    int64_t wanted = which == Q_NORM || which == K_NORM ? s.head_dim
                     : which == COS || which == SIN    ? int64_t(s.max_position) * (s.head_dim / 2)
                     : which == POSITIONS              ? int64_t(s.max_position) * s.hidden
                                                       : s.hidden;
    if (n != wanted) return fail("a vector of another length");
    (global ? model.vectors : model.layers[layer].vectors)[which].assign(data, data + n);
    return 0;
}

// An adapter for a model: empty, then filled by danlu_adapter_part. It must not outlive the model. Null when there is no memory.
void* danlu_adapter_new(void* handle) {
    try {
        return new Adapter{handle, std::vector<LowRank>(4 * static_cast<Model*>(handle)->layers.size())};
    } catch (const std::exception& e) {
        fail(e.what());
        return nullptr;
    }
}

void danlu_adapter_free(void* adapter) { delete static_cast<Adapter*>(adapter); }

// y[first .. first + rows) += b (a x) of one matrix: a [rank, columns], b [rows, rank] with the scale in it. The part
// must begin and end with blocks of the matrix, lie within one half of gate_up, and overlap no other.
int danlu_adapter_part(void* adapter, int layer, int which, int first, int rows, int rank, int columns, const float* a, const float* b) {
    Adapter& target = *static_cast<Adapter*>(adapter);
    const Shape& s = static_cast<const Model*>(target.model)->shape;
    int n, k;
    if (!within(layer, 0, s.layers - 1) || !within(which, QKV, DOWN)) return fail("no such matrix");
    expected(s, which, n, k);
    if (!within(first, 0, n - 1) || !within(rows, 1, n - first) || columns != k || !within(rank, 1, 1 << 16)) return fail("a part of another shape");
    const int halves = which == GATE_UP && s.mlp == SWIGLU ? 2 : 1, height = n / halves;
    const int half = first / height, begin = first % height, end = begin + rows;
    if (end > height || begin % LANES || (end % LANES && end != height)) return fail("a part that cuts through a block");
    try {
        LowRank& product = target.products[4 * layer + which];
        product.blocks.resize(size_t(halves) * ((height + LANES - 1) / LANES));
        const int count = (rows + LANES - 1) / LANES;
        auto block = [&](int i) -> LowRank::Block& { return product.blocks[halves * (begin / LANES + i) + half]; };
        for (int i = 0; i < count; i++)
            if (block(i).part >= 0) return fail("two parts for the same rows");
        Part part;
        if (!part.a.shape(FLOAT32, rank, columns) || !part.b.shape(FLOAT32, rows, rank)) return fail("out of memory");
        part.a.pack_floats(a, 0, rank);
        part.b.pack_floats(b, 0, rows);
        part.begin = product.width;
        const int width = part.a.blocks * LANES, number = int(product.parts.size());
        product.parts.push_back(std::move(part));
        for (int i = 0; i < count; i++) block(i) = {number, i};
        product.width += width;
        target.width = std::max(target.width, product.width);
    } catch (const std::exception& e) {
        return fail(e.what());
    }
    return 0;
}

// How many tokens back, itself included, a layer sees; 0 for all.
int danlu_window(void* handle, int layer, int window) {
    Model& model = *static_cast<Model*>(handle);
    if (!within(layer, 0, model.shape.layers - 1) || window < 0) return fail("no such layer or window");
    model.layers[layer].window = window;
    return 0;
}

// Bytes of the keys, or of the values, of one page of one layer.
int64_t danlu_page_bytes(int kept, int kv_heads, int head_dim) { return int64_t(page_bytes(Kept(kept), kv_heads, head_dim)); }

// One step. ids, positions [n_tokens]; spans [n_spans, 3]: first row, tokens, length of the sequence after the step;
// tables [n_tables]: the page numbers of each span one behind the other, ceil(length / 16) each; cache [layers, 2, n_pages,
// danlu_page_bytes]; out_rows [n_out]; logits [n_out, vocab] or null, and with them the largest of each row, best [n_out]
// (NaN where one is no finite number), and its column, best_ids [n_out]; hidden [n_out, hidden] or null; adapters
// [n_spans], null where a sequence has none, or null for none at all.
int danlu_step(void* handle, int n_tokens, const int32_t* ids, const int32_t* positions, int n_spans, const int32_t* spans,
               int n_tables, const int32_t* tables, void* cache, int64_t n_pages, int n_out, const int32_t* out_rows, float* logits,
               float* best, int32_t* best_ids, float* hidden, const void* const* adapters) {
    Model& model = *static_cast<Model*>(handle);
    const Shape& s = model.shape;
    if (!within(n_tokens, 1, s.max_tokens) || !within(n_spans, 1, n_tokens) || !within(n_out, 0, n_tokens)) return fail("a step of a wrong size");
    if (!model.head.rows) return fail("the model has no weights");
    for (int t = 0; t < n_tokens; t++)
        if (!within(ids[t], 0, s.vocab - 1) || !within(positions[t], 0, s.max_position - 1)) return fail("a token id or position out of range");
    for (int i = 0; i < n_out; i++)
        if (!within(out_rows[i], 0, n_tokens - 1)) return fail("an output row out of range");
    try {
        model.spans.clear(), model.items.clear();
        model.span_of.assign(n_tokens, -1);
        model.chunked = false;
        model.low_width = 0;
        const int group = s.heads / s.kv_heads;
        size_t partials = 0;
        int row = 0;
        for (int i = 0; i < n_spans; i++) {
            Span span{spans[3 * i], spans[3 * i + 1], spans[3 * i + 2], tables};
            if (span.row != row || span.n < 1 || span.n > n_tokens - row || span.length < span.n || span.length > s.max_position) return fail("spans do not fit the rows");
            int table_size = (span.length + PAGE - 1) / PAGE;
            if (table_size > n_tables) return fail("a block table is too short");
            n_tables -= table_size;
            for (int page = 0; page < table_size; page++)
                if (tables[page] < 0 || tables[page] >= n_pages) return fail("a page number out of range");
            tables += table_size;
            span.adapter = adapters ? static_cast<const Adapter*>(adapters[i]) : nullptr;
            if (span.adapter) {
                if (span.adapter->model != handle) return fail("an adapter of another model");
                model.low_width = std::max(model.low_width, size_t(span.adapter->width));
            }
            std::fill_n(model.span_of.begin() + row, span.n, i);
            row += span.n;
            if (span.n == 1) {
                span.partial = partials;
                partials += size_t(s.heads) * span.splits();
            } else
                model.chunked = true;
            model.spans.push_back(span);
        }
        if (row != n_tokens) return fail("spans do not fit the rows");
        for (int i = 0; i < n_spans; i++) {
            const Span& span = model.spans[i];
            // The end of a chunk sees most and costs most: it goes first.
            int count = span.n == 1 ? span.splits() : (span.n + TILE / group - 1) / (TILE / group);
            for (int j = count - 1; j >= 0; j--)
                for (int h = 0; h < s.kv_heads; h++) model.items.push_back({i, h, span.n == 1 ? j : j * (TILE / group)});
        }
        model.partials.resize(partials);
        model.partial_o.resize(partials * s.head_dim);
        model.low.resize(n_tokens > FEW ? n_tokens * model.low_width : 0);
        for (auto& own : model.own) {
            own.low.resize(FEW * model.low_width);
            own.more.resize(model.low_width ? size_t(n_tokens) * 2 * LANES : 0);
        }
        model.n_tokens = n_tokens, model.positions = positions;
        model.cache = static_cast<uint8_t*>(cache), model.n_pages = size_t(n_pages);
    } catch (const std::exception& e) {
        return fail(e.what());
    }
    for (auto& counter : model.counters) counter.store(0, std::memory_order_relaxed);
    model.team.run([&](int worker) { Stepper(model, worker).run(ids, n_out, out_rows, logits, hidden); });
    std::vector<const Best*> members;
    for (auto& own : model.own) members.push_back(own.best.data());
    for (int i = 0; logits && i < n_out; i++) best[i] = Best::of(members.data(), int(members.size()), i, best_ids[i]);
    return 0;
}

// Bytes per second of reading memory, with the whole team, from a buffer larger than any cache: the limit of decoding.
double danlu_read_rate(void* handle, const uint8_t* data, int64_t size, uint64_t* check) {
    Model& model = *static_cast<Model*>(handle);
    std::vector<uint64_t> sums(size_t(model.team.size()) * 8);
    std::atomic<int> counter{0};
    const int64_t piece = 1 << 20;
    auto begin = std::chrono::steady_clock::now();
    model.team.run([&](int worker) {
        Ints total[4] = {};
        for (int64_t at; (at = int64_t(Team::next(counter)) * piece) + piece <= size;)
            for (int64_t i = at; i < at + piece; i += int64_t(sizeof total))
                for (int j = 0; j < 4; j++) {
                    Ints v;
                    std::memcpy(&v, data + i + j * sizeof v, sizeof v);
                    total[j] += v;
                }
        for (auto& v : total) sums[size_t(worker) * 8] += uint64_t(v[0]) + uint64_t(v[LANES - 1]);
    });
    double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    *check = 0;
    for (auto v : sums) *check += v;
    return double(size / piece * piece) / seconds;
}

}  // extern "C"
