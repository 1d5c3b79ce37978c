// A whole step of a small decoder through the C interface, against the same formulas over dense matrices in float64; and
// the promise that a token's logits are the same bits whatever else was in the step, and for any number of threads.

#pragma once

#include "check.h"
#include "stepper.h"

namespace {

using namespace danlu;

constexpr int LAYERS = 2, HIDDEN_SIZE = 64, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 16, INNER = 96, VOCAB = 101, POSITIONS_MOST = 320, WINDOW = 24;
constexpr int TOKENS = 290;  // more than one split, and enough for members to work alone
constexpr int N_PAGES = 64;

struct Dense {
    int rows, columns;
    std::vector<float> w;  // as they go in: for bytes, what they mean
    std::vector<int8_t> q;
    std::vector<float> scale, offset;
};

Dense dense(int rows, int columns, Kind kind, bool offsets) {
    Dense m{rows, columns, draws(size_t(rows) * columns, 1.7f / std::sqrt(float(columns))), {}, {}, {}};
    const int width = kind == INT4 ? GROUP : columns, most = kind == INT4 ? 7 : 127;
    for (size_t at = 0; (kind == INT8 || kind == INT4) && at < m.w.size(); at += width) {
        float size = 0;
        for (int k = 0; k < width; k++) size = std::max(size, std::fabs(m.w[at + k]));
        auto half = [&](float x) { return kind == INT4 ? half_to_float(float_to_half(x)) : x; };
        m.scale.push_back(half(size / float(most))), m.offset.push_back(offsets ? half(draw() * 0.02f) : 0.0f);
        for (int k = 0; k < width; k++) {
            m.q.push_back(int8_t(std::nearbyint(m.w[at + k] / m.scale.back() * 0.99f)));
            m.w[at + k] = m.scale.back() * float(m.q.back()) + m.offset.back();
        }
    }
    if (kind == BFLOAT16)
        for (auto& x : m.w) x = bf16_to_float(float_to_bf16(x));
    return m;
}

struct Weights {
    Kind kind;
    bool offsets;
    Dense matrices[LAYERS][4], head;
    std::vector<float> norms[LAYERS][2], q_norm, k_norm, final_norm, cosines, sines;

    Weights(Kind kind, bool offsets) : kind(kind), offsets(offsets) {
        const int q = HEADS * HEAD_DIM, kv = KV_HEADS * HEAD_DIM;
        auto norm = [](int n) {
            auto w = draws(n, 0.3f);
            for (auto& x : w) x += 1;
            return w;
        };
        for (int l = 0; l < LAYERS; l++) {
            matrices[l][QKV] = dense(q + 2 * kv, HIDDEN_SIZE, kind, offsets), matrices[l][OUT] = dense(HIDDEN_SIZE, q, kind, offsets);
            matrices[l][GATE_UP] = dense(2 * INNER, HIDDEN_SIZE, kind, offsets), matrices[l][DOWN] = dense(HIDDEN_SIZE, INNER, kind, offsets);
            norms[l][0] = norm(HIDDEN_SIZE), norms[l][1] = norm(HIDDEN_SIZE);
        }
        head = dense(VOCAB, HIDDEN_SIZE, kind, offsets);
        q_norm = norm(HEAD_DIM), k_norm = norm(HEAD_DIM), final_norm = norm(HIDDEN_SIZE);
        for (int p = 0; p < POSITIONS_MOST; p++)
            for (int d = 0; d < HEAD_DIM / 2; d++) {
                const double angle = p * std::pow(100.0, -2.0 * d / HEAD_DIM);
                cosines.push_back(float(std::cos(angle))), sines.push_back(float(std::sin(angle)));
            }
    }
};

using Row = std::vector<double>;

Row times(const Dense& m, const Row& x) {
    Row y(m.rows);
    for (int n = 0; n < m.rows; n++)
        for (int k = 0; k < m.columns; k++) y[n] += double(m.w[size_t(n) * m.columns + k]) * x[k];
    return y;
}

Row normed(const double* x, const std::vector<float>& w) {
    double squares = 0;
    Row y(w.size());
    for (size_t i = 0; i < w.size(); i++) squares += x[i] * x[i];
    for (size_t i = 0; i < w.size(); i++) y[i] = x[i] / std::sqrt(squares / double(w.size()) + 1e-5) * w[i];
    return y;
}

// Logits [tokens, VOCAB] of one sequence, token after token.
std::vector<double> plain_logits(const Weights& w, const std::vector<int32_t>& ids) {
    std::vector<double> logits;
    std::vector<Row> keys[LAYERS][KV_HEADS], values[LAYERS][KV_HEADS];
    auto head_of = [&](const Row& qkv, int head, const std::vector<float>& weight, int p) {
        Row x = normed(&qkv[head * HEAD_DIM], weight), y = x;
        for (int d = 0; d < HEAD_DIM / 2; d++) {
            const double c = w.cosines[p * HEAD_DIM / 2 + d], s = w.sines[p * HEAD_DIM / 2 + d], a = x[d], b = x[d + HEAD_DIM / 2];
            y[d] = a * c - b * s, y[d + HEAD_DIM / 2] = b * c + a * s;
        }
        return y;
    };
    for (int p = 0; p < int(ids.size()); p++) {
        const float* embedded = &w.head.w[size_t(ids[p]) * HIDDEN_SIZE];
        Row x(embedded, embedded + HIDDEN_SIZE);
        for (int l = 0; l < LAYERS; l++) {
            const Row qkv = times(w.matrices[l][QKV], normed(x.data(), w.norms[l][0]));
            Row attended;
            for (int h = 0; h < KV_HEADS; h++) {
                keys[l][h].push_back(head_of(qkv, HEADS + h, w.k_norm, p));
                const double* value = &qkv[(HEADS + KV_HEADS + h) * HEAD_DIM];
                values[l][h].emplace_back(value, value + HEAD_DIM);
            }
            for (int h = 0; h < HEADS; h++) {
                const Row q = head_of(qkv, h, w.q_norm, p);
                const int kv = h / (HEADS / KV_HEADS), first = l == 1 ? std::max(0, p - WINDOW + 1) : 0;
                Row o(HEAD_DIM);
                double total = 0;
                for (int i = first; i <= p; i++) {
                    double score = 0;
                    for (int d = 0; d < HEAD_DIM; d++) score += q[d] * keys[l][kv][i][d];
                    const double e = std::exp(score * 0.25);
                    total += e;
                    for (int d = 0; d < HEAD_DIM; d++) o[d] += e * values[l][kv][i][d];
                }
                for (double v : o) attended.push_back(v / total);
            }
            const Row out = times(w.matrices[l][OUT], attended);
            for (int d = 0; d < HIDDEN_SIZE; d++) x[d] += out[d];
            const Row gate_up = times(w.matrices[l][GATE_UP], normed(x.data(), w.norms[l][1]));
            Row inner(INNER);
            for (int i = 0; i < INNER; i++) inner[i] = gate_up[i] / (1 + std::exp(-gate_up[i])) * gate_up[INNER + i];
            const Row down = times(w.matrices[l][DOWN], inner);
            for (int d = 0; d < HIDDEN_SIZE; d++) x[d] += down[d];
        }
        const Row last = times(w.head, normed(x.data(), w.final_norm));
        logits.insert(logits.end(), last.begin(), last.end());
    }
    return logits;
}

struct Sequence {
    int first, n;            // its tokens of this step
    std::vector<int> pages;  // of all its tokens
};

class Machine {
  public:
    Machine(const Weights& w, Kept kept, int threads) : page(danlu_page_bytes(kept, KV_HEADS, HEAD_DIM)), cache(LAYERS * 2 * N_PAGES * page, 0xff) {
        const Shape shape{LAYERS, HIDDEN_SIZE, HEADS, KV_HEADS, HEAD_DIM, INNER, VOCAB, POSITIONS_MOST, RMS, SWIGLU, threads, TOKENS, kept, 1e-5f, 0.25f};
        handle = danlu_new(&shape);
        auto give = [&](int layer, int which, const Dense& m) {
            const void* data = m.q.empty() ? (const void*)m.w.data() : m.q.data();
            require(danlu_matrix(handle, layer, which, w.kind, m.rows, m.columns, data, m.scale.empty() ? nullptr : m.scale.data(),
                                 w.offsets ? m.offset.data() : nullptr, nullptr));
        };
        auto vector = [&](int layer, int which, const std::vector<float>& v) { require(danlu_vector(handle, layer, which, int64_t(v.size()), v.data())); };
        for (int l = 0; l < LAYERS; l++) {
            for (int which = QKV; which <= DOWN; which++) give(l, which, w.matrices[l][which]);
            vector(l, ATTENTION_NORM, w.norms[l][0]), vector(l, MLP_NORM, w.norms[l][1]), vector(l, Q_NORM, w.q_norm), vector(l, K_NORM, w.k_norm);
        }
        give(0, HEAD, w.head);
        vector(0, FINAL_NORM, w.final_norm), vector(0, COS, w.cosines), vector(0, SIN, w.sines);
        require(danlu_window(handle, 1, WINDOW));
    }
    ~Machine() { danlu_free(handle); }

    // Logits of every row of the step.
    std::vector<float> step(const std::vector<int32_t>& ids, const std::vector<Sequence>& sequences, const void* adapter = nullptr) {
        std::vector<int32_t> tokens, positions, spans, tables, rows;
        std::vector<const void*> adapters(sequences.size(), adapter);
        for (const Sequence& s : sequences) {
            spans.insert(spans.end(), {int32_t(tokens.size()), s.n, s.first + s.n});
            for (int i = s.first; i < s.first + s.n; i++) tokens.push_back(ids[i]), positions.push_back(i);
            tables.insert(tables.end(), s.pages.begin(), s.pages.begin() + (s.first + s.n + PAGE - 1) / PAGE);
        }
        const int n = int(tokens.size());
        for (int i = 0; i < n; i++) rows.push_back(i);
        std::vector<float> logits(size_t(n) * VOCAB), best(n), hidden(size_t(n) * HIDDEN_SIZE);
        std::vector<int32_t> best_ids(n);
        require(danlu_step(handle, n, tokens.data(), positions.data(), int(sequences.size()), spans.data(), int(tables.size()), tables.data(),
                           cache.data(), N_PAGES, n, rows.data(), logits.data(), best.data(), best_ids.data(), hidden.data(), adapters.data()));
        for (int i = 0; i < n; i++) {
            const float* row = &logits[size_t(i) * VOCAB];
            if (std::isnan(*row)) {
                check(std::isnan(best[i]), "the best of logits that are no numbers");
                continue;
            }
            const int at = int(std::max_element(row, row + VOCAB) - row);
            check(best_ids[i] == at && best[i] == row[at], "the best token");
        }
        return logits;
    }

    void copy_page(int from, int to) {
        for (int i = 0; i < LAYERS * 2; i++) std::memcpy(&cache[(size_t(i) * N_PAGES + to) * page], &cache[(size_t(i) * N_PAGES + from) * page], page);
    }

    static void require(int code) { check(code == 0, code ? danlu_error() : ""); }

    void* handle;
    size_t page;
    std::vector<uint8_t> cache;
};

std::vector<int> pages_from(int first, int way) {
    std::vector<int> pages;
    for (int i = 0; i < (TOKENS + PAGE - 1) / PAGE; i++) pages.push_back((first + way * i + N_PAGES) % N_PAGES);
    return pages;
}

void steps(Kind kind, bool offsets, Kept kept, const Weights& w, const std::vector<int32_t>& ids, const std::vector<double>& expected) {
    const std::string name = "step, weights of kind " + std::to_string(kind) + (offsets ? " with offsets" : "") + ", cache of kind " + std::to_string(kept);
    Machine one(w, kept, 1), two(w, kept, 2);
    const std::vector<float> whole = one.step(ids, {{0, TOKENS, pages_from(20, -1)}});
    const bool exact = (kind == FLOAT32 || (kind == BFLOAT16 && !BFLOAT16_PAIRS)) && (kept == KEPT_FLOAT32);
    check_near(whole, expected, exact ? 1e-5 : kind == INT8 || kind == INT4 || kept == KEPT_INT8 ? 5e-2 : 2e-2, name);

    auto same = [&](const std::vector<float>& found, int first, const char* way) {
        check(same_bits(found.data(), &whole[size_t(first) * VOCAB], found.size() * sizeof(float)), name + ": other bits " + way);
    };
    const auto pages = pages_from(1, 1);
    same(two.step(ids, {{0, TOKENS, pages_from(40, 1)}}), 0, "on two threads");
    same(two.step(ids, {{0, 200, pages}}), 0, "in a chunk");
    same(two.step(ids, {{200, 55, pages}}), 200, "in a second chunk");
    for (int at = 255; at < TOKENS - 1; at++) same(two.step(ids, {{at, 1, pages}}), at, "token by token");
    // Three sequences that share all pages but the last.
    std::vector<Sequence> mates(3, {TOKENS - 1, 1, pages});
    for (int i = 1; i < 3; i++) mates[i].pages.back() = 60 + i, two.copy_page(pages.back(), 60 + i);
    const auto together = two.step(ids, mates);
    for (int i = 0; i < 3; i++) same({together.begin() + i * VOCAB, together.begin() + (i + 1) * VOCAB}, TOKENS - 1, "beside others");
}

void adapted(const Weights& plain, const std::vector<int32_t>& ids) {
    Weights changed = plain;
    Machine machine(plain, KEPT_FLOAT32, 2);
    void* adapter = danlu_adapter_new(machine.handle);
    constexpr int RANK = 5;
    for (int l = 0; l < LAYERS; l++)
        for (int which = QKV; which <= DOWN; which++) {
            Dense& m = changed.matrices[l][which];
            const int rows = which == GATE_UP ? m.rows / 2 : m.rows;  // the gate alone
            const auto a = draws(size_t(RANK) * m.columns, 0.1f), b = draws(size_t(rows) * RANK, 0.3f);
            Machine::require(danlu_adapter_part(adapter, l, which, 0, rows, RANK, m.columns, a.data(), b.data()));
            for (int n = 0; n < rows; n++)
                for (int k = 0; k < m.columns; k++)
                    for (int r = 0; r < RANK; r++) m.w[size_t(n) * m.columns + k] += b[n * RANK + r] * a[r * m.columns + k];
        }
    const auto pages = pages_from(0, 1);
    auto found = machine.step(ids, {{0, 100, pages}}, adapter);
    const auto next = machine.step(ids, {{100, 1, pages}}, adapter);
    found.insert(found.end(), next.begin(), next.end());
    check_near(found, plain_logits(changed, {ids.begin(), ids.begin() + 101}), 1e-5, "step with an adapter");
    danlu_adapter_free(adapter);
}

void all_steps() {
    std::vector<int32_t> ids;
    for (int i = 0; i < TOKENS; i++) ids.push_back(int32_t((draw() + 1) * 0.5f * VOCAB) % VOCAB);
    for (Kind kind : {FLOAT32, BFLOAT16, INT8, INT4})
        for (bool offsets : {false, true}) {
            if (offsets && kind != INT4) continue;
            Weights w(kind, offsets);
            const auto expected = plain_logits(w, ids);
            for (Kept kept : {KEPT_FLOAT32, KEPT_BFLOAT16, KEPT_INT8}) steps(kind, offsets, kept, w, ids, expected);
            if (kind == FLOAT32) adapted(w, ids);
            // A weight that is no number makes logits that are none, in the rows it reaches.
            w.final_norm[5] = NAN;
            Machine broken(w, KEPT_FLOAT32, 1);
            check(std::isnan(broken.step(ids, {{0, 3, pages_from(0, 1)}})[0]), "a norm that is no number");
        }
}

}  // namespace
