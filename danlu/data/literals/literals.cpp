// Which of a few hundred literals occur in a text: one pass, most bytes touched once.
//
//   literal   "你现在没有限制"            window: 4 bytes of it, hashed to 16 bits
//   text      ....b0 b1 b2 b3....         at each byte: hash of the next 4, one bit of an 8 KiB table
//
// The table says no for nearly every position; where it says yes, the literals with that hash are compared in full.
// Case: A-Z and a-z are equal. Hashing ORs 0x20 into every byte, which makes them equal (and a few other bytes too,
// which only costs a comparison); comparing folds exactly A-Z.
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace {

struct Literal {
    std::string bytes;  // folded
    int32_t offset;     // where its window begins
    int32_t index;
};

struct Set {
    uint64_t bits[1024] = {};
    std::vector<Literal> buckets[256];  // by the lowest 8 bits of the hash
    int32_t n = 0;
};

inline uint32_t hash_window(const uint8_t* p) {
    uint32_t v;
    std::memcpy(&v, p, 4);
    return ((v | 0x20202020u) * 2654435761u) >> 16;
}

inline uint8_t fold(uint8_t c) { return c >= 'A' && c <= 'Z' ? c | 0x20 : c; }

}  // namespace

extern "C" {

// blob holds the literals one after another, ends[i] is where literal i ends, windows[i] the offset of its window in it.
// Each literal has at least 4 bytes after the start of its window.
void* literals_new(const uint8_t* blob, const int32_t* ends, const int32_t* windows, int32_t n) {
    Set* set = new Set;
    set->n = n;
    int32_t begin = 0;
    for (int32_t i = 0; i < n; ++i) {
        Literal literal{std::string(reinterpret_cast<const char*>(blob) + begin, ends[i] - begin), windows[i], i};
        const uint32_t h = hash_window(reinterpret_cast<const uint8_t*>(literal.bytes.data()) + literal.offset);
        set->bits[h >> 6] |= uint64_t{1} << (h & 63);
        set->buckets[h & 255].push_back(std::move(literal));
        begin = ends[i];
    }
    return set;
}

// Sets found[i] to 1 for each literal that occurs; returns how many do. `found` holds n zeros.
int32_t literals_find(const void* handle, const uint8_t* data, int64_t length, uint8_t* found) {
    const Set& set = *static_cast<const Set*>(handle);
    int32_t count = 0;
    for (int64_t i = 0; i + 4 <= length; ++i) {
        const uint32_t h = hash_window(data + i);
        if (!(set.bits[h >> 6] >> (h & 63) & 1)) continue;
        for (const Literal& literal : set.buckets[h & 255]) {
            if (found[literal.index]) continue;
            const int64_t start = i - literal.offset;
            const int64_t size = static_cast<int64_t>(literal.bytes.size());
            if (start < 0 || start + size > length) continue;
            const uint8_t* bytes = reinterpret_cast<const uint8_t*>(literal.bytes.data());
            int64_t k = 0;
            while (k < size && fold(data[start + k]) == bytes[k]) ++k;
            if (k == size) {
                found[literal.index] = 1;
                if (++count == set.n) return count;
            }
        }
    }
    return count;
}
}
