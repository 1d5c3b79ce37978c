// MinHash: the least of every permutation over the shingles of a document. danlu/data/dedup/signature.py is the definition.
//
// With 512-bit vectors the minima, factors and summands of all 128 permutations are 24 registers, so a shingle costs 8
// multiplications, additions and minima and nothing is loaded or stored. With fewer registers the shingles are walked in
// as many rounds as it takes.

#pragma once

#include <cstdint>
#include <vector>

#include "text.h"

namespace danlu {

constexpr int PERMUTATIONS = 128;

#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 8;
#elif defined(__AVX2__)
constexpr int LANES = 8, VECTORS = 4;
#else
constexpr int LANES = 4, VECTORS = 4;
#endif
typedef uint32_t Lanes __attribute__((vector_size(LANES * 4)));

template <int N>
inline void shingles_of(const uint64_t* units, size_t count, int n, uint32_t* out) {
    for (size_t i = 0; i < count; i++) {
        uint64_t rolled = 0;
        for (int k = 0; k < (N ? N : n); k++) rolled = rolled * FACTOR + units[i + k];
        rolled ^= rolled >> 32;
        out[i] = uint32_t((rolled * FACTOR_2) >> 32);
    }
}

// out[k] = min over shingles s of a[k] s + b[k].
inline void minima(const uint32_t* shingles, size_t count, const uint32_t* a, const uint32_t* b, uint32_t* out) {
    for (int from = 0; from < PERMUTATIONS; from += LANES * VECTORS) {
        Lanes factor[VECTORS], summand[VECTORS], least[VECTORS];
        for (int v = 0; v < VECTORS; v++) {
            std::memcpy(&factor[v], a + from + v * LANES, sizeof(Lanes));
            std::memcpy(&summand[v], b + from + v * LANES, sizeof(Lanes));
            least[v] = Lanes{} - 1;
        }
        for (size_t i = 0; i < count; i++) {
            Lanes shingle = Lanes{} + shingles[i];
            for (int v = 0; v < VECTORS; v++) {
                Lanes x = factor[v] * shingle + summand[v];
                least[v] = x < least[v] ? x : least[v];
            }
        }
        for (int v = 0; v < VECTORS; v++) std::memcpy(out + from + v * LANES, &least[v], sizeof(Lanes));
    }
}

// The shingles of a document with units, in the order of the text.
inline void shingle(const std::vector<uint64_t>& units, int n, std::vector<uint32_t>& shingles) {
    if (size_t(n) > units.size()) n = int(units.size());
    size_t count = units.size() - n + 1;
    shingles.resize(count);
    if (n == 3) shingles_of<3>(units.data(), count, n, shingles.data());
    else if (n == 5) shingles_of<5>(units.data(), count, n, shingles.data());
    else shingles_of<0>(units.data(), count, n, shingles.data());
}

// The signature of a document with units; `shingles` is room to work in.
inline void signature(
    const std::vector<uint64_t>& units, int n, const uint32_t* a, const uint32_t* b, std::vector<uint32_t>& shingles,
    uint32_t* out
) {
    shingle(units, n, shingles);
    minima(shingles.data(), shingles.size(), a, b, out);
}

}  // namespace danlu
