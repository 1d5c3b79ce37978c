// Attention over pages (attention.h) against a softmax in float64 over the numbers that the pages hold.

#pragma once

#include "attention.h"
#include "check.h"

namespace {

using namespace danlu;

inline float number(float x) { return x; }
inline float number(uint16_t x) { return bf16_to_float(x); }
inline float number(int8_t x) { return float(x); }

template <class T>
void attention(int head_dim, int length, int window) {
    using F = Format<T>;
    constexpr int HEADS = 2, EACH = 7;  // rows of a head: more than one tile
    const int n_pages = (length + PAGE - 1) / PAGE, rows = HEADS * EACH;
    const std::string name = "attention, " + std::to_string(sizeof(T)) + " bytes a number, " + std::to_string(head_dim) + " wide, length " +
                             std::to_string(length) + ", window " + std::to_string(window);
    const size_t page = HEADS * F::bytes(head_dim);
    Array<uint8_t> keys(n_pages * page, 0xff), values(n_pages * page, 0xff);  // what nobody wrote is a NaN
    const Pages<T> pages{keys.data(), values.data(), page, head_dim};
    std::vector<int32_t> table(n_pages);
    for (int i = 0; i < n_pages; i++) table[i] = n_pages - 1 - i;
    std::vector<float> k = draws(size_t(HEADS) * length * head_dim, 2), v = draws(k.size());
    for (int h = 0; h < HEADS; h++) {
        const Pages<T> own{keys.data() + h * F::bytes(head_dim), values.data() + h * F::bytes(head_dim), page, head_dim};
        for (int i = 0; i < length; i++) {
            float *key = &k[(size_t(h) * length + i) * head_dim], *value = &v[(size_t(h) * length + i) * head_dim];
            const int block = table[i / PAGE], place = i % PAGE;
            keep(own, block, i, key, value);
            for (int d = 0; d < head_dim; d++) {  // from here on, the numbers that were kept
                float kept_key = number(own.key(block)[F::key_place(head_dim, place, d)]);
                float kept_value = number(own.value(block)[F::value_place(head_dim, place, d)]);
                if (F::scaled) {
                    kept_key *= F::scales(own.key(block), head_dim)[place];
                    kept_value *= F::scales(own.value(block), head_dim)[place];
                }
                const float most = F::scaled ? 2.0f / 254 + 1e-6f : sizeof(T) == 2 ? 2.0f / 256 : 0.0f;
                check(std::fabs(kept_key - key[d]) <= most && std::fabs(kept_value - value[d]) <= most, name + ": a number kept");
                key[d] = kept_key, value[d] = kept_value;
            }
        }
        clear_behind(own, table[n_pages - 1], length - 1);
    }
    const std::vector<float> q = draws(size_t(rows) * head_dim);
    Array<typename F::Factor> factors(q.size());
    as_factors(q.data(), int(q.size()), factors.data());
    int at[TILE];
    for (int r = 0; r < rows; r++) at[r] = std::max(0, length - 1 - r % EACH);
    std::vector<float> whole(q.size());
    Array<float> o(q.size());
    Partial joined[TILE], part[TILE];
    for (int split = 0; split * SPLIT < length; split++) {
        attend_split(pages, HEADS, table.data(), split, factors.data(), at, rows, window, o.data(), part);
        for (int r = 0; r < rows; r++) join(&whole[r * head_dim], joined[r], &o[r * head_dim], part[r], head_dim);
    }
    std::vector<double> expected(q.size());
    for (int r = 0; r < rows; r++) {
        const int h = r / EACH, first = window ? std::max(0, at[r] - window + 1) : 0;
        std::vector<double> weights(at[r] + 1);
        double most = -1e300, total = 0;
        for (int i = first; i <= at[r]; i++) {
            for (int d = 0; d < head_dim; d++) weights[i] += double(q[r * head_dim + d]) * k[(size_t(h) * length + i) * head_dim + d];
            most = std::max(most, weights[i]);
        }
        for (int i = first; i <= at[r]; i++) total += weights[i] = std::exp(weights[i] - most);
        for (int i = first; i <= at[r]; i++)
            for (int d = 0; d < head_dim; d++) expected[r * head_dim + d] += weights[i] / total * v[(size_t(h) * length + i) * head_dim + d];
        for (int d = 0; d < head_dim; d++) whole[r * head_dim + d] /= joined[r].total;
    }
    check_near(whole, expected, F::pair == 2 ? 1e-2 : 2e-6, name);
}

void all_attention() {
    for (int head_dim : {16, 80})
        for (int length : {1, 17, 64, 300, 520})
            for (int window : {0, 40}) {
                attention<float>(head_dim, length, window);
                attention<uint16_t>(head_dim, length, window);
                attention<int8_t>(head_dim, length, window);
            }
    int8_t bytes[16];
    std::vector<float> row = draws(16);
    row[3] = NAN;
    check(std::isnan(keep_bytes(row.data(), 16, bytes, 1)), "the scale of a key that is no number");
}

}  // namespace
