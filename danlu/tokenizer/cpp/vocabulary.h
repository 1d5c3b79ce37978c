// Tokens, merges and added tokens of a byte-level BPE tokenizer, and the merging of one piece.
//
//   piece "cat" -> c a t --(the pair learned first)--> ca t --> cat
//
// Of all neighbouring pairs that are merges the one of the lowest rank is joined, of equal ones the leftmost, until
// none is left: what the tokenizers library does. Short pieces look for the lowest rank along an array; long ones keep
// a heap of (rank, place), so that 100,000 times the same letter costs n log n and not n squared.
#pragma once

#include <algorithm>
#include <cstdint>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "scan.h"

namespace danlu {

constexpr uint32_t NONE = 0xffffffff;

inline uint64_t mix(uint64_t a) {
    a *= 0x9e3779b97f4a7c15u;
    return a ^ (a >> 32);
}

// (left id, right id) -> (rank, id of the two joined); open addressing, at most half full.
class Merges {
   public:
    struct Entry {
        uint64_t pair = ~0ull;
        uint32_t rank = NONE, joined = NONE;
    };

    explicit Merges(size_t n = 0) {
        size_t slots = 16;
        while (slots < 2 * n + 2) slots *= 2;
        table_.resize(slots);
        mask_ = slots - 1;
    }

    void set(uint32_t left, uint32_t right, uint32_t rank, uint32_t joined) {
        const uint64_t pair = uint64_t(left) << 32 | right;
        size_t i = mix(pair) & mask_;
        while (table_[i].pair != ~0ull && table_[i].pair != pair) i = (i + 1) & mask_;
        table_[i] = {pair, rank, joined};
    }

    const Entry& get(uint32_t left, uint32_t right) const {
        static const Entry nothing;
        const uint64_t pair = uint64_t(left) << 32 | right;
        for (size_t i = mix(pair) & mask_;; i = (i + 1) & mask_) {
            if (table_[i].pair == pair) return table_[i];
            if (table_[i].pair == ~0ull) return nothing;
        }
    }

   private:
    std::vector<Entry> table_;
    size_t mask_;
};

struct AddedToken {
    std::string text;
    uint32_t id;
    bool skipped;  // found, and then left to the text around it
};

// Added tokens of one pass: at each place the longest one that stands there.
class AddedTokens {
   public:
    void add(AddedToken token) {
        tokens_.push_back(std::move(token));
        std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
            return a.text[0] != b.text[0] ? uint8_t(a.text[0]) < uint8_t(b.text[0]) : a.text.size() > b.text.size();
        });
        for (auto& range : by_byte_) range = {0, 0};
        for (uint32_t i = 0; i < tokens_.size(); i++) {
            auto& range = by_byte_[uint8_t(tokens_[i].text[0])];
            if (range.second == 0) range.first = i;
            range.second = i + 1;
        }
    }

    // Calls text(begin, end) for what lies between and token(id) for each one found.
    template <class Text, class Token>
    void split(const uint8_t* at, const uint8_t* end, Text&& text, Token&& token) const {
        const uint8_t* begin = at;
        if (!tokens_.empty()) {
            while (at < end) {
                const AddedToken* found = longest(at, end);
                if (!found) {
                    at++;
                    continue;
                }
                if (!found->skipped) {
                    if (begin < at) text(begin, at);
                    token(found->id);
                    begin = at + found->text.size();
                }
                at += found->text.size();
            }
        }
        if (begin < end) text(begin, end);
    }

    bool empty() const { return tokens_.empty(); }

   private:
    const AddedToken* longest(const uint8_t* at, const uint8_t* end) const {
        const auto [first, last] = by_byte_[*at];
        for (uint32_t i = first; i < last; i++) {
            const std::string& name = tokens_[i].text;
            if (name.size() <= size_t(end - at) && !std::memcmp(name.data(), at, name.size())) return &tokens_[i];
        }
        return nullptr;
    }

    std::vector<AddedToken> tokens_;
    std::array<std::pair<uint32_t, uint32_t>, 256> by_byte_{};
};

// What merging needs of scratch memory; one a thread.
struct Scratch {
    std::vector<uint32_t> ids, next, previous, ranks;
    std::vector<uint64_t> heap;
};

class Vocabulary {
   public:
    // `tokens`: names in the printable byte alphabet, one a line; `ids`: theirs; `merges`: left and right names, all
    // with one space between. False when they do not fit together. A byte without a token is left out of every text.
    bool read(std::string_view tokens, const uint32_t* ids, size_t n, std::string_view merges, size_t n_merges,
              bool whole_words) {
        whole_words_ = whole_words;
        alphabet();
        names_.reserve(2 * n);
        size_t seen = 0;
        bytes_.fill(NONE);
        for (std::string_view name : Parts(tokens, '\n')) {
            if (seen == n) return false;
            const uint32_t id = ids[seen++];
            names_[name] = id;
            std::string spelled;
            if (!spell(name, spelled)) continue;
            if (spelled.size() == 1) bytes_[uint8_t(spelled[0])] = id;
            if (whole_words_) words_.emplace(std::move(spelled), id);
        }
        if (seen != n) return false;
        merges_ = Merges(n_merges);
        std::string joined;
        std::string_view left;
        size_t count = 0;
        for (std::string_view name : Parts(merges, ' ')) {
            if (count++ % 2 == 0) {
                left = name;
                continue;
            }
            joined.assign(left).append(name);
            const auto a = names_.find(left), b = names_.find(name), c = names_.find(joined);
            if (a == names_.end() || b == names_.end() || c == names_.end()) return false;
            merges_.set(a->second, b->second, uint32_t(count / 2 - 1), c->second);
        }
        if (count != 2 * n_merges) return false;
        names_ = {};
        for (int a = 0; a < 256; a++)
            for (int b = 0; b < 256; b++) {
                const bool both = bytes_[a] != NONE && bytes_[b] != NONE;
                first_[a << 8 | b] = both ? merges_.get(bytes_[a], bytes_[b]).rank : NONE;
            }
        return true;
    }

    // The ids of one piece, in scratch.ids.
    void merge(const uint8_t* piece, size_t n, Scratch& scratch) const {
        auto& ids = scratch.ids;
        ids.clear();
        if (whole_words_) {
            const auto found = words_.find(std::string_view(reinterpret_cast<const char*>(piece), n));
            if (found != words_.end()) {
                ids.push_back(found->second);
                return;
            }
        }
        if (n > LONG) return merge_long(piece, n, scratch);
        auto& ranks = scratch.ranks;
        ranks.resize(n);
        ids.resize(n);
        size_t m = 0;
        for (size_t i = 0; i < n; i++)
            if (bytes_[piece[i]] != NONE) ids[m++] = bytes_[piece[i]];
        if (m == n) {
            for (size_t i = 0; i + 1 < n; i++) ranks[i] = first_[piece[i] << 8 | piece[i + 1]];
        } else {
            for (size_t i = 0; i + 1 < m; i++) ranks[i] = merges_.get(ids[i], ids[i + 1]).rank;
        }
        while (m > 1) {
            size_t best = 0;
            for (size_t i = 1; i + 1 < m; i++)
                if (ranks[i] < ranks[best]) best = i;
            if (ranks[best] == NONE) break;
            ids[best] = merges_.get(ids[best], ids[best + 1]).joined;
            m--;
            for (size_t i = best + 1; i < m; i++) ids[i] = ids[i + 1];
            for (size_t i = best + 1; i + 1 < m; i++) ranks[i] = ranks[i + 1];
            if (best + 1 < m) ranks[best] = merges_.get(ids[best], ids[best + 1]).rank;
            if (best) ranks[best - 1] = merges_.get(ids[best - 1], ids[best]).rank;
        }
        ids.resize(m);
    }

    uint32_t byte(uint8_t value) const { return bytes_[value]; }

    // Bytes of a name in the printable alphabet; false when it has another character.
    static bool spell(std::string_view name, std::string& out) {
        const auto& table = alphabet();
        out.clear();
        for (size_t i = 0; i < name.size();) {
            uint32_t code = uint8_t(name[i]);
            if (code < 0x80) {
                i++;
            } else if (code < 0xe0 && i + 1 < name.size()) {
                code = (code & 31) << 6 | (uint8_t(name[i + 1]) & 63);
                i += 2;
            } else {
                return false;
            }
            if (code >= table.size() || table[code] < 0) return false;
            out.push_back(char(table[code]));
        }
        return true;
    }

    // Iterates over the parts of a text between single marks; an empty text has none.
    struct Parts {
        std::string_view text;
        char mark;
        Parts(std::string_view text, char mark) : text(text), mark(mark) {}
        struct Iterator {
            std::string_view rest, part;
            char mark;
            bool more;
            void step() {
                const size_t at = rest.find(mark);
                part = rest.substr(0, at);
                last = at == std::string_view::npos;
                if (!last) rest.remove_prefix(at + 1);
            }
            bool last = false;
            std::string_view operator*() const { return part; }
            Iterator& operator++() {
                if (last) more = false;
                else step();
                return *this;
            }
            bool operator!=(const Iterator& other) const { return more != other.more; }
        };
        Iterator begin() const {
            Iterator it{text, {}, mark, !text.empty()};
            if (it.more) it.step();
            return it;
        }
        Iterator end() const { return {{}, {}, mark, false}; }
    };

   private:
    static constexpr size_t LONG = 128;

    struct Hash {
        using is_transparent = void;
        size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
    };
    struct Equal {
        using is_transparent = void;
        bool operator()(std::string_view a, std::string_view b) const { return a == b; }
    };

    // The byte of each code point of the printable alphabet, -1 for one that is not in it (see alphabet.py).
    static const std::array<int16_t, 324>& alphabet() {
        static const std::array<int16_t, 324> table = [] {
            std::array<int16_t, 324> all;
            all.fill(-1);
            int next = 256;
            for (int b = 0; b < 256; b++) {
                const bool printable = (b >= 0x21 && b < 0x7f) || (b >= 0xa1 && b < 0xad) || b >= 0xae;
                all[printable ? b : next++] = int16_t(b);
            }
            return all;
        }();
        return table;
    }

    // A list of the tokens that still stand, and a heap of (rank, place); entries that no longer hold are passed over.
    void merge_long(const uint8_t* piece, size_t n, Scratch& scratch) const {
        auto &ids = scratch.ids, &next = scratch.next, &previous = scratch.previous;
        auto& heap = scratch.heap;
        ids.clear();
        for (size_t i = 0; i < n; i++)
            if (bytes_[piece[i]] != NONE) ids.push_back(bytes_[piece[i]]);
        const uint32_t m = uint32_t(ids.size());
        next.resize(m);
        previous.resize(m);
        heap.clear();
        const auto consider = [&](uint32_t i) {
            if (i == NONE || next[i] == NONE) return false;
            const uint32_t rank = merges_.get(ids[i], ids[next[i]]).rank;
            if (rank == NONE) return false;
            heap.push_back(uint64_t(rank) << 32 | i);
            return true;
        };
        for (uint32_t i = 0; i < m; i++) {
            previous[i] = i ? i - 1 : NONE;
            next[i] = i + 1 < m ? i + 1 : NONE;
        }
        for (uint32_t i = 0; i < m; i++) consider(i);
        std::make_heap(heap.begin(), heap.end(), std::greater<>());
        const auto push = [&](uint32_t i) {
            if (consider(i)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
        };
        while (!heap.empty()) {
            std::pop_heap(heap.begin(), heap.end(), std::greater<>());
            const uint64_t top = heap.back();
            heap.pop_back();
            const uint32_t i = uint32_t(top), right = next[i];
            if (ids[i] == NONE || right == NONE) continue;
            const Merges::Entry& merge = merges_.get(ids[i], ids[right]);
            if (merge.rank != top >> 32) continue;
            ids[i] = merge.joined;
            ids[right] = NONE;
            next[i] = next[right];
            if (next[i] != NONE) previous[next[i]] = i;
            push(i);
            push(previous[i]);
        }
        uint32_t kept = 0;
        for (uint32_t i = 0; i < m; i++)
            if (ids[i] != NONE) ids[kept++] = ids[i];
        ids.resize(kept);
    }

    bool whole_words_ = false;
    std::unordered_map<std::string_view, uint32_t> names_;  // only while reading
    std::unordered_map<std::string, uint32_t, Hash, Equal> words_;
    std::array<uint32_t, 256> bytes_;
    std::array<uint32_t, 65536> first_;  // rank of the pair of two bytes
    Merges merges_;
};

}  // namespace danlu
