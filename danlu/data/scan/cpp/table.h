// Numbering: the first key gets 0, the next new one 1, and so on. Open addressing; slots hold numbers and keys lie dense,
// so that a table for a page of text stays in the first cache and is emptied by clearing a few kilobytes.

#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

namespace danlu {

class Numbers {
  public:
    // Forget everything and make room for `most` keys.
    void clear(size_t most) {
        size_t size = 16;
        while (size < 2 * most) size *= 2;
        if (slots.size() < size) slots.resize(size);
        std::memset(slots.data(), 0, size * sizeof(uint32_t));
        mask = size - 1, shift = 64 - __builtin_ctzll(size);
        keys.clear(), counts.clear();
    }

    // The number of a key; `counts` tells how often each was asked for.
    uint32_t add(uint64_t key) {
        for (size_t slot = (key * 0x9E3779B97F4A7C15) >> shift;; slot = (slot + 1) & mask) {
            uint32_t number = slots[slot];
            if (number == 0) {
                keys.push_back(key), counts.push_back(1);
                slots[slot] = keys.size();
                return keys.size() - 1;
            }
            if (keys[number - 1] == key) {
                counts[number - 1]++;
                return number - 1;
            }
        }
    }

    std::vector<uint64_t> keys;
    std::vector<uint32_t> counts;

  private:
    std::vector<uint32_t> slots;
    size_t mask = 0;
    int shift = 64;
};

}  // namespace danlu
