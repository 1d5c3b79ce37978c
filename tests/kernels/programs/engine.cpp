// The engine's attention, its steps and its sampling against plain arithmetic.

#include "step.cpp"

#include "attending.h"
#include "stepping.h"

namespace {

// A draw from one row against the definition in sample.h, in float64.
void sampling() {
    const std::vector<float> logits = draws(203, 6);
    const int n = int(logits.size());
    for (int top_k : {0, 1, 7})
        for (double top_p : {1.0, 0.8})
            for (float min_p : {0.0f, 0.05f})
                for (int draw = 0; draw < 50; draw++) {
                    const float temperature = 0.7f, *row = logits.data();
                    const double uniform = (draw + 0.37) / 50, highest = *std::max_element(row, row + n);
                    std::vector<std::pair<double, int>> kept;
                    for (int i = 0; i < n; i++) kept.push_back({-std::exp((row[i] - highest) / temperature), i});
                    std::sort(kept.begin(), kept.end());
                    if (top_k) kept.resize(top_k);
                    double mass = 0, before = 0;
                    for (auto& [e, id] : kept) mass -= e;
                    size_t count = 0;
                    while (count < kept.size() && (count == 0 || top_p >= 1 || before < top_p * mass)) before -= kept[count++].first;
                    kept.resize(count);
                    while (kept.size() > 1 && -kept.back().first < min_p) kept.pop_back();
                    std::sort(kept.begin(), kept.end(), [](auto& a, auto& b) { return a.second < b.second; });
                    double total = 0, sum = 0;
                    for (auto& [e, id] : kept) total -= e;
                    int expected = kept.back().second;
                    for (auto& [e, id] : kept)
                        if ((sum -= e) > uniform * total) {
                            expected = id;
                            break;
                        }
                    int32_t found = -1;
                    Machine::require(danlu_sample(1, n, &row, &temperature, &top_k, &top_p, &min_p, &uniform, &found));
                    check(found == expected, "a draw");
                }
}

}  // namespace

int main() {
    all_attention();
    all_steps();
    sampling();
    return verdict("engine");
}
