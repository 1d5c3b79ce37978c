// A decoder on a CPU, behind an interface in plain C: weights go in once, then one call computes a step (stepper.h).
//
// The team (team.h) enters once a step and meets at barriers inside. Sizes are checked here, once; nothing inside checks
// again.

#include <cmath>
#include <numeric>
#include <string>

#include "rates.h"
#include "sample.h"
#include "stepper.h"

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

// The pieces of the attention stage. Decoding tokens whose split lies in the same pages, a beginning they share, look at
// it together: it is read once for all of them.
void plan_attention(Model& model) {
    const Shape& s = model.shape;
    const int most = TILE / (s.heads / s.kv_heads);  // tokens of a tile
    const auto alone = [](const Span& span) { return span.n == 1; };
    const bool many = std::count_if(model.spans.begin(), model.spans.end(), alone) >= 2 * model.team.size();
    struct Piece {
        int split, span;
    };
    std::vector<Piece> pieces;
    model.items.clear(), model.mates.clear();
    auto add = [&](int span, int begin, int mates, int n_mates) {
        const int heads = many && n_mates ? std::clamp(most / n_mates, 1, s.kv_heads) : 1;
        for (int h = 0; h < s.kv_heads; h += heads)
            model.items.push_back({span, h, std::min(heads, s.kv_heads - h), begin, mates, n_mates});
    };
    for (int i = 0; i < int(model.spans.size()); i++) {
        const Span& span = model.spans[i];
        if (span.n > 1) {  // the end of a chunk sees most and costs most: it goes first
            for (int j = (span.n + most - 1) / most - 1; j >= 0; j--) add(i, j * most, 0, 0);
            continue;
        }
        for (int split = 0; split < span.splits() - 1; split++) pieces.push_back({split, i});
        add(i, span.splits() - 1, int(model.mates.size()), 1);  // its own: the token itself goes there
        model.mates.push_back(i);
    }
    auto pages = [&](const Piece& p) { return model.spans[p.span].table + p.split * (SPLIT / PAGE); };
    auto order = [&](const Piece& a, const Piece& b) {
        return a.split != b.split ? a.split - b.split : std::memcmp(pages(a), pages(b), SPLIT / PAGE * sizeof(int32_t));
    };
    std::sort(pieces.begin(), pieces.end(), [&](const Piece& a, const Piece& b) {
        const int way = order(a, b);
        return way ? way < 0 : a.span < b.span;
    });
    for (size_t begin = 0, end; begin < pieces.size(); begin = end) {
        const int mates = int(model.mates.size());
        for (end = begin; end < pieces.size() && end - begin < size_t(most) && !order(pieces[begin], pieces[end]); end++)
            model.mates.push_back(pieces[end].span);
        add(pieces[begin].span, pieces[begin].split, mates, int(end - begin));
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
#elif defined(DANLU_NEON) && defined(__ARM_FEATURE_DOTPROD)
    return "neon-dotprod";
#elif defined(DANLU_NEON)
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
// (scale [rows, columns / 32], and offset of the same shape or null). Gate rows come before up rows. bias [rows] may be null.
int danlu_matrix(void* handle, int layer, int which, int kind, int rows, int columns, const void* data, const float* scale, const float* offset,
                 const float* bias) {
    Model& model = *static_cast<Model*>(handle);
    Matrix* w = find(model, layer, which);
    int n, k;
    expected(model.shape, which, n, k);
    if (!w || !within(kind, 0, 3)) return fail("no such matrix");
    if (rows != n || columns != k) return fail("a matrix of another shape");
    bool bytes = kind == INT8 || kind == INT4;
    if (bytes && (columns % GROUP || !scale)) return fail("columns must be a multiple of 32, and scales are needed");
    if (offset && kind != INT4) return fail("only four bits have offsets");
    const bool pairs = which == GATE_UP && model.shape.mlp == SWIGLU;
    const int part = pairs ? rows / 2 : rows, part_blocks = (part + LANES - 1) / LANES;
    if (!w->shape(Kind(kind), pairs ? 2 * part_blocks * LANES : rows, columns, model.arena, offset != nullptr))
        return fail("out of memory");
    w->bias.assign(bias ? size_t(w->blocks) * LANES : 0, 0.0f);
    model.team.run([&](int worker) {
        for (int half = 0; half < (pairs ? 2 : 1); half++)
            for (int b = worker; b < part_blocks; b += model.team.size()) {
                int from = half * part + b * LANES, count = std::min(LANES, part - b * LANES);
                int to = (pairs ? 2 * b + half : b) * LANES;
                const size_t first = size_t(from) * columns, group = first / GROUP;
                if (kind == INT8)
                    w->pack_int8((const int8_t*)data + first, scale + from, to, count);
                else if (kind == INT4)
                    w->pack_int4((const int8_t*)data + first, scale + group, offset ? offset + group : nullptr, to, count);
                else
                    w->pack_floats((const float*)data + first, to, count);
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
        if (!part.a.shape(FLOAT32, rank, columns, target.arena) || !part.b.shape(FLOAT32, rows, rank, target.arena)) return fail("out of memory");
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
// danlu_page_bytes]; out_rows [n_out]; logits [n_out, vocab] or null; the largest of each row, best [n_out] or null (NaN
// where one is no finite number), and its column, best_ids [n_out]; hidden [n_out, hidden] or null; adapters
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
        if (!within(out_rows[i], i ? out_rows[i - 1] + 1 : 0, n_tokens - 1)) return fail("output rows must rise, and be rows of the step");
    try {
        model.spans.clear();
        model.span_of.assign(n_tokens, -1);
        model.chunked = false;
        model.low_width = 0;
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
        model.every.resize(n_tokens);
        std::iota(model.every.begin(), model.every.end(), 0);
        model.is_wanted.assign(n_tokens, 0);
        for (int i = 0; i < n_out; i++) model.is_wanted[out_rows[i]] = 1;
        plan_attention(model);
        model.partials.resize(partials);
        model.partial_o.resize(partials * s.head_dim);
        model.low.resize(n_tokens * model.low_width);
        for (auto& own : model.own) {
            own.low.resize(ALONE_MOST * model.low_width);
            own.more.resize(model.low_width ? size_t(n_tokens) * 2 * LANES : 0);
        }
        model.n_tokens = n_tokens, model.positions = positions;
        model.cache = static_cast<uint8_t*>(cache), model.n_pages = size_t(n_pages);
    } catch (const std::exception& e) {
        return fail(e.what());
    }
    for (auto& counter : model.counters) counter.store(0, std::memory_order_relaxed);
    for (auto& own : model.own)
        for (auto& counter : own.taken) counter.store(0, std::memory_order_relaxed);
    const bool head = logits || best;
    model.team.run([&](int worker) { Stepper(model, worker).run(ids, n_out, out_rows, logits, head, hidden); });
    std::vector<const Best*> members;
    for (auto& own : model.own) members.push_back(own.best.data());
    for (int i = 0; best && i < n_out; i++) best[i] = Best::of(members.data(), int(members.size()), i, best_ids[i]);
    return 0;
}

// A token for each of n rows of `vocab` logits (sample.h); the rows lie anywhere, and none has a NaN.
int danlu_sample(int n, int vocab, const float* const* rows, const float* temperature, const int32_t* top_k, const double* top_p,
                 const float* min_p, const double* uniform, int32_t* ids) {
    if (n < 0 || vocab < 1) return fail("no logits");
    for (int i = 0; i < n; i++)
        if (!(temperature[i] > 0) || top_k[i] < 0 || !(uniform[i] >= 0 && uniform[i] < 1)) return fail("a choice that cannot be made");
    try {
        thread_local Sampler sampler;
        for (int i = 0; i < n; i++) ids[i] = sampler.pick(rows[i], vocab, {temperature[i], min_p[i], top_p[i], top_k[i], uniform[i]});
    } catch (const std::exception& e) {
        return fail(e.what());
    }
    return 0;
}

// What the machine could do at best (rates.h): bytes, and operations, per second.
double danlu_read_rate(void* handle, int64_t size, float* check) {
    return read_rate(static_cast<Model*>(handle)->team, size, check);
}

double danlu_multiply_rate(void* handle, int64_t rounds, float* check) {
    return multiply_rate(static_cast<Model*>(handle)->team, rounds, check);
}

}  // extern "C"
