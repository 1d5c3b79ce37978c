// Weight matrices laid out for the machine; product.h multiplies them.
//
// W [N, K] is cut into blocks of LANES rows. Inside a block the rows are interleaved, so that one load gives the same k
// of every row and one vector accumulates one output of each:
//
//     float32     [k][row]
//     bfloat16    [k][row]; in pairs, [k / 2][row][2], where an instruction multiplies and adds two at once (vdpbf16ps)
//     int8        [k / 4][row][4]                                         and one float32 scale a row
//     int4        [group of 32][4][row][4]: two nibbles a byte, k and k + 16; then [group][row] float16 scales
//                 and, if the groups have offsets, [group][row] float16 offsets
//
// Four neighbouring k of one row stand in 32 bits because that is what an instruction multiplies and adds at once
// (vpdpbusd; vpmaddubsw + vpmaddwd before it). A nibble is stored as q + 8, 0 to 15, and where the instruction wants an
// unsigned operand a byte as q + 128. Four bits mean s q, or s q + m with an offset m for each group: symmetric formats
// have none, and files with a smallest value for each group (Q4_1, Q4_K, AWQ, GPTQ) need it.

#pragma once

#include "lanes.h"
#include "memory.h"

namespace danlu {

enum Kind : int { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT4 = 3 };

#if defined(__AVX512VNNI__) && DANLU_LANES == 16
constexpr bool UNSIGNED_BYTES = true;
#else
constexpr bool UNSIGNED_BYTES = false;
#endif

#if defined(__AVX512BF16__) && DANLU_LANES == 16
constexpr bool BFLOAT16_PAIRS = true;
#else
constexpr bool BFLOAT16_PAIRS = false;
#endif

constexpr int UNIT = LANES * 4;        // bytes of four k of every row
constexpr int INT4_GROUP = 4 * UNIT;   // bytes of one group of one block, without its scales

struct Matrix {
    Kind kind = FLOAT32;
    int rows = 0, columns = 0, blocks = 0;  // N, K, ceil(N / LANES)
    bool offsets = false;                   // int4: whether its groups have them
    size_t block_bytes = 0;
    uint8_t* data = nullptr;  // in an arena
    Array<float> scale;  // int8: one a row, padded to whole blocks
    Array<float> bias;   // empty, or one a row, padded

    const uint8_t* block(int b) const { return data + size_t(b) * block_bytes; }
    size_t half_scales() const { return size_t(columns / GROUP) * INT4_GROUP; }  // where those of an int4 block begin
    size_t half_offsets() const { return size_t(columns / GROUP) * (INT4_GROUP + LANES * 2); }
    size_t bfloat16_place(int k, int lane) const {  // in numbers, not bytes
        return BFLOAT16_PAIRS ? (size_t(k / 2) * LANES + lane) * 2 + k % 2 : size_t(k) * LANES + lane;
    }
    bool quantised() const { return kind == INT8 || kind == INT4; }
    int zero() const { return kind == INT4 ? 8 : UNSIGNED_BYTES ? 128 : 0; }  // what stands for 0 in its bytes
    size_t bytes() const { return blocks * block_bytes + scale.size() * 4; }

    // Takes memory for the matrix; false when there is none. Rows beyond N stay zero.
    bool shape(Kind k, int n, int columns_, Arena& arena, bool with_offsets = false) {
        kind = k, rows = n, columns = columns_, blocks = (n + LANES - 1) / LANES, offsets = with_offsets;
        size_t K = columns_, groups = K / GROUP;
        block_bytes = k == FLOAT32    ? K * LANES * 4
                      : k == BFLOAT16 ? (K + K % 2) * LANES * 2
                      : k == INT8     ? K * LANES
                                      : groups * (INT4_GROUP + LANES * (offsets ? 4 : 2));
        block_bytes = (block_bytes + 63) / 64 * 64;  // loads of whole cache lines
        data = arena.take(blocks * block_bytes);
        if (k == INT8) scale.assign(size_t(blocks) * LANES, 0.0f);
        return data != nullptr;
    }

    // Rows first .. first + n of the matrix from row-major floats.
    void pack_floats(const float* w, int first, int n) {
        for (int i = 0; i < n; i++) {
            int row = first + i, lane = row % LANES;
            uint8_t* at = data + size_t(row / LANES) * block_bytes;
            const float* from = w + size_t(i) * columns;
            for (int k = 0; k < columns; k++) {
                if (kind == FLOAT32)
                    std::memcpy(at + (size_t(k) * LANES + lane) * 4, from + k, 4);
                else {
                    uint16_t h = float_to_bf16(from[k]);
                    std::memcpy(at + bfloat16_place(k, lane) * 2, &h, 2);
                }
            }
        }
    }

    // Signed bytes [n, K] and a scale a row.
    void pack_int8(const int8_t* q, const float* s, int first, int n) {
        for (int i = 0; i < n; i++) {
            int row = first + i, lane = row % LANES;
            uint8_t* at = data + size_t(row / LANES) * block_bytes;
            for (int k = 0; k < columns; k++)
                at[size_t(k / 4) * UNIT + lane * 4 + k % 4] = uint8_t(q[size_t(i) * columns + k]) ^ (UNSIGNED_BYTES ? 0x80 : 0);
            scale[row] = s[i];
        }
    }

    // Values -8 to 7 as signed bytes [n, K], and a scale for every 32 of a row, [n, K / 32]; offsets m likewise, or null.
    void pack_int4(const int8_t* q, const float* s, const float* m, int first, int n) {
        const int groups = columns / GROUP;
        for (int i = 0; i < n; i++) {
            int row = first + i, lane = row % LANES;
            uint8_t* at = data + size_t(row / LANES) * block_bytes;
            uint16_t* scales = (uint16_t*)(at + half_scales()) + lane;
            uint16_t* shifts = (uint16_t*)(at + half_offsets()) + lane;
            for (int g = 0; g < groups; g++, at += INT4_GROUP) {
                const int8_t* from = q + size_t(i) * columns + g * GROUP;
                for (int k = 0; k < 16; k++)
                    at[k / 4 * UNIT + lane * 4 + k % 4] = uint8_t((from[k] + 8) | (from[k + 16] + 8) << 4);
                scales[g * LANES] = float_to_half(s[size_t(i) * groups + g]);
                if (m) shifts[g * LANES] = float_to_half(m[size_t(i) * groups + g]);
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
                std::memcpy(&h, at + bfloat16_place(k, lane) * 2, 2);
                out[k] = bf16_to_float(h);
            } else if (kind == INT8) {
                uint8_t byte = at[size_t(k / 4) * UNIT + lane * 4 + k % 4] ^ (UNSIGNED_BYTES ? 0x80 : 0);
                out[k] = float(int8_t(byte)) * scale[n];
            } else {
                const uint8_t* group = at + size_t(k / GROUP) * INT4_GROUP;
                int j = k % GROUP;
                uint8_t byte = group[j % 16 / 4 * UNIT + lane * 4 + j % 4];
                size_t place = size_t(k / GROUP) * LANES + lane;
                const uint16_t* scales = (const uint16_t*)(at + half_scales());
                const uint16_t* shifts = (const uint16_t*)(at + half_offsets());
                out[k] = float((j < 16 ? byte & 15 : byte >> 4) - 8) * half_to_float(scales[place]);
                if (offsets) out[k] += half_to_float(shifts[place]);
            }
        }
    }
};

}  // namespace danlu
