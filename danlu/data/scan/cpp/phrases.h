// Counting phrases: a filter on four bytes, then a comparison.
//
// Letters a-z are looked for in both cases. Four bytes with the bit of case set (which muddles other bytes, equally in text
// and phrase) are hashed into 4,096 places; at one place in some fifty a phrase may begin, and there all phrases of that
// place are compared. Kinds are counted apart; phrases of one kind do not overlap, the first in the list wins.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "text.h"

namespace danlu {

constexpr int KINDS = 8;

class Phrases {
  public:
    // bytes: all phrases joined, in lower case; offsets [count + 1]; kinds [count].
    Phrases(const uint8_t* bytes, const int64_t* offsets, const uint8_t* kinds, int count) {
        for (int i = 0; i < count; i++)
            list.push_back({std::string(bytes + offsets[i], bytes + offsets[i + 1]), kinds[i], place(bytes + offsets[i])});
        std::stable_sort(list.begin(), list.end(), [](const Phrase& a, const Phrase& b) { return a.place < b.place; });
        std::memset(first, 0, sizeof first);
        for (int i = count - 1; i >= 0; i--) first[list[i].place] = uint16_t(i + 1);
    }

    // counts[kind] = phrases of this kind in the text, which is followed by PADDING.
    void count(const uint8_t* begin, const uint8_t* end, uint32_t* counts) const {
        const uint8_t* free[KINDS];
        for (int kind = 0; kind < KINDS; kind++) counts[kind] = 0, free[kind] = begin;
        for (const uint8_t* p = begin; p + 4 <= end; p++) {
            int i = first[place(p)];
            if (i) [[unlikely]]
                for (uint16_t here = list[--i].place; i < int(list.size()) && list[i].place == here; i++) {
                    const Phrase& phrase = list[i];
                    if (p < free[phrase.kind] || !begins(p, end, phrase.text)) continue;
                    counts[phrase.kind]++;
                    free[phrase.kind] = p + phrase.text.size();
                }
        }
    }

  private:
    struct Phrase {
        std::string text;
        uint8_t kind;
        uint16_t place;
    };

    static uint16_t place(const uint8_t* p) {
        uint32_t word;
        std::memcpy(&word, p, 4);
        return ((word | 0x20202020) * 0x9E3779B1u) >> 20;
    }

    static bool begins(const uint8_t* p, const uint8_t* end, const std::string& text) {
        if (size_t(end - p) < text.size()) return false;
        for (char wanted : text) {
            uint8_t c = *p++;
            if (c >= 'A' && c <= 'Z') c |= 0x20;
            if (c != uint8_t(wanted)) return false;
        }
        return true;
    }

    std::vector<Phrase> list;
    uint16_t first[4096];  // number of the first phrase of this place, plus one
};

}  // namespace danlu
