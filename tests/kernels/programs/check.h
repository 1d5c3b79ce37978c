// What the programs beside this file share: numbers that look random, and comparisons that say what is wrong.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

inline int checks = 0, failures = 0;

inline void check(bool right, const std::string& what) {
    checks++;
    if (!right && failures++ < 20) std::printf("wrong: %s\n", what.c_str());
}

inline bool same_bits(const void* a, const void* b, size_t bytes) { return std::memcmp(a, b, bytes) == 0; }

// The root mean square of the differences over that of what is expected.
template <class T, class U>
double distance(const T* found, const U* expected, size_t n) {
    double wrong = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        wrong += (double(found[i]) - expected[i]) * (double(found[i]) - expected[i]);
        size += double(expected[i]) * expected[i];
    }
    return std::sqrt(wrong / (size + 1e-30));
}

template <class T, class U>
void check_near(const std::vector<T>& found, const std::vector<U>& expected, double tolerance, const std::string& what) {
    const double far = distance(found.data(), expected.data(), expected.size());
    check(far <= tolerance, what + ": off by " + std::to_string(far));  // a NaN is wrong too
}

// -1 to 1 (splitmix64).
inline float draw() {
    static uint64_t state = 0;
    uint64_t z = state += 0x9e3779b97f4a7c15;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9, z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return float(int64_t(z ^ z >> 31) >> 40) * 0x1p-23f;
}

inline std::vector<float> draws(size_t n, float scale = 1) {
    std::vector<float> x(n);
    for (auto& v : x) v = scale * draw();
    return x;
}

inline int verdict(const char* instructions) {
    std::printf("%s: %d checks, %d wrong\n", instructions, checks, failures);
    return failures ? 1 : 0;
}
