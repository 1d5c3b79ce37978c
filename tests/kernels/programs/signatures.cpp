// The least of each permutation of a document's shingles (danlu/data/scan/cpp/signature.h) against a loop over each.

#include <cstring>

#include "signature.h"

#include "check.h"

int main() {
    auto random = [] { return uint32_t(int32_t(draw() * 8388608)) * 2654435761u; };
    std::vector<uint32_t> a, b;
    for (int i = 0; i < danlu::PERMUTATIONS; i++) a.push_back(random() | 1), b.push_back(random());
    for (size_t count : {1, 2, 17, 1000}) {
        std::vector<uint32_t> shingles, found(danlu::PERMUTATIONS);
        while (shingles.size() < count) shingles.push_back(random());
        danlu::minima(shingles.data(), count, a.data(), b.data(), found.data());
        for (int i = 0; i < danlu::PERMUTATIONS; i++) {
            uint32_t least = 0xffffffff;
            for (uint32_t shingle : shingles) least = std::min(least, a[i] * shingle + b[i]);
            check(found[i] == least, "the least of permutation " + std::to_string(i));
        }
    }
    return verdict("signatures");
}
