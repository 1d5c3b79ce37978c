// Weight matrices laid out for the machine, and y = x W^T over them.
//
// W [N, K] is cut into blocks of LANES rows. Inside a block the rows are interleaved, so that one load gives the same k
// of every row and one vector accumulates one output of each:
//
//     float32, bfloat16    [block][k][row]
//     int8                 [block][k / 4][row][4]            then one float32 scale a row
//     int4                 [block][group of 32]{ [4][row][4] bytes: two nibbles, k and k + 16;  [row] float16 scales }
//
// Four neighbouring k of one row stand in 32 bits because that is what an instruction multiplies and adds at once
// (vpdpbusd; vpmaddubsw + vpmaddwd before it). Activations are rounded to bytes, with one float scale for every 32 of a
// row; the product of two groups is an exact integer, and only then are the scales multiplied:
//
//     y[m, n] = sum over groups g of  sw[n, g] sx[m, g] (sum over k in g of  qw[n, k] qx[m, k])
//
// A nibble is stored as q + 8, 0 to 15, and where the instruction wants an unsigned operand a byte as q + 128; the excess,
// that 8 or 128 times sum(qx), is computed once per row and group of x, when x is rounded.
//
// What is guaranteed: an output depends on its row of x and its row of W alone. Every tile shape adds the same numbers in
// the same order (integers exactly; floats group after group, or k after k), so a row gives the same bits in a batch of
// one and in a batch of a thousand. What is not: equal bits between machines with different LANES or instructions.

#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <vector>

#include "lanes.h"

namespace danlu {

enum Kind : int { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };

#if defined(__AVX512VNNI__) && DANLU_LANES == 16
constexpr bool UNSIGNED_BYTES = true;
#else
constexpr bool UNSIGNED_BYTES = false;
#endif

constexpr int UNIT = LANES * 4;                       // bytes of four k of every row
constexpr int INT4_GROUP = 4 * UNIT + LANES * 2;      // bytes of one group of one block

struct Free {
    void operator()(void* p) const { std::free(p); }
};

inline std::unique_ptr<uint8_t, Free> aligned_bytes(size_t size) {
    size_t rounded = (size + 64 + 63) / 64 * 64;  // a little more, so that a load at the end stays inside
    auto* p = static_cast<uint8_t*>(std::aligned_alloc(64, rounded));
    if (p) std::memset(p, 0, rounded);
    return std::unique_ptr<uint8_t, Free>(p);
}

struct Matrix {
    Kind kind = FLOAT32;
    int rows = 0, columns = 0, blocks = 0;  // N, K, ceil(N / LANES)
    size_t block_bytes = 0;
    std::unique_ptr<uint8_t, Free> data;
    std::vector<float> scale;  // int8: one a row, padded to whole blocks
    std::vector<float> bias;   // empty, or one a row, padded

    const uint8_t* block(int b) const { return data.get() + size_t(b) * block_bytes; }
    bool quantised() const { return kind == INT8 || kind == INT4; }
    int zero() const { return kind == INT4 ? 8 : UNSIGNED_BYTES ? 128 : 0; }  // what stands for 0 in its bytes
    size_t bytes() const { return blocks * block_bytes + scale.size() * 4; }

    // Takes memory for the matrix; false when there is none. Rows beyond N stay zero.
    bool shape(Kind k, int n, int columns_) {
        kind = k, rows = n, columns = columns_, blocks = (n + LANES - 1) / LANES;
        size_t K = columns_;
        block_bytes = k == FLOAT32 ? K * LANES * 4 : k == BFLOAT16 ? K * LANES * 2 : k == INT8 ? K * LANES : K / GROUP * INT4_GROUP;
        data = aligned_bytes(blocks * block_bytes);
        if (k == INT8) scale.assign(size_t(blocks) * LANES, 0.0f);
        return data != nullptr;
    }

    // Rows first .. first + n of the matrix from row-major floats.
    void pack_floats(const float* w, int first, int n) {
        for (int i = 0; i < n; i++) {
            int row = first + i, lane = row % LANES;
            uint8_t* at = data.get() + size_t(row / LANES) * block_bytes;
            const float* from = w + size_t(i) * columns;
            for (int k = 0; k < columns; k++) {
                size_t place = size_t(k) * LANES + lane;
                if (kind == FLOAT32)
                    std::memcpy(at + place * 4, from + k, 4);
                else {
                    uint16_t h = float_to_bf16(from[k]);
                    std::memcpy(at + place * 2, &h, 2);
                }
            }
        }
    }

    // Signed bytes [n, K] and a scale a row.
    void pack_int8(const int8_t* q, const float* s, int first, int n) {
        for (int i = 0; i < n; i++) {
            int row = first + i, lane = row % LANES;
            uint8_t* at = data.get() + size_t(row / LANES) * block_bytes;
            for (int k = 0; k < columns; k++)
                at[size_t(k / 4) * UNIT + lane * 4 + k % 4] = uint8_t(q[size_t(i) * columns + k]) ^ (UNSIGNED_BYTES ? 0x80 : 0);
            scale[row] = s[i];
        }
    }

    // Values -8 to 7 as signed bytes [n, K], and a scale for every 32 of a row, [n, K / 32].
    void pack_int4(const int8_t* q, const float* s, int first, int n) {
        for (int i = 0; i < n; i++) {
            int row = first + i, lane = row % LANES;
            uint8_t* at = data.get() + size_t(row / LANES) * block_bytes;
            for (int g = 0; g < columns / GROUP; g++, at += INT4_GROUP) {
                const int8_t* from = q + size_t(i) * columns + g * GROUP;
                for (int k = 0; k < 16; k++)
                    at[k / 4 * UNIT + lane * 4 + k % 4] = uint8_t((from[k] + 8) | (from[k + 16] + 8) << 4);
                uint16_t h = float_to_half(s[size_t(i) * (columns / GROUP) + g]);
                std::memcpy(at + 4 * UNIT + lane * 2, &h, 2);
            }
        }
    }

    // One row as floats: the embedding of a token.
    void row(int n, float* out) const {
        const uint8_t* at = block(n / LANES);
        int lane = n % LANES;
        for (int k = 0; k < columns; k++) {
            if (kind == FLOAT32)
                std::memcpy(out + k, at + (size_t(k) * LANES + lane) * 4, 4);
            else if (kind == BFLOAT16) {
                uint16_t h;
                std::memcpy(&h, at + (size_t(k) * LANES + lane) * 2, 2);
                out[k] = bf16_to_float(h);
            } else if (kind == INT8) {
                uint8_t byte = at[size_t(k / 4) * UNIT + lane * 4 + k % 4] ^ (UNSIGNED_BYTES ? 0x80 : 0);
                out[k] = float(int8_t(byte)) * scale[n];
            } else {
                const uint8_t* group = at + size_t(k / GROUP) * INT4_GROUP;
                int j = k % GROUP;
                uint8_t byte = group[j % 16 / 4 * UNIT + lane * 4 + j % 4];
                uint16_t h;
                std::memcpy(&h, group + 4 * UNIT + lane * 2, 2);
                out[k] = float((j < 16 ? byte & 15 : byte >> 4) - 8) * half_to_float(h);
            }
        }
    }
};

// Rows of x, rounded to bytes in groups of 32:  x[m, k] ~ scale[m, k / 32] * q[m, k].
struct Rounded {
    int8_t* q;        // [M, K]
    float* scale;     // [M, K / 32]
    int32_t* excess;  // [M, K / 32]: the weights' zero times the sum of a group's q
    int columns, zero;

    static size_t bytes(int m, int columns) { return size_t(m) * columns + size_t(m) * (columns / GROUP) * 8 + 64; }

    static Rounded in(uint8_t* memory, int m, int columns, int zero) {
        Rounded r;
        r.columns = columns, r.zero = zero;
        r.scale = (float*)memory;
        r.excess = (int32_t*)(r.scale + size_t(m) * (columns / GROUP));
        r.q = (int8_t*)(r.excess + size_t(m) * (columns / GROUP));
        return r;
    }

    void round_row(int m, const float* x) const {
        for (int g = 0; g < columns / GROUP; g++) {
            const float* from = x + g * GROUP;
            Floats top = {}, poison = {};
            for (int i = 0; i < GROUP; i += LANES) {
                Floats v = load(from + i);
                top = larger(top, larger(v, -v));
                poison = fma(v, Floats{}, poison);  // 0, or NaN where x has an infinity or a NaN
            }
            float most = largest(top);
            float step = most / 127.0f + sum(poison), inverse = most > 0 ? 127.0f / most : 0.0f;
            int8_t* to = q + size_t(m) * columns + g * GROUP;
            const Floats magic = all(12582912.0f);
            Ints total = {};
            for (int i = 0; i < GROUP; i += LANES) {
                // Adding 1.5 * 2^23 leaves the nearest whole number in the low bits.
                Ints whole = (Ints)fma(load(from + i), all(inverse), magic) - (Ints)magic;
                total += whole;
                typedef int8_t Bytes __attribute__((vector_size(LANES)));
                Bytes bytes = __builtin_convertvector(whole, Bytes);
                std::memcpy(to + i, &bytes, LANES);
            }
            int32_t s = 0;
            for (int i = 0; i < LANES; i++) s += total[i];
            scale[size_t(m) * (columns / GROUP) + g] = step;
            excess[size_t(m) * (columns / GROUP) + g] = zero * s;
        }
    }
};

inline int32_t four_bytes(const int8_t* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

// ---- one group of 32 k of one block against M rows of x, `stride` bytes apart: exact integers [M][LANES] --------------

#if defined(__AVX512VNNI__) && DANLU_LANES == 16

template <int M>
inline void dot_int4(const uint8_t* w, const int8_t* x, size_t stride, Ints* dot) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int m = 0; m < M; m++) dot[m] = Ints{};
    for (int j = 0; j < 4; j++) {
        __m512i both = _mm512_loadu_si512(w + j * UNIT);
        __m512i first = _mm512_and_si512(both, low), second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
        for (int m = 0; m < M; m++) {
            __m512i d = _mm512_dpbusd_epi32((__m512i)dot[m], first, _mm512_set1_epi32(four_bytes(x + m * stride + 4 * j)));
            dot[m] = (Ints)_mm512_dpbusd_epi32(d, second, _mm512_set1_epi32(four_bytes(x + m * stride + 16 + 4 * j)));
        }
    }
}

template <int M>
inline void dot_int8(const uint8_t* w, const int8_t* x, size_t stride, Ints* dot) {
    for (int m = 0; m < M; m++) dot[m] = Ints{};
    for (int j = 0; j < 8; j++) {
        __m512i bytes = _mm512_loadu_si512(w + j * UNIT);
        for (int m = 0; m < M; m++)
            dot[m] = (Ints)_mm512_dpbusd_epi32((__m512i)dot[m], bytes, _mm512_set1_epi32(four_bytes(x + m * stride + 4 * j)));
    }
}

#elif defined(__AVX2__) && DANLU_LANES == 8

// A pair of nibbles times bytes is at most 2 * 15 * 127 = 3,810, and eight of them still fit in 16 bits.
template <int M>
inline void dot_int4(const uint8_t* w, const int8_t* x, size_t stride, Ints* dot) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i pairs[M];
    for (int m = 0; m < M; m++) pairs[m] = _mm256_setzero_si256();
    for (int j = 0; j < 4; j++) {
        __m256i both = _mm256_loadu_si256((const __m256i*)(w + j * UNIT));
        __m256i first = _mm256_and_si256(both, low), second = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        for (int m = 0; m < M; m++) {
            __m256i a = _mm256_maddubs_epi16(first, _mm256_set1_epi32(four_bytes(x + m * stride + 4 * j)));
            __m256i b = _mm256_maddubs_epi16(second, _mm256_set1_epi32(four_bytes(x + m * stride + 16 + 4 * j)));
            pairs[m] = _mm256_add_epi16(pairs[m], _mm256_add_epi16(a, b));
            asm("" : "+x"(pairs[m]));  // add it now: gcc would do all products first and keep them in memory
        }
    }
    for (int m = 0; m < M; m++) dot[m] = (Ints)_mm256_madd_epi16(pairs[m], ones);
}

// |w| times x with the sign of w: a pair is at most 2 * 127 * 127 = 32,258, which fits; two pairs would not.
template <int M>
inline void dot_int8(const uint8_t* w, const int8_t* x, size_t stride, Ints* dot) {
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i d[M];
    for (int m = 0; m < M; m++) d[m] = _mm256_setzero_si256();
    for (int j = 0; j < 8; j++) {
        __m256i bytes = _mm256_loadu_si256((const __m256i*)(w + j * UNIT));
        __m256i size = _mm256_abs_epi8(bytes);
        for (int m = 0; m < M; m++) {
            __m256i turned = _mm256_sign_epi8(_mm256_set1_epi32(four_bytes(x + m * stride + 4 * j)), bytes);
            d[m] = _mm256_add_epi32(d[m], _mm256_madd_epi16(_mm256_maddubs_epi16(size, turned), ones));
        }
    }
    for (int m = 0; m < M; m++) dot[m] = (Ints)d[m];
}

#else

template <int M>
inline void dot_int4(const uint8_t* w, const int8_t* x, size_t stride, Ints* dot) {
    for (int m = 0; m < M; m++)
        for (int lane = 0; lane < LANES; lane++) {
            int32_t d = 0;
            for (int k = 0; k < 16; k++) {
                uint8_t both = w[k / 4 * UNIT + lane * 4 + k % 4];
                d += (both & 15) * x[m * stride + k] + (both >> 4) * x[m * stride + k + 16];
            }
            dot[m][lane] = d;
        }
}

template <int M>
inline void dot_int8(const uint8_t* w, const int8_t* x, size_t stride, Ints* dot) {
    for (int m = 0; m < M; m++)
        for (int lane = 0; lane < LANES; lane++) {
            int32_t d = 0;
            for (int k = 0; k < GROUP; k++) {
                uint8_t byte = w[k / 4 * UNIT + lane * 4 + k % 4];
                d += (UNSIGNED_BYTES ? int32_t(byte) : int32_t(int8_t(byte))) * x[m * stride + k];
            }
            dot[m][lane] = d;
        }
}

#endif

// One row of x: the weights come from memory, and the processor's own prefetcher starts anew with every piece of work.
template <int BYTES>
inline void ask_ahead(const uint8_t* w) {
    for (int i = 0; i < BYTES; i += 64) __builtin_prefetch(w + 1024 + i);
}

// ---- one block of W against M rows of x: [M] vectors of LANES outputs -----------------------------------------------

template <int M>
inline void block_int4(const uint8_t* w, const Rounded& x, int row, Floats* y) {
    const size_t groups = x.columns / GROUP, stride = x.columns;
    const int8_t* q = x.q + row * stride;
    const float* sx = x.scale + row * groups;
    const int32_t* excess = x.excess + row * groups;
    Floats total[M];  // local: bytes may alias anything, and y would be written and read again in every group
    for (int m = 0; m < M; m++) total[m] = Floats{};
    for (size_t g = 0; g < groups; g++, w += INT4_GROUP, q += GROUP) {
        Ints dot[M];
        if (M == 1) ask_ahead<128>(w);
        dot_int4<M>(w, q, stride, dot);
        Floats sw = load_half((const uint16_t*)(w + 4 * UNIT));
        for (int m = 0; m < M; m++) {
            Floats d = to_floats(dot[m] - excess[m * groups + g]);
            total[m] = fma(d * sx[m * groups + g], sw, total[m]);
        }
    }
    for (int m = 0; m < M; m++) y[m] = total[m];
}

template <int M>
inline void block_int8(const uint8_t* w, const float* scale, const Rounded& x, int row, Floats* y) {
    const size_t groups = x.columns / GROUP, stride = x.columns;
    const int8_t* q = x.q + row * stride;
    const float* sx = x.scale + row * groups;
    const int32_t* excess = x.excess + row * groups;
    Floats total[M];
    for (int m = 0; m < M; m++) total[m] = Floats{};
    for (size_t g = 0; g < groups; g++, w += 8 * UNIT, q += GROUP) {
        Ints dot[M];
        if (M == 1) ask_ahead<8 * UNIT>(w);
        dot_int8<M>(w, q, stride, dot);
        for (int m = 0; m < M; m++) {
            Ints d = UNSIGNED_BYTES ? dot[m] - excess[m * groups + g] : dot[m];
            total[m] = fma(to_floats(d), all(sx[m * groups + g]), total[m]);
        }
    }
    Floats sw = load(scale);
    for (int m = 0; m < M; m++) y[m] = total[m] * sw;
}

// B blocks at once, so that there are enough independent sums to keep the multipliers busy.
template <int M, int B, Kind kind>
inline void blocks_float(const Matrix& w, int block, const float* x, size_t stride, Floats (*y)[B]) {
    const uint8_t* at[B];
    for (int b = 0; b < B; b++) at[b] = w.block(block + b);
    Floats sums[M][B];
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++) sums[m][b] = Floats{};
    constexpr int width = kind == FLOAT32 ? 4 : 2;
    for (int k = 0; k < w.columns; k++) {
        Floats v[B];
        for (int b = 0; b < B; b++) {
            const uint8_t* p = at[b] + size_t(k) * LANES * width;
            v[b] = kind == FLOAT32 ? load((const float*)p) : load_bf16((const uint16_t*)p);
        }
        for (int m = 0; m < M; m++) {
            Floats xm = all(x[m * stride + k]);
            for (int b = 0; b < B; b++) sums[m][b] = fma(v[b], xm, sums[m][b]);
        }
    }
    for (int m = 0; m < M; m++)
        for (int b = 0; b < B; b++) y[m][b] = sums[m][b];
}

// ---- y (+)= x W^T for some blocks and all rows ----------------------------------------------------------------------

// What is done with LANES outputs of row m, beginning with column n.
template <class Sink>
inline void multiply_quantised(const Matrix& w, int block, const Rounded& x, int m_rows, Sink sink) {
    const uint8_t* data = w.block(block);
    const float* scale = w.kind == INT8 ? w.scale.data() + size_t(block) * LANES : nullptr;
    by_tiles<4>(m_rows, [&](auto size, int row) {
        constexpr int M = decltype(size)::value;
        Floats y[M];
        if (w.kind == INT4)
            block_int4<M>(data, x, row, y);
        else
            block_int8<M>(data, scale, x, row, y);
        for (int m = 0; m < M; m++) sink(row + m, block * LANES, y[m]);
    });
}

template <Kind kind, int B, class Sink>
inline void multiply_blocks(const Matrix& w, int block, const float* x, size_t stride, int m_rows, Sink sink) {
    by_tiles<6>(m_rows, [&](auto size, int row) {
        constexpr int M = decltype(size)::value;
        Floats y[M][B];
        blocks_float<M, B, kind>(w, block, x + size_t(row) * stride, stride, y);
        for (int m = 0; m < M; m++)
            for (int b = 0; b < B; b++) sink(row + m, (block + b) * LANES, y[m][b]);
    });
}

}  // namespace danlu
