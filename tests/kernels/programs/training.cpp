// The kernels of training against plain arithmetic in float64, as a program: for processors that no Python runs on here.
// What goes back is compared with differences of what goes forward, along directions d drawn at random:
//
//     sum of gradient(x) d   ~   (L(x + e d) - L(x - e d)) / 2 e         L(x) = sum of g f(x)
//

#include "train.cpp"

#include "check.h"

namespace {

using Numbers = std::vector<double>;

constexpr int THREADS = 2;

template <class T>
constexpr int DTYPE = std::is_same_v<T, float> ? 0 : 1;

template <class T>
const std::string NAME = DTYPE<T> ? " in bfloat16" : " in float32";

template <class T>
constexpr double TOLERANCE = DTYPE<T> ? 1e-2 : 2e-5;

template <class T>
std::vector<T> tensor(size_t n, float scale = 1) {
    std::vector<T> x(n);
    for (auto& v : x) convert(draws(1, scale).data(), &v, 1);
    return x;
}

// Several tensors, one behind the other.
template <class... T>
Numbers joined(const std::vector<T>&... parts) {
    Numbers all;
    auto add = [&](const auto& part) {
        for (auto x : part) all.push_back(to_float(x));
    };
    (add(parts), ...);
    return all;
}

template <class F>
void check_gradient(F f, const Numbers& x, const Numbers& g, const Numbers& gradient, double tolerance, const std::string& what) {
    Numbers found, expected;
    for (int i = 0; i < 12; i++) {
        Numbers up = x, down = x;
        double along = 0, difference = 0;
        for (size_t j = 0; j < x.size(); j++) {
            const double d = draw();
            up[j] += 1e-5 * d, down[j] -= 1e-5 * d, along += gradient[j] * d;
        }
        up = f(up), down = f(down);
        for (size_t j = 0; j < g.size(); j++) difference += g[j] * (up[j] - down[j]);
        found.push_back(along), expected.push_back(difference / 2e-5);
    }
    check(gradient.size() == x.size(), what);
    check_near(found, expected, tolerance, what + ", gradient");
}

// x, added [rows, size] and w [size] -> x + added, and its norm.
template <class T>
void norms() {
    constexpr int ROWS = 21, SIZE = 37, COUNT = ROWS * SIZE;
    const auto plain = [](const Numbers& in) {
        Numbers out(2 * COUNT);
        for (int row = 0; row < ROWS; row++) {
            double squares = 0;
            for (int i = row * SIZE; i < (row + 1) * SIZE; i++) out[i] = in[i] + in[COUNT + i], squares += out[i] * out[i];
            for (int i = 0; i < SIZE; i++)
                out[COUNT + row * SIZE + i] = out[row * SIZE + i] / std::sqrt(squares / SIZE + 1e-5) * in[2 * COUNT + i];
        }
        return out;
    };
    const auto x = tensor<T>(COUNT), added = tensor<T>(COUNT), g = tensor<T>(COUNT), d_sum = tensor<T>(COUNT);
    const auto w = draws(SIZE);
    std::vector<T> s(COUNT), y(COUNT), d_s(COUNT), d_added(COUNT);
    std::vector<float> r(ROWS), d_w(SIZE);
    danlu_rms_norm(THREADS, ROWS, SIZE, 1e-5f, DTYPE<T>, DTYPE<T>, DTYPE<T>, x.data(), added.data(), w.data(), s.data(), y.data(), r.data());
    check_near(joined(s, y), plain(joined(x, added, w)), TOLERANCE<T>, "RMSNorm" + NAME<T>);
    danlu_rms_norm_backward(THREADS, ROWS, SIZE, DTYPE<T>, DTYPE<T>, DTYPE<T>, g.data(), d_sum.data(), s.data(), r.data(), w.data(), d_s.data(),
                            d_added.data(), d_w.data());
    check(d_s == d_added, "the gradient of both terms of a sum");
    check_gradient(plain, joined(x, added, w), joined(d_sum, g), joined(d_s, d_added, d_w), TOLERANCE<T>, "RMSNorm" + NAME<T>);
}

template <class T>
void gates() {
    constexpr int ROWS = 5, INNER = 37;
    const auto plain = [](const Numbers& in) {
        Numbers out;
        for (int row = 0; row < ROWS; row++)
            for (int i = 0; i < INNER; i++) {
                const double gate = in[row * 2 * INNER + i], up = in[(row * 2 + 1) * INNER + i];
                out.push_back(gate / (1 + std::exp(-gate)) * up);
            }
        return out;
    };
    const auto gate_up = tensor<T>(ROWS * 2 * INNER, 4), g = tensor<T>(ROWS * INNER);
    std::vector<T> y(g.size()), d(gate_up.size());
    danlu_swiglu(THREADS, ROWS, INNER, DTYPE<T>, gate_up.data(), y.data());
    check_near(joined(y), plain(joined(gate_up)), TOLERANCE<T>, "SwiGLU" + NAME<T>);
    danlu_swiglu_backward(THREADS, ROWS, INNER, DTYPE<T>, g.data(), gate_up.data(), d.data());
    check_gradient(plain, joined(gate_up), joined(g), joined(d), TOLERANCE<T>, "SwiGLU" + NAME<T>);
}

template <class T>
void losses() {
    constexpr int ROWS = 6, VOCAB = 103;
    const int64_t targets[ROWS] = {0, 102, 7, 16, 55, 99};
    const auto plain = [&](const Numbers& in) {
        Numbers out;
        for (int row = 0; row < ROWS; row++) {
            double total = 0;
            for (int i = 0; i < VOCAB; i++) total += std::exp(in[row * VOCAB + i]);
            out.push_back(std::log(total) - in[row * VOCAB + targets[row]]);
        }
        return out;
    };
    auto z = tensor<T>(ROWS * VOCAB, 5);
    const Numbers before = joined(z);
    std::vector<float> found(ROWS), again(ROWS);
    danlu_softmax_cross_entropy(THREADS, ROWS, VOCAB, DTYPE<T>, z.data(), targets, 0, found.data());
    check(joined(z) == before, "a loss alone changes no logits");
    danlu_softmax_cross_entropy(THREADS, ROWS, VOCAB, DTYPE<T>, z.data(), targets, 1, again.data());
    check(found == again, "the loss is the same with a gradient");
    check_near(found, plain(before), 2e-6, "cross-entropy" + NAME<T>);
    check_gradient(plain, before, Numbers(ROWS, 1.0), joined(z), TOLERANCE<T>, "cross-entropy" + NAME<T>);
}

template <class T>
void heads() {
    constexpr int TOKENS = 13, Q = 4, KV = 2, DIM = 32, HALF = DIM / 2, TABLES = 7, ALL = Q + 2 * KV, COUNT = TOKENS * ALL * DIM;
    std::vector<float> cosines, sines;
    for (int i = 0; i < TABLES * HALF; i++) cosines.push_back(std::cos(0.1f * float(i))), sines.push_back(std::sin(0.1f * float(i)));
    // x [tokens, heads, DIM] and the weights of queries and keys
    const auto plain = [&](const Numbers& in) {
        Numbers out(in.begin(), in.begin() + COUNT);
        for (int token = 0; token < TOKENS; token++)
            for (int head = 0; head < Q + KV; head++) {
                double *y = &out[(token * ALL + head) * DIM], squares = 0;
                for (int d = 0; d < DIM; d++) squares += y[d] * y[d];
                for (int d = 0; d < DIM; d++) y[d] *= in[COUNT + (head < Q ? 0 : DIM) + d] / std::sqrt(squares / DIM + 1e-5);
                for (int d = 0; d < HALF; d++) {
                    const double c = cosines[token % TABLES * HALF + d], s = sines[token % TABLES * HALF + d], a = y[d], b = y[d + HALF];
                    y[d] = a * c - b * s, y[d + HALF] = b * c + a * s;
                }
            }
        return out;
    };
    const auto x = tensor<T>(COUNT), g = tensor<T>(COUNT);
    const auto weights = draws(2 * DIM);
    std::vector<T> y(COUNT), d_x(COUNT);
    std::vector<float> d_weights(2 * DIM);
    const Heads h{TOKENS, Q, KV, DIM, TABLES, 1e-5f, weights.data(), weights.data() + DIM, cosines.data(), sines.data()};
    danlu_norm_and_rotate(THREADS, &h, DTYPE<T>, x.data(), y.data());
    check_near(joined(y), plain(joined(x, weights)), TOLERANCE<T>, "heads" + NAME<T>);
    const int64_t strides[3] = {ALL * DIM, ALL * DIM, ALL * DIM};
    danlu_norm_and_rotate_backward(THREADS, &h, DTYPE<T>, g.data(), g.data() + Q * DIM, g.data() + (Q + KV) * DIM, strides, x.data(), d_x.data(),
                                   d_weights.data());
    check_gradient(plain, joined(x, weights), joined(g), joined(d_x, d_weights), TOLERANCE<T>, "heads" + NAME<T>);
}

template <class T>
void attention(int length, bool segmented) {
    constexpr int BATCH = 2, Q = 4, KV = 2, DIM = 32, ALL = Q + 2 * KV;
    std::vector<int64_t> segments(BATCH * length);
    for (int i = 0; i < BATCH * length; i++) segments[i] = i / 11;
    // qkv [batch, length, heads, DIM] -> [batch, length, Q, DIM]
    const auto plain = [&](const Numbers& in) {
        Numbers out;
        for (int at = 0; at < BATCH * length; at++)
            for (int head = 0; head < Q; head++) {
                Numbers o(DIM);
                double total = 0;
                for (int key = at / length * length; key <= at; key++) {
                    if (segmented && segments[key] != segments[at]) continue;
                    double score = 0;
                    const int kv = head / (Q / KV);
                    for (int d = 0; d < DIM; d++) score += in[(at * ALL + head) * DIM + d] * in[(key * ALL + Q + kv) * DIM + d];
                    const double e = std::exp(score * 0.3);
                    total += e;
                    for (int d = 0; d < DIM; d++) o[d] += e * in[(key * ALL + Q + KV + kv) * DIM + d];
                }
                for (double v : o) out.push_back(v / total);
            }
        return out;
    };
    const auto qkv = tensor<T>(size_t(BATCH) * length * ALL * DIM), g = tensor<T>(size_t(BATCH) * length * Q * DIM);
    std::vector<T> out(g.size()), d_qkv(qkv.size());
    std::vector<float> log_sums(size_t(BATCH) * Q * length);
    constexpr int64_t stride = ALL * DIM, k = Q * DIM, v = (Q + KV) * DIM;
    const Causal c{BATCH, length, Q, KV, DIM, 0.3f, segmented ? segments.data() : nullptr, stride, stride, stride};
    danlu_causal_attention(THREADS, &c, DTYPE<T>, qkv.data(), qkv.data() + k, qkv.data() + v, out.data(), log_sums.data());
    const std::string name = "attention over " + std::to_string(length) + NAME<T>;
    check_near(joined(out), plain(joined(qkv)), TOLERANCE<T>, name);
    danlu_causal_attention_backward(THREADS, &c, DTYPE<T>, qkv.data(), qkv.data() + k, qkv.data() + v, out.data(), log_sums.data(), g.data(),
                                    d_qkv.data(), d_qkv.data() + k, d_qkv.data() + v, stride);
    check_gradient(plain, joined(qkv), joined(g), joined(d_qkv), TOLERANCE<T>, name);
}

Numbers product(const Numbers& a, const Numbers& b, int rows, int depth, int columns, bool turned) {  // a b, or a b^T
    Numbers c(size_t(rows) * columns);
    for (int r = 0; r < rows; r++)
        for (int k = 0; k < depth; k++)
            for (int i = 0; i < columns; i++) c[r * columns + i] += a[r * depth + k] * b[turned ? i * depth + k : k * columns + i];
    return c;
}

void muons(int rows, int columns) {
    constexpr int ITERATIONS = 4;
    const float coefficients[3 * ITERATIONS] = {3.4f, -4.7f, 2.0f, 3.0f, -4.0f, 1.8f, 2.8f, -3.2f, 1.3f, 1.9f, -1.3f, 0.4f};
    auto weights = draws(rows * columns), momentum = draws(rows * columns);
    const auto gradient = draws(rows * columns);
    Numbers p = joined(weights), m = joined(momentum), x(p.size());
    const int low = std::min(rows, columns), high = std::max(rows, columns);
    auto place = [&](int i) { return rows <= columns ? i : i % columns * rows + i / columns; };  // turned so that it is wide
    double squares = 0;
    for (size_t i = 0; i < p.size(); i++) {
        m[i] += 0.05f * (gradient[i] - m[i]);
        x[place(int(i))] = m[i] + 0.05f * (gradient[i] - m[i]);
        squares += x[place(int(i))] * x[place(int(i))];
    }
    for (auto& v : x) v /= std::sqrt(squares);
    for (int i = 0; i < ITERATIONS; i++) {
        const float* c = coefficients + 3 * i;
        Numbers gram = product(x, x, low, high, low, true), mixed = product(gram, gram, low, low, low, false);
        for (size_t j = 0; j < gram.size(); j++) mixed[j] = c[1] * gram[j] + c[2] * mixed[j];
        const Numbers more = product(mixed, x, low, low, high, false);
        for (size_t j = 0; j < x.size(); j++) x[j] = c[0] * x[j] + more[j];
    }
    for (size_t i = 0; i < p.size(); i++) p[i] = 0.9f * p[i] - 0.5 * std::sqrt(double(high)) * x[place(int(i))];
    const MuonMatrix matrix{weights.data(), momentum.data(), gradient.data(), rows, columns};
    const MuonStep step{0.05f, 0.9f, 0.5f, ITERATIONS, coefficients};
    danlu_muon(THREADS, 1, &matrix, &step);
    check_near(momentum, m, 1e-6, "momentum");
    check_near(weights, p, PAIRS ? 2e-2 : 1e-4, "Muon");
}

void linears() {
    constexpr int ROWS = 70, N = 48, K = 80;
    if (!danlu_in_pairs()) return;
    const auto x = tensor<uint16_t>(ROWS * K), g = tensor<uint16_t>(ROWS * N);
    const auto w = draws(N * K);
    std::vector<uint16_t> y(ROWS * N), d_x(ROWS * K);
    std::vector<float> d_w(N * K);
    danlu_linear(THREADS, ROWS, N, K, x.data(), w.data(), y.data());
    danlu_linear_backward(THREADS, ROWS, N, K, g.data(), x.data(), w.data(), d_x.data(), d_w.data());
    const auto plain = [](const Numbers& in) {
        return product({in.begin(), in.begin() + ROWS * K}, {in.begin() + ROWS * K, in.end()}, ROWS, K, N, true);
    };
    check_near(joined(y), plain(joined(x, w)), 1e-2, "linear");
    check_gradient(plain, joined(x, w), joined(g), joined(d_x, d_w), 1e-2, "linear");
}

template <class T>
void everything() {
    norms<T>(), gates<T>(), losses<T>(), heads<T>();
    for (int length : {1, 19, 150})
        for (bool segmented : {false, true}) attention<T>(length, segmented);
}

}  // namespace

int main() {
    everything<float>(), everything<uint16_t>();
    muons(32, 48), muons(48, 16), linears();
    return verdict("training");
}
