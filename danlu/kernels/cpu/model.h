// A model in the layout of the kernels, the memory of a step, and what one step is about.

#pragma once

#include "attention.h"
#include "lora.h"
#include "product.h"
#include "team.h"

namespace danlu {

enum Norm : int { RMS = 0, LAYER = 1 };
enum Mlp : int { SWIGLU = 0, GELU_TANH = 1, GELU_ERF = 2 };
enum Which : int { QKV = 0, OUT = 1, GATE_UP = 2, DOWN = 3, HEAD = 4, EMBEDDING = 5 };
enum Vector : int { ATTENTION_NORM = 0, ATTENTION_NORM_BIAS, MLP_NORM, MLP_NORM_BIAS, Q_NORM, K_NORM, FINAL_NORM, FINAL_NORM_BIAS, POSITIONS, COS, SIN, VECTORS };

constexpr int STAGES = 8;  // counters of one layer: the preparation of four products, attention's two, by_rows' two
constexpr int FEW = 2;     // rows more than its share that a member prepares for itself to save a barrier; tuned for two
constexpr int ASKING = 8;   // rows up to which the next product's weights are asked for ahead of a barrier; not tuned
constexpr int ALONE_FROM = 32, ALONE_MOST = 64;  // rows of a member that works alone; roughly tuned

inline int padded(int n) { return (n + 15) / 16 * 16; }

struct Shape {
    int32_t layers, hidden, heads, kv_heads, head_dim, inner, vocab, max_position;
    int32_t norm, mlp, threads, max_tokens, kept;
    float eps, scale;
};

struct Layer {
    Matrix qkv, out, gate_up, down;
    Array<float> vectors[VECTORS];
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
    int span, kv_head, n_heads, begin;  // begin: the split (n == 1) or the first token, of one head
    int mates = 0, n_mates = 0;  // n == 1: the spans whose split it is, Model::mates from `mates` on
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
            mine.rows.resize(size_t(ALONE_MOST) * widest);
            mine.converted.resize(Rows::memory(ALONE_MOST, widest));
            mine.head.resize(s.head_dim);
            mine.q.resize(size_t(TILE) * s.head_dim);
            mine.o.resize(size_t(TILE) * s.head_dim);
            mine.whole.resize(size_t(TILE) * s.head_dim);
            mine.gate.resize(size_t(s.max_tokens) * LANES);
            mine.taken = std::vector<std::atomic<int>>(4 * s.layers + 1);
        }
        counters = std::vector<std::atomic<int>>(STAGES * s.layers + 8);
    }

    // Whether every member prepares all of n rows for itself: work done twice, but nobody waits, and what a member reads
    // next lies in its own cache.
    bool each_prepares(int n) const { return n <= ALONE_MOST && n - n / team.size() <= FEW; }

    Shape shape;
    Arena arena;  // of all matrices
    std::vector<Layer> layers;
    Matrix head, embedding;  // embedding is empty when it is the head
    Array<float> vectors[VECTORS];
    Team team;
    int q_width, kv_width;

    Array<float> x, qkv, attended, inner;  // [T, ...], rows padded to 16
    Array<float> rows;                     // the input of a product
    Array<uint8_t> converted;              // the same in the arithmetic of its weights
    Array<float> low;                      // the same, through an adapter's A (lora.h)
    struct Own {                                 // a member's own
        Array<float> rows, low, more, head, q, o, whole, gate;
        Array<uint8_t> converted;
        Array<Best> best;  // of the rows asked for
        std::vector<std::atomic<int>> taken;  // pieces of its part of each product, by anybody
    };
    std::vector<Own> own;
    std::vector<std::atomic<int>> counters;

    // Of the step under way.
    int n_tokens = 0;
    const int32_t* positions = nullptr;
    std::vector<Span> spans;
    std::vector<Item> items;
    std::vector<int> mates;
    std::vector<int> span_of;  // row -> span
    std::vector<int32_t> every;      // all rows
    std::vector<uint8_t> is_wanted;  // of each row, whether something behind the last layer is asked of it
    bool chunked = false;      // whether some span has several tokens
    size_t low_width = 0;      // of a row in `low`; 0 when no span has an adapter
    Array<float> partial_o;
    std::vector<Partial> partials;
    uint8_t* cache = nullptr;
    size_t n_pages = 0;
};

}  // namespace danlu
