// Reading UTF-8: what a code point is, its lower case, and its bytes.
//
// All knowledge of Unicode comes from Python (danlu/data/classes.py): a class for each code point, bits for each class.
// The bytes are what Python's str.encode makes (half surrogates included), and are followed by PADDING zero bytes; even
// bytes that are no UTF-8 are read to the end and never past the padding.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace danlu {

constexpr int PADDING = 64;

// The bits of a class, in the order of FLAGS in classes.py.
enum Flag : uint32_t {
    WORD = 1 << 0,
    UNSPACED = 1 << 1,
    SPACE = 1 << 2,
    SYMBOL = 1 << 3,
    ALPHA = 1 << 4,
    UPPER = 1 << 5,
    SPLITS = 1 << 6,
    HAN = 1 << 7,
    TERMINAL = 1 << 8,
    BULLET = 1 << 9,
    SENTENCE = 1 << 10,
    WIDE = 1 << 11,
    CLAUSE = 1 << 12,
    CLOSER = 1 << 13,
    DOT = 1 << 14,
    ELLIPSIS = 1 << 15,
    HASH = 1 << 16,
    CURLY = 1 << 17,
    REPLACEMENT = 1 << 18,
    NEWLINE = 1 << 19,
};

// As `Classes` in classes.py.
struct Classes {
    const uint16_t* page_of;  // [4352]
    const uint8_t* classes;   // [P][256]
    const uint32_t* flags;    // [256]
    const uint32_t* lower;    // [P][256], to be added modulo 2^32

    size_t place(uint32_t code) const { return code < 0x110000 ? size_t(page_of[code >> 8]) << 8 | (code & 255) : 0; }
};

// The code point at p and how many bytes it has.
inline uint32_t decode(const uint8_t* p, int& size) {
    uint32_t lead = p[0];
    if (lead < 0x80) return size = 1, lead;
    if (lead < 0xe0) return size = 2, (lead & 0x1f) << 6 | (p[1] & 0x3f);
    if (lead < 0xf0) return size = 3, (lead & 0x0f) << 12 | (p[1] & 0x3f) << 6 | (p[2] & 0x3f);
    return size = 4, (lead & 0x07) << 18 | (p[1] & 0x3f) << 12 | (p[2] & 0x3f) << 6 | (p[3] & 0x3f);
}

struct Character {
    uint32_t lower;  // its code point in lower case
    uint32_t flags;
    uint8_t kind;  // its class
    uint8_t size;  // bytes
};

// Characters of ASCII are ready-made: one load instead of four, each waiting for the one before.
class Alphabet {
  public:
    explicit Alphabet(const Classes& classes) : classes(classes) {
        for (int code = 0; code < 128; code++) {
            uint8_t bytes[4] = {uint8_t(code)};
            ascii[code] = look_up(bytes);
        }
    }

    Character read(const uint8_t* p) const { return *p < 128 ? ascii[*p] : look_up(p); }

    const Classes classes;

  private:
    Character look_up(const uint8_t* p) const {
        int size;
        uint32_t code = decode(p, size);
        size_t place = classes.place(code);
        uint8_t kind = classes.classes[place];
        uint32_t flags = classes.flags[kind];
        if (flags & UPPER) code += classes.lower[place];
        return {code, flags, kind, uint8_t(size)};
    }

    Character ascii[128];
};

constexpr uint64_t SEED = 0x27D4EB2F165667C5, FACTOR = 0x9E3779B97F4A7C15, FACTOR_2 = 0xC2B2AE3D27D4EB4F;

// 64 bits over bytes, eight at a time: for lines, which are compared within a text and across a corpus.
inline uint64_t hash_bytes(const uint8_t* p, size_t n) {
    uint64_t value = SEED ^ (n * FACTOR), word;
    for (; n >= 8; p += 8, n -= 8) {
        std::memcpy(&word, p, 8);
        value = (value ^ word) * FACTOR;
        value ^= value >> 32;
    }
    word = 0;
    for (size_t i = 0; i < n; i++) word |= uint64_t(p[i]) << (8 * i);
    value = (value ^ word) * FACTOR;
    value = (value ^ value >> 32) * FACTOR_2;
    return value ^ value >> 29;
}

}  // namespace danlu
