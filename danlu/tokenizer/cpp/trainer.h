// Learning merges: the most frequent neighbouring pair becomes a token, again and again.
//
// The definition is in reference.py, in a page; this gives the same merges without counting anew. Each pair has its
// count and the pieces it was seen in. Joining a pair goes through those pieces only, and each place where it stands
// changes four counts:
//
//      x a b y   ->   x ab y        (x,a) and (b,y) lose the piece's count, (x,ab) and (ab,y) gain it
//
// A heap gives the pair of the highest count, of equal ones that with the smaller left id, then the smaller right id.
// Counts fall while an entry waits in the heap, so an entry from the top is compared with the count of now and put back
// with that where they differ; a count that rises (only those of the newest token do) is entered anew.
//
// Two different pairs may spell the same token (ab+c, a+bc); the second one is a merge and no new token.
//
// Memory: 4 bytes a byte of distinct pieces for the ids and at most 4 for the places, less as merges join them; and the
// pairs. Counts have 64 bits.
#pragma once

#include "count.h"

namespace danlu {

struct Learned {
    uint32_t left, right, joined;
};

class Trainer {
   public:
    Trainer(Encoder& encoder, const char* folder, uint64_t budget)
        : encoder_(encoder), counter_(encoder, folder, budget / 2) {}

    PieceCounter& counter() { return counter_; }

    // A token there is before training, in bytes.
    void token(std::string_view bytes, uint32_t id) {
        if (spelled_.size() <= id) spelled_.resize(id + 1);
        spelled_[id] = bytes;
        ids_.emplace(bytes, id);
    }

    // Learns up to `room` new tokens with ids from `next` on.
    void learn(uint32_t next, uint32_t room, uint64_t min_frequency) {
        read_pieces();
        std::vector<uint32_t> changed;
        while (room && !heap_.empty()) {
            const Candidate top = pop();
            const uint32_t pair = find(top.left, top.right);
            const int64_t count = pairs_[pair].count;
            if (count != top.count) {
                if (count > 0 && count < top.count) push(pair);
                continue;
            }
            if (count < 1 || uint64_t(count) < min_frequency) break;
            const std::string joined = spelled_[top.left] + spelled_[top.right];
            const auto [place, is_new] = ids_.emplace(joined, next);
            if (is_new) {
                token(joined, next);
                next++;
                room--;
            }
            merges.push_back({top.left, top.right, place->second});
            join(pair, place->second, changed);
        }
    }

    std::vector<Learned> merges;

   private:
    struct Candidate {
        int64_t count;
        uint32_t left, right;
        bool operator<(const Candidate& other) const {  // comes later
            if (count != other.count) return count < other.count;
            return left != other.left ? left > other.left : right > other.right;
        }
    };
    struct Pair {
        uint32_t left, right;
        int64_t count = 0;
        bool changed = false;
        std::vector<uint32_t> pieces{};
    };
    struct Span {
        uint64_t start;
        uint32_t length;
        uint64_t count;
    };

    void read_pieces() {
        Scratch scratch;
        const auto cost = [](size_t bytes) { return 12 * bytes + 32; };
        counter_.finish(cost, [&](const Piece& piece) {
            encoder_.vocabulary.merge(reinterpret_cast<const uint8_t*>(piece.bytes.data()), piece.bytes.size(), scratch);
            const auto& ids = scratch.ids;
            if (ids.size() < 2) return;
            spans_.push_back({symbols_.size(), uint32_t(ids.size()), piece.count});
            symbols_.insert(symbols_.end(), ids.begin(), ids.end());
        });
        counter_.free_tables();
        for (uint32_t i = 0; i < spans_.size(); i++) {
            const uint32_t* ids = symbols_.data() + spans_[i].start;
            for (uint32_t k = 0; k + 1 < spans_[i].length; k++) see(find(ids[k], ids[k + 1]), i, spans_[i].count);
        }
        for (uint32_t i = 0; i < pairs_.size(); i++) push(i);
    }

    void see(uint32_t pair, uint32_t piece, uint64_t count) {
        Pair& p = pairs_[pair];
        p.count += int64_t(count);
        if (p.pieces.empty() || p.pieces.back() != piece) p.pieces.push_back(piece);
    }

    void join(uint32_t pair, uint32_t joined, std::vector<uint32_t>& changed) {
        const uint32_t left = pairs_[pair].left, right = pairs_[pair].right;
        const std::vector<uint32_t> pieces = std::move(pairs_[pair].pieces);
        pairs_[pair].pieces = {};
        changed.clear();
        const auto gain = [&](uint32_t a, uint32_t b, uint32_t piece, uint64_t count) {
            const uint32_t p = find(a, b);
            see(p, piece, count);
            if (!pairs_[p].changed) {
                pairs_[p].changed = true;
                changed.push_back(p);
            }
        };
        const auto lose = [&](uint32_t a, uint32_t b, uint64_t count) { pairs_[find(a, b)].count -= int64_t(count); };
        for (const uint32_t index : pieces) {
            Span& span = spans_[index];
            uint32_t* ids = symbols_.data() + span.start;
            uint32_t kept = 0;
            for (uint32_t i = 0; i < span.length;) {
                if (ids[i] != left || i + 1 == span.length || ids[i + 1] != right) {
                    ids[kept++] = ids[i++];
                    continue;
                }
                if (kept) lose(ids[kept - 1], left, span.count), gain(ids[kept - 1], joined, index, span.count);
                lose(left, right, span.count);
                if (i + 2 < span.length)
                    lose(right, ids[i + 2], span.count), gain(joined, ids[i + 2], index, span.count);
                ids[kept++] = joined;
                i += 2;
            }
            span.length = kept;
        }
        for (const uint32_t p : changed) {
            pairs_[p].changed = false;
            push(p);
        }
    }

    // The number of a pair, a new one where it has none yet.
    uint32_t find(uint32_t left, uint32_t right) {
        const uint64_t key = uint64_t(left) << 32 | right;
        if (2 * pairs_.size() >= index_.size()) {
            index_.assign(std::max<size_t>(1 << 12, 2 * index_.size()), NONE);
            for (uint32_t i = 0; i < pairs_.size(); i++)
                *slot(uint64_t(pairs_[i].left) << 32 | pairs_[i].right) = i;
        }
        uint32_t* place = slot(key);
        if (*place == NONE) {
            *place = uint32_t(pairs_.size());
            pairs_.push_back({left, right});
        }
        return *place;
    }

    uint32_t* slot(uint64_t key) {
        const size_t mask = index_.size() - 1;
        size_t i = mix(key) & mask;
        while (index_[i] != NONE && (uint64_t(pairs_[index_[i]].left) << 32 | pairs_[index_[i]].right) != key)
            i = (i + 1) & mask;
        return &index_[i];
    }

    void push(uint32_t pair) {
        if (pairs_[pair].count < 1) return;
        heap_.push_back({pairs_[pair].count, pairs_[pair].left, pairs_[pair].right});
        std::push_heap(heap_.begin(), heap_.end());
    }

    Candidate pop() {
        std::pop_heap(heap_.begin(), heap_.end());
        const Candidate top = heap_.back();
        heap_.pop_back();
        return top;
    }

    Encoder& encoder_;
    PieceCounter counter_;
    std::vector<std::string> spelled_;
    std::unordered_map<std::string, uint32_t> ids_;
    std::vector<uint32_t> symbols_;
    std::vector<Span> spans_;
    std::vector<Pair> pairs_;
    std::vector<uint32_t> index_;
    std::vector<Candidate> heap_;
};

}  // namespace danlu
