// Conversions and products of the engine (lanes.h, product.h) against plain loops: equal bits wherever the formula gives
// them, which is everywhere but in sums of pairs of bfloat16.

#include "product.h"

#include "check.h"

namespace {

using namespace danlu;

float from_bits(uint32_t bits) {
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

// The nearest bfloat16, by looking at the two that are possible.
uint16_t nearest_bf16(float x) {
    if (x != x) return 0x7fc0;
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    const uint16_t low = uint16_t(bits >> 16), high = uint16_t(low + 1);
    if (!(bits & 0xffff) || std::isinf(x)) return low;
    const double below = std::fabs(double(x) - bf16_to_float(low));
    const double next = (high & 0x7fff) == 0x7f80 ? std::ldexp(high & 0x8000 ? -1.0 : 1.0, 128) : double(bf16_to_float(high));
    const double above = std::fabs(next - double(x));
    return below < above || (below == above && low % 2 == 0) ? low : high;
}

void conversions() {
    std::vector<float> x = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, -NAN, FLT_MAX, -FLT_MAX, FLT_MIN, 1e-40f, -1e-45f, 65504.0f,
                            65519.0f, 65520.0f, 1e-8f, from_bits(0x7f800001), from_bits(0x3f808000), from_bits(0x3f818000)};
    while (x.size() < 20000) x.push_back(std::ldexp(draw(), int(draw() * 140)));
    while (x.size() % 16) x.push_back(0.0f);
    for (size_t i = 0; i < x.size(); i += LANES) {
        uint16_t halves[LANES];
        float back[LANES], e[LANES];
        store_bf16(halves, load(&x[i]));
        store(back, load_bf16(halves));
        store(e, exp(load(&x[i])));
        for (int j = 0; j < LANES; j++) {
            const float v = x[i + j];
            // vcvtneps2bf16, which AVX-512 has for it, takes what is smaller than any normal number for 0
            const bool tiny = BFLOAT16_PAIRS && std::fabs(v) < FLT_MIN;
            const std::string name = std::to_string(v);
            if (v != v)
                check((halves[j] & 0x7fff) > 0x7f80 && back[j] != back[j] && (float_to_bf16(v) & 0x7fff) > 0x7f80, "NaN as bfloat16");
            else
                check((tiny || halves[j] == nearest_bf16(v)) && float_to_bf16(v) == nearest_bf16(v), name + " as bfloat16");
            const double true_e = std::exp(double(v));
            if (v != v)
                check(e[j] != e[j], "e^NaN");
            else if (v < -87)
                check(e[j] == 0, "e^" + name);
            else if (v <= 88)
                check(std::fabs(e[j] - true_e) <= 3e-7 * true_e, "e^" + name);
            else
                check(e[j] >= 1.6e38f, "e^" + name);
        }
    }
    for (uint32_t h = 0; h < 65536; h += LANES) {
        uint16_t halves[LANES];
        float v[LANES];
        for (int j = 0; j < LANES; j++) halves[j] = uint16_t(h + j);
        store(v, load_half(halves));
        for (int j = 0; j < LANES; j++) {
            const uint16_t half = halves[j], exponent = half >> 10 & 31, mantissa = half & 0x3ff;
            const float sign = half & 0x8000 ? -1.0f : 1.0f;
            const float expected = exponent == 31 ? (mantissa ? NAN : sign * INFINITY)
                                   : exponent     ? sign * std::ldexp(1.0f + float(mantissa) / 1024, exponent - 15)
                                                  : sign * std::ldexp(float(mantissa), -24);
            const bool number = expected == expected;
            check(number ? same_bits(&v[j], &expected, 4) : v[j] != v[j], "float16 " + std::to_string(half));
            check(number ? float_to_half(expected) == half : (float_to_half(v[j]) & 0x7fff) > 0x7c00, "back to float16 " + std::to_string(half));
        }
    }
    int8_t bytes[256], again[256];
    for (int i = 0; i < 256; i++) bytes[i] = int8_t(i - 128);
    for (int i = 0; i < 256; i += LANES) {
        const Floats v = load_bytes(bytes + i);
        for (int j = 0; j < LANES; j++) check(v[j] == float(i + j - 128), "a byte as a float");
        Ints wholes;
        for (int j = 0; j < LANES; j++) wholes[j] = i + j - 128;
        store_bytes(again + i, wholes);
    }
    check(same_bits(bytes, again, 256), "whole numbers as bytes");
    for (float odd : {NAN, -NAN, INFINITY, -INFINITY}) {
        std::vector<float> row = draws(GROUP);
        row[17] = odd;
        check(!(largest_size(row.data(), GROUP) <= FLT_MAX), "the largest of a row with " + std::to_string(odd));
    }
}

// Rows of x in groups of bytes, by the definition in product.h.
void rounding(const Rounded& r, const std::vector<float>& x, size_t stride, int rows) {
    for (int m = 0; m < rows; m++)
        for (int g = 0; g < r.columns / GROUP; g++) {
            const float* from = &x[m * stride + g * GROUP];
            const size_t at = size_t(m) * (r.columns / GROUP) + g;
            float most = 0;
            bool finite = true;
            for (int k = 0; k < GROUP; k++) most = std::max(most, std::fabs(from[k])), finite = finite && std::isfinite(from[k]);
            if (!finite) {
                check(r.scale[at] != r.scale[at], "the scale of a group that is no number");
                continue;
            }
            const float step = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
            int32_t total = 0;
            bool right = r.scale[at] == step;
            for (int k = 0; k < GROUP; k++) {
                const int q = int(std::nearbyint(double(from[k]) * inverse));
                total += q, right = right && r.q[size_t(m) * r.columns + g * GROUP + k] == q;
            }
            check(right && r.total[at] == step * float(total) && r.begin[at] == -r.zero * total, "rounding of a group");
        }
}

void products(Kind kind, bool offsets, int columns) {
    constexpr int N = 37, MOST = 13;
    const bool bytes = kind == INT8 || kind == INT4;
    const int groups = columns / GROUP;
    const size_t stride = (columns + 15) / 16 * 16;
    const std::string name = "product of kind " + std::to_string(kind) + (offsets ? " with offsets" : "");
    Arena arena;
    Matrix w;
    w.shape(kind, N, columns, arena, offsets);
    const std::vector<float> numbers = draws(size_t(N) * columns);
    const std::vector<float> scales = draws(size_t(N) * std::max(1, groups)), shifts = draws(size_t(N) * std::max(1, groups));
    std::vector<int8_t> q(numbers.size());
    for (size_t i = 0; i < q.size(); i++) q[i] = int8_t(std::floor(numbers[i] * (kind == INT4 ? 8 : 128)));
    if (kind == INT8)
        w.pack_int8(q.data(), scales.data(), 0, N);
    else if (kind == INT4)
        w.pack_int4(q.data(), scales.data(), offsets ? shifts.data() : nullptr, 0, N);
    else
        w.pack_floats(numbers.data(), 0, N);
    std::vector<float> row(columns);
    for (int n = 0; n < N; n++) {
        w.row(n, row.data());
        for (int k = 0; k < columns; k++) {
            const size_t at = size_t(n) * columns + k, group = size_t(n) * groups + k / GROUP;
            const float half = bytes ? half_to_float(float_to_half(scales[kind == INT8 ? n : group])) : 0;
            const float expected = kind == FLOAT32    ? numbers[at]
                                   : kind == BFLOAT16 ? bf16_to_float(nearest_bf16(numbers[at]))
                                   : kind == INT8     ? float(q[at]) * scales[n]
                                                      : float(q[at]) * half + (offsets ? half_to_float(float_to_half(shifts[group])) : 0);
            check(row[k] == expected, name + ": a row as floats");
        }
    }
    for (int rows = 1; rows <= MOST; rows++) {
        std::vector<float> x = draws(rows * stride, 3);
        if (bytes && rows == 5) x[2 * stride + 3] = NAN, x[3 * stride] = INFINITY, std::fill_n(&x[4 * stride], GROUP, 0.0f);
        Array<uint8_t> memory(Rows::memory(rows, columns));
        Rows input{x.data(), stride, Rounded::in(memory.data(), rows, columns, w.zero()), (uint16_t*)memory.data()};
        for (int m = 0; m < rows; m++) input.convert(w, m, &x[m * stride]);
        const Rounded& r = input.bytes;
        if (bytes) rounding(r, x, stride, rows);
        std::vector<float> y(size_t(rows) * w.blocks * LANES);
        multiply_blocks(w, 0, w.blocks, input, rows, [&](int m, int n, Floats v) { store(&y[size_t(m) * w.blocks * LANES + n], v); });
        for (int m = 0; m < rows; m++)
            for (int n = 0; n < N; n++) {
                const float found = y[size_t(m) * w.blocks * LANES + n];
                const int8_t *qx = r.q + size_t(m) * columns, *qw = &q[size_t(n) * columns];
                float expected = 0;
                double size = 0;
                for (int g = 0; bytes && g < groups; g++) {
                    int32_t dot = 0;
                    for (int k = g * GROUP; k < (g + 1) * GROUP; k++) dot += qw[k] * qx[k];
                    const float sx = r.scale[size_t(m) * groups + g];
                    const size_t group = size_t(n) * groups + g;
                    if (kind == INT8)
                        expected = std::fma(float(dot), sx, expected);
                    else
                        expected = std::fma(float(dot) * sx, half_to_float(float_to_half(scales[group])), expected);
                    if (offsets) expected = std::fma(half_to_float(float_to_half(shifts[group])), r.total[size_t(m) * groups + g], expected);
                }
                if (kind == INT8) expected *= scales[n];
                for (int k = 0; !bytes && k < columns; k++) {
                    float a = numbers[size_t(n) * columns + k], b = x[m * stride + k];
                    if (kind == BFLOAT16) a = bf16_to_float(nearest_bf16(a));
                    if (kind == BFLOAT16 && BFLOAT16_PAIRS) b = bf16_to_float(nearest_bf16(b));
                    expected = std::fma(a, b, expected), size += std::fabs(double(a) * b);
                }
                const bool near = kind == BFLOAT16 && BFLOAT16_PAIRS && std::fabs(found - expected) <= 1e-6 * size;
                const bool both_nan = found != found && expected != expected;
                check(near || both_nan || same_bits(&found, &expected, 4), name + ", " + std::to_string(rows) + " rows");
            }
    }
}

}  // namespace

int main() {
    conversions();
    for (int columns : {50, 96}) products(FLOAT32, false, columns), products(BFLOAT16, false, columns);
    for (int columns : {32, 96}) products(INT8, false, columns), products(INT4, false, columns), products(INT4, true, columns);
    return verdict("products");
}
