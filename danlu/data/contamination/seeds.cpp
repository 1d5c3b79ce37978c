// Seeds: runs of `width` units that a text shares with any item of an index.
//
// One pass over UTF-8: decode, fold, cut into units, hash each unit, roll the hash of the last `width` units, ask a
// blocked Bloom filter, and only where it says "perhaps" look into the sorted keys. Same numbers as units.py/seeds.py.
//
//   filter   2^log_words words of 64 bits; a key sets two bits of one word     one cache line a question
//   keys     uint64 [n_keys], ascending
#include <algorithm>
#include <cstdint>

namespace {
constexpr uint64_t FACTOR = 0x9E3779B97F4A7C15ull, MIXER = 0xC2B2AE3D27D4EB4Full;
constexpr int LONGEST = 64;
constexpr uint32_t CODE_POINTS = 0x40000;

inline uint64_t mixed(uint64_t h) { return (h ^ (h >> 32)) * MIXER; }

// One code point; anything that is no UTF-8 is a character of its own that belongs to no unit.
inline uint32_t decode(const uint8_t*& p, const uint8_t* end) {
    const uint32_t first = *p++;
    if (first < 0x80) return first;
    const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
    if (more == 0 || end - p < more) return CODE_POINTS - 1;
    uint32_t code = first & (0x3F >> more);
    for (int i = 0; i < more; ++i) code = code << 6 | (*p++ & 0x3F);
    return std::min(code, CODE_POINTS - 1);
}
}  // namespace

// Hits of `count` texts laid end to end at offsets[0..count]: (text, unit, seed) of each. Returns how many there are,
// writes the first `capacity` of them.
extern "C" int64_t danlu_find_seeds(const uint8_t* bytes, const int64_t* offsets, int64_t count,
                                    const uint32_t* folded, const uint8_t* kinds, const uint64_t* filter,
                                    int log_words, const uint64_t* keys, int64_t n_keys, int width, int32_t* texts,
                                    int32_t* units, int32_t* seeds, int64_t capacity) {
    int64_t found = 0;
    uint64_t top = 1;  // FACTOR^(width-1): what the oldest unit was multiplied by
    for (int i = 1; i < width; ++i) top *= FACTOR;
    uint64_t ring[64] = {};
    for (int64_t text = 0; text < count; ++text) {
        const uint8_t* p = bytes + offsets[text];
        const uint8_t* const end = bytes + offsets[text + 1];
        uint64_t rolled = 0, hash = 0;
        int length = 0, at = 0;  // of the open run; of the ring
        int32_t unit = 0;
        const auto close = [&](uint64_t value) {
            value = mixed(value);
            if (unit >= width) rolled -= ring[at] * top;
            rolled = rolled * FACTOR + value;
            ring[at] = value;
            at = at + 1 == width ? 0 : at + 1;
            if (++unit < width) return;
            const uint64_t key = mixed(rolled);
            const uint64_t word = filter[key >> (64 - log_words)];
            if (!(word >> (key & 63) & word >> (key >> 6 & 63) & 1)) return;
            const uint64_t* const place = std::lower_bound(keys, keys + n_keys, key);
            if (place == keys + n_keys || *place != key) return;
            if (found < capacity) {
                texts[found] = static_cast<int32_t>(text);
                units[found] = unit - width;
                seeds[found] = static_cast<int32_t>(place - keys);
            }
            ++found;
        };
        while (p < end) {
            const uint32_t code = decode(p, end);
            const uint8_t kind = kinds[code];
            if (kind == 1) {
                if (length < LONGEST) hash = hash * FACTOR + folded[code];
                ++length;
                continue;
            }
            if (length) close(hash), hash = 0, length = 0;
            if (kind == 2) close(folded[code]);
        }
        if (length) close(hash);
    }
    return found;
}
