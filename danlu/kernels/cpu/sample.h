// One token from a row of logits: temperature, top-k, top-p, min-p, and one draw.
//
//     e[i] = exp((logit[i] - max) / temperature)                      in scratch, float32
//     keep the top_k largest; of these the smallest set with mass >= top_p; of these e >= min_p
//     the first id, in order of id, at which the sum over the kept exceeds uniform * (sum of all kept)
//
// Sorting a whole vocabulary would cost more than anything else here, and the cut nearly always lies among the first
// tokens. So only what is larger than a floor is sorted, and the floor is lowered until the cut lies above it. Of tokens
// with equal logits at the cut the lower ids stay. Sums over the vocabulary are float64, so that its tail is not lost.
//
// engine/sampling.py says the same in torch (`distribution`, `draw`), for GPUs and for where there is no compiler.

#pragma once

#include "lanes.h"
#include "memory.h"

namespace danlu {

struct Choice {
    float temperature, min_p;
    double top_p;
    int32_t top_k;  // 0: all
    double uniform;  // in [0, 1)
};

class Sampler {
  public:
    // A token of one row of `vocab` logits, at least one of which is finite and none NaN or +infinity.
    int32_t pick(const float* logits, int vocab, const Choice& how) {
        const int padded = (vocab + LANES - 1) / LANES * LANES;
        e_.resize(padded);
        weigh(logits, vocab, how.temperature);
        const bool cut = (how.top_k > 0 && how.top_k < vocab) || how.top_p < 1;
        return cut ? pick_among_first(vocab, how) : pick_among_all(vocab, how);
    }

  private:
    struct Candidate {
        float e;
        int32_t id;
        bool operator<(const Candidate& other) const { return e != other.e ? e > other.e : id < other.id; }
    };

    Array<float> e_;
    std::vector<Candidate> first_;

    void weigh(const float* logits, int vocab, float temperature) {
        float most = -INFINITY;
        for (int i = 0; i < vocab; i++) most = std::max(most, logits[i]);
        const Floats high = all(most), inverse = all(1.0f / temperature);
        int i = 0;
        for (; i + LANES <= vocab; i += LANES) store(&e_[i], exp((load(logits + i) - high) * inverse));
        if (i < vocab) {
            alignas(64) float rest[LANES];
            for (int j = 0; j < LANES; j++) rest[j] = i + j < vocab ? logits[i + j] : -INFINITY;
            store(&e_[i], exp((load(rest) - high) * inverse));
        }
    }

    // The sum of what is at least `floor`, in order of id.
    double mass(int vocab, float floor) const {
        double total = 0;
        for (int i = 0; i < vocab; i += LANES) {
            Floats v = load(&e_[i]);
            total += double(sum(v >= all(floor) ? v : Floats{}));
        }
        return total;
    }

    int32_t pick_among_all(int vocab, const Choice& how) {
        const float floor = how.min_p;  // the largest e is 1
        const double target = how.uniform * mass(vocab, floor);
        double total = 0;
        int32_t last = 0;
        for (int i = 0; i < vocab; i += LANES) {
            Floats v = load(&e_[i]);
            v = v >= all(floor) ? v : Floats{};
            const double here = double(sum(v));
            if (total + here <= target) {
                total += here;
                continue;
            }
            for (int j = 0; j < LANES; j++) {
                if (v[j] <= 0) continue;
                last = i + j;
                total += double(v[j]);
                if (total > target) return last;
            }
        }
        return last;  // rounding: a block's sum is not the sum of its numbers one by one
    }

    int32_t pick_among_first(int vocab, const Choice& how) {
        const size_t most = how.top_k > 0 ? size_t(std::min(how.top_k, vocab)) : size_t(vocab);
        const double whole = most < size_t(vocab) ? 0.0 : mass(vocab, 0.0f);  // with top-k: what it leaves, below
        size_t kept = 0;
        for (float floor : {0x1p-6f, 0x1p-12f, 0x1p-24f, 0.0f}) {
            first_.clear();
            for (int i = 0; i < vocab; i += LANES) {
                Floats v = load(&e_[i]);
                if (largest(v) < floor) continue;
                for (int j = 0; j < LANES; j++)
                    if (v[j] >= floor && i + j < vocab) first_.push_back({v[j], i + j});
            }
            const bool all_there = floor == 0.0f;
            if (most < size_t(vocab) && first_.size() < most && !all_there) continue;
            if (first_.size() > most) {
                std::nth_element(first_.begin(), first_.begin() + most, first_.end());
                first_.resize(most);
            }
            double total = whole, above = 0;
            if (most < size_t(vocab)) {
                total = 0;
                for (const Candidate& c : first_) total += double(c.e);
            } else {
                for (const Candidate& c : first_) above += double(c.e);
                if (above < how.top_p * total && !all_there) continue;
            }
            std::sort(first_.begin(), first_.end());
            double before = 0;  // mass of all more likely tokens
            for (kept = 0; kept < first_.size() && (kept == 0 || how.top_p >= 1 || before < how.top_p * total); kept++)
                before += double(first_[kept].e);
            break;
        }
        while (kept > 1 && first_[kept - 1].e < how.min_p) kept--;
        first_.resize(kept);
        std::sort(first_.begin(), first_.end(), [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
        double total = 0, sum = 0;
        for (const Candidate& c : first_) total += double(c.e);
        for (const Candidate& c : first_)
            if ((sum += double(c.e)) > how.uniform * total) return c.id;
        return first_.back().id;
    }
};

}  // namespace danlu
