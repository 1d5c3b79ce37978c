// What repeats within a document: runs of n units for n = 2 ... 16, exactly.
//
// A run of n units can occur twice only where both runs of n - 1 in it do. So level n looks only at the places where level
// n - 1 found neighbours that both repeat, and numbers pairs of their numbers: keys are exact, nothing is hashed away. In
// ordinary text a tenth of the places is left at n = 5 and next to none at 10.
//
//     level 1     a number for each different unit                        [U]
//     level n     at[i], number[i]: places whose run of n occurs twice or more, ascending

#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "table.h"

namespace danlu {

constexpr int MOST = 16;

struct Repeats {
    // Of the most frequent n-gram, the longest of those: how often, and characters of its units. Zero when none repeats.
    struct Top {
        uint32_t count = 0;
        uint64_t length = 0;
    };
    std::array<Top, MOST + 1> top;
    std::array<uint64_t, MOST + 1> duplicated;  // characters in n-grams that occurred before
    uint64_t surplus_of_5 = 0;                  // runs of five that occurred before, overlapping ones too

    Numbers units;  // level 1: keys are the units' hashes

    // hashes, lengths [count]: the units of the document.
    void find(const uint64_t* hashes, const uint32_t* lengths, size_t count) {
        top.fill({}), duplicated.fill(0), surplus_of_5 = 0;
        before.resize(count + 1);
        before[0] = 0;
        for (size_t i = 0; i < count; i++) before[i + 1] = before[i] + lengths[i];
        units.clear(count);
        number.resize(count), at.resize(count);
        for (size_t i = 0; i < count; i++) number[i] = units.add(hashes[i]), at[i] = uint32_t(i);
        keep_repeated(units);
        for (int n = 2; n <= MOST && !at.empty(); n++) {
            level(n);
            summarise(n);
            keep_repeated(runs);
        }
    }

  private:
    // From the repeated runs of n - 1 the runs of n that may repeat.
    void level(int) {
        runs.clear(at.size());
        size_t kept = 0;
        for (size_t i = 0; i + 1 < at.size(); i++) {
            if (at[i + 1] != at[i] + 1) continue;
            at[kept] = at[i];
            number[kept++] = runs.add(uint64_t(number[i]) << 32 | number[i + 1]);
        }
        at.resize(kept), number.resize(kept);
    }

    void summarise(int n) {
        Top best;
        seen.assign(runs.keys.size(), 0);
        uint64_t repeated = 0;
        size_t free = 0;  // first unit after the last run that was skipped
        for (size_t i = 0; i < at.size(); i++) {
            uint32_t run = number[i], often = runs.counts[run];
            if (often < 2) continue;
            uint64_t length = before[at[i] + n] - before[at[i]];
            if (often > best.count || (often == best.count && length > best.length)) best = {often, length};
            if (at[i] < free) continue;
            if (seen[run]) repeated += length, free = at[i] + n;
            seen[run] = 1;
        }
        top[n] = best, duplicated[n] = repeated;
        if (n == 5) surplus_of_5 = at.size() - runs.keys.size();
    }

    void keep_repeated(const Numbers& table) {
        size_t kept = 0;
        for (size_t i = 0; i < at.size(); i++) {
            at[kept] = at[i], number[kept] = number[i];
            kept += table.counts[number[i]] > 1;
        }
        at.resize(kept), number.resize(kept);
    }

    Numbers runs;
    std::vector<uint64_t> before;  // characters in the units before the i-th
    std::vector<uint32_t> at, number;
    std::vector<uint8_t> seen;
};

}  // namespace danlu
