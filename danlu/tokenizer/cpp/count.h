// Counting pieces in bounded memory: how often each occurs in all texts.
//
//   texts --threads--> a table a thread --full--> sorted run on disk --all merged--> pieces with their counts
//
// Each thread has its own table, so nothing waits. A table that reaches its share of the budget is sorted by the bytes of
// its pieces and written away; at the end the runs are merged and counts of the same piece added up. What comes out does
// not depend on who counted what, nor on the order of the texts.
//
// What is kept for training has a budget too. Where the pieces are more than fit, the most frequent stay, of equally
// frequent ones those that come first in the order of bytes; what was left out is counted.
//
//   run    (length u32, count u64, bytes) again and again, sorted
#pragma once

#include <cstdio>
#include <map>
#include <string>

#include "encoder.h"

namespace danlu {

constexpr size_t LONGEST = 4096;  // a longer piece is no word: it is counted in parts of this many bytes

constexpr uint64_t SMALLEST = 1 << 18;  // bytes of a table, whatever the budget: about 2,000 pieces

struct Piece {
    std::string_view bytes;
    uint64_t count;
};

inline uint64_t hash_bytes(std::string_view bytes) {
    const char* at = bytes.data();
    size_t n = bytes.size();
    uint64_t h = n * 0x9e3779b97f4a7c15u, word;
    for (; n >= 8; at += 8, n -= 8) {
        std::memcpy(&word, at, 8);
        h = mix(h ^ word);
    }
    word = 0;
    std::memcpy(&word, at, n);
    h = mix(h ^ word);
    return h ^ (h >> 29);
}

// Pieces and counts, open addressing; the bytes lie one behind the other in blocks that never move.
class PieceTable {
   public:
    PieceTable() { clear(); }

    void add(std::string_view bytes, uint64_t count) {
        const uint64_t hash = hash_bytes(bytes);
        size_t i = hash & (slots_.size() - 1);
        for (; slots_[i].count; i = (i + 1) & (slots_.size() - 1)) {
            Slot& slot = slots_[i];
            if (slot.hash == uint32_t(hash >> 32) && slot.size == bytes.size() &&
                !std::memcmp(slot.bytes, bytes.data(), bytes.size())) {
                slot.count += count;
                return;
            }
        }
        slots_[i] = {count, store(bytes), uint32_t(hash >> 32), uint32_t(bytes.size())};
        if (++used_ * 2 > slots_.size()) grow();
    }

    size_t memory() const { return slots_.size() * sizeof(Slot) + blocks_.size() * BLOCK; }

    size_t size() const { return used_; }

    void clear() {
        slots_ = std::vector<Slot>(1 << 12);
        blocks_.clear();
        left_ = used_ = 0;
    }

    template <class Take>
    void each(Take&& take) const {
        for (const Slot& slot : slots_)
            if (slot.count) take(Piece{{slot.bytes, slot.size}, slot.count});
    }

   private:
    static constexpr size_t BLOCK = 1 << 16;
    static_assert(BLOCK >= LONGEST);
    struct Slot {
        uint64_t count = 0;
        const char* bytes = nullptr;
        uint32_t hash = 0, size = 0;
    };

    const char* store(std::string_view bytes) {
        if (left_ < bytes.size()) {
            blocks_.push_back(std::make_unique<char[]>(BLOCK));
            left_ = BLOCK;
        }
        char* place = blocks_.back().get() + (BLOCK - left_);
        std::memcpy(place, bytes.data(), bytes.size());
        left_ -= bytes.size();
        return place;
    }

    void grow() {
        std::vector<Slot> bigger(slots_.size() * 2);
        for (const Slot& slot : slots_) {
            if (!slot.count) continue;
            size_t i = hash_bytes({slot.bytes, slot.size}) & (bigger.size() - 1);
            while (bigger[i].count) i = (i + 1) & (bigger.size() - 1);
            bigger[i] = slot;
        }
        slots_.swap(bigger);
    }

    std::vector<Slot> slots_;
    std::vector<std::unique_ptr<char[]>> blocks_;
    size_t left_, used_;
};

// One sorted run, read from its start.
class RunReader {
   public:
    explicit RunReader(const std::string& path) : file_(std::fopen(path.c_str(), "rb")) {
        if (!file_) throw std::system_error(errno, std::generic_category(), path);
        next();
    }
    RunReader(RunReader&& other) noexcept
        : bytes(std::move(other.bytes)), count(other.count), done(other.done), file_(other.file_) {
        other.file_ = nullptr;
    }
    ~RunReader() {
        if (file_) std::fclose(file_);
    }

    void next() {
        uint32_t size;
        if (std::fread(&size, sizeof size, 1, file_) != 1) {
            done = true;
            return;
        }
        bytes.resize(size);
        if (size > LONGEST || std::fread(&count, sizeof count, 1, file_) != 1 ||
            std::fread(bytes.data(), 1, size, file_) != size)
            throw std::runtime_error("a run of pieces is cut");
    }

    std::string bytes;
    uint64_t count = 0;
    bool done = false;

   private:
    std::FILE* file_;
};

class PieceCounter {
   public:
    // `folder`: where runs may lie. `budget`: bytes of memory for the tables, and then for the pieces that are kept.
    PieceCounter(const Encoder& encoder, std::string folder, uint64_t budget)
        : encoder_(encoder), folder_(std::move(folder)), budget_(budget) {}

    ~PieceCounter() {
        for (const auto& path : runs_) std::remove(path.c_str());
    }

    // Counts the pieces of texts; foreign[i] becomes 1 for one whose pieces the library has to cut, and 0 else.
    void add(const uint8_t* const* texts, const uint64_t* lengths, size_t n, size_t threads, uint8_t* foreign) {
        struct Range {
            const uint8_t *begin, *end;
        };
        std::vector<Range> ranges;
        const Scanner& scanner = encoder_.scanner;
        for (size_t i = 0; i < n; i++) {
            const uint8_t *at = texts[i], *end = at + lengths[i];
            foreign[i] = scanner.any(at, end, encoder_.foreign());
            while (at < end && !foreign[i]) {
                const uint8_t* stop = size_t(end - at) <= CHUNK ? end : scanner.safe(at + CHUNK, end);
                ranges.push_back({at, stop});
                at = stop;
            }
        }
        threads = std::max<size_t>(1, threads);
        if (tables_.size() < threads) tables_.resize(threads);
        in_parallel(ranges.size(), threads, [&](size_t i, size_t thread) {
            scanner.cut(ranges[i].begin, ranges[i].end, [&](const uint8_t* begin, const uint8_t* end) {
                add_piece(thread, {reinterpret_cast<const char*>(begin), size_t(end - begin)}, 1);
            });
        });
    }

    // Counts one piece that was cut elsewhere.
    void add_piece(size_t thread, std::string_view bytes, uint64_t count) {
        if (tables_.size() <= thread) tables_.resize(thread + 1);
        PieceTable& table = tables_[thread];
        for (; bytes.size() > LONGEST; bytes.remove_prefix(LONGEST)) table.add(bytes.substr(0, LONGEST), count);
        table.add(bytes, count);
        if (table.memory() > std::max(SMALLEST, budget_ / tables_.size())) spill(table);
    }

    // Calls take(Piece) for the pieces that are kept. `cost`: what a piece of this many bytes takes in training.
    template <class Cost, class Take>
    void finish(Cost&& cost, Take&& take) {
        if (runs_.empty()) {
            while (tables_.size() > 1) {
                tables_.back().each([&](Piece piece) { tables_[0].add(piece.bytes, piece.count); });
                tables_.pop_back();
            }
        } else {
            for (PieceTable& table : tables_) spill(table);
        }
        std::map<uint64_t, uint64_t, std::greater<>> costs;  // count -> what all pieces with that count take
        all([&](Piece piece) { costs[piece.count] += cost(piece.bytes.size()); });
        uint64_t left = budget_, border = 0;  // pieces above the border are kept, and of those on it what fits
        for (const auto& [count, sum] : costs) {
            if (sum > left) {
                border = count;
                break;
            }
            left -= sum;
        }
        bool full = false;
        const auto choose = [&](Piece piece) {
            if (piece.count == border) {
                const uint64_t price = cost(piece.bytes.size());
                full = full || price > left;
                if (full) return drop(piece);
                left -= price;
            } else if (piece.count < border) {
                return drop(piece);
            }
            kept++;
            take(piece);
        };
        if (!border || !runs_.empty()) return all(choose);
        for (const Piece& piece : in_order(tables_[0])) choose(piece);
    }

    void free_tables() { tables_.clear(); }

    uint64_t kept = 0, dropped = 0, dropped_count = 0;
    uint64_t spilled() const { return runs_.size(); }

   private:
    void drop(const Piece& piece) {
        dropped++;
        dropped_count += piece.count;
    }

    // All pieces with their whole counts; in the order of their bytes where there are runs.
    template <class Take>
    void all(Take&& take) {
        if (runs_.empty()) {
            if (!tables_.empty()) tables_[0].each(take);
            return;
        }
        std::vector<RunReader> readers;
        for (const auto& path : runs_) readers.emplace_back(path);
        const auto later = [&](size_t a, size_t b) {
            const int order = readers[a].bytes.compare(readers[b].bytes);
            return order ? order > 0 : a > b;
        };
        std::vector<size_t> heap;
        for (size_t i = 0; i < readers.size(); i++)
            if (!readers[i].done) heap.push_back(i);
        std::make_heap(heap.begin(), heap.end(), later);
        std::string bytes;
        while (!heap.empty()) {
            uint64_t count = 0;
            bytes = readers[heap.front()].bytes;
            while (!heap.empty() && readers[heap.front()].bytes == bytes) {
                std::pop_heap(heap.begin(), heap.end(), later);
                RunReader& reader = readers[heap.back()];
                count += reader.count;
                reader.next();
                if (reader.done) heap.pop_back();
                else std::push_heap(heap.begin(), heap.end(), later);
            }
            take(Piece{bytes, count});
        }
    }

    static std::vector<Piece> in_order(const PieceTable& table) {
        std::vector<Piece> pieces;
        pieces.reserve(table.size());
        table.each([&](Piece piece) { pieces.push_back(piece); });
        std::sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.bytes < b.bytes; });
        return pieces;
    }

    void spill(PieceTable& table) {
        if (!table.size()) return;
        std::string path;
        {
            const std::lock_guard lock(mutex_);
            path = folder_ + "/pieces-" + std::to_string(runs_.size()) + ".run";
            runs_.push_back(path);
        }
        std::FILE* file = std::fopen(path.c_str(), "wb");
        if (!file) throw std::system_error(errno, std::generic_category(), path);
        bool good = true;
        for (const Piece& piece : in_order(table)) {
            const uint32_t size = uint32_t(piece.bytes.size());
            good = good && std::fwrite(&size, sizeof size, 1, file) == 1 &&
                   std::fwrite(&piece.count, sizeof piece.count, 1, file) == 1 &&
                   std::fwrite(piece.bytes.data(), 1, size, file) == size;
        }
        good = std::fclose(file) == 0 && good;
        if (!good) throw std::system_error(errno ? errno : EIO, std::generic_category(), path);
        table.clear();
    }

    const Encoder& encoder_;
    std::string folder_;
    uint64_t budget_;
    std::vector<PieceTable> tables_;
    std::vector<std::string> runs_;
    std::mutex mutex_;
};

}  // namespace danlu
