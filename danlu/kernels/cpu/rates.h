// What a team could do at best: the physical limits that speeds are held against.
//
// `check` receives a sum of what was computed, so that nothing is left out.

#pragma once

#include <chrono>

#include "product.h"
#include "team.h"

namespace danlu {

// Seconds that the team takes for work(worker), which returns a vector.
template <class F>
inline double seconds_of(Team& team, float* check, F work) {
    std::vector<Floats> sums(team.size());
    const auto begin = std::chrono::steady_clock::now();
    team.run([&](int worker) { sums[worker] = work(worker); });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    *check = 0;
    for (const Floats& one : sums) *check += sum(one);
    return seconds;
}

// Bytes per second of reading `size` bytes, more than any cache holds, in the way weights are read: each member its own
// part from end to end, from large pages, asked for ahead. The limit of decoding. 0 where there is no such memory.
inline double read_rate(Team& team, int64_t size, float* check) {
    Arena arena;
    const uint8_t* data = arena.take(size_t(size) + AHEAD);
    if (!data) return 0;
    const int64_t part = size / team.size() / UNIT * UNIT;
    const double seconds = seconds_of(team, check, [&](int worker) {
        Floats total = {};
        const uint8_t* at = data + worker * part;
        for (int64_t i = 0; i < part; i += UNIT, at += UNIT) {
            ask_ahead<UNIT>(at);
            total += load((const float*)at);
        }
        return total;
    });
    return double(part * team.size()) / seconds;
}

// Operations per second of multiplying and adding float32 on registers, `rounds` times: no product of matrices in
// float32 can be faster.
inline double multiply_rate(Team& team, int64_t rounds, float* check) {
    constexpr int CHAINS = 12;
    const double seconds = seconds_of(team, check, [&](int worker) {
        const Floats x = all(0.5f + float(worker)), y = all(0.25f);
        Floats total[CHAINS];
        for (int c = 0; c < CHAINS; c++) total[c] = all(float(c));
        for (int64_t i = 0; i < rounds; i++)
            for (int c = 0; c < CHAINS; c++) total[c] = fma(total[c], y, x);
        for (int c = 1; c < CHAINS; c++) total[0] += total[c];
        return total[0];
    });
    return 2.0 * LANES * CHAINS * double(rounds) * team.size() / seconds;
}

}  // namespace danlu
