// Texts to ids, on several threads, each with a memory of the pieces it met.
//
//   text --added tokens--> sections --scan.h--> pieces --cache, else vocabulary.h--> ids
//
// Most pieces of a text were met before, so each thread keeps two direct-mapped tables from the bytes of a piece to its
// ids: a piece of up to 15 bytes and 3 ids in 32 bytes, one of up to 31 bytes and 7 ids in 64. The bytes are the key
// themselves (with the length in the last one), so an entry is never wrong; a newer piece takes an older one's place.
//
// A long text without added tokens is cut where a piece ends in any case (Scanner::safe), so that one book keeps all
// threads busy. Ids of a text go to the place of its first byte in the output: a token has at least one byte, so that is
// room enough without knowing the count; afterwards they are moved together.
#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "vocabulary.h"

namespace danlu {

constexpr size_t CHUNK = 1 << 18;  // bytes of a long text that one thread takes at a time

class PieceCache {
   public:
    PieceCache() : small_(1 << SMALL_BITS), large_(1 << LARGE_BITS) {}

    // Appends the ids of the piece at `out` and returns one past the last. `end`: the last byte that may be read.
    uint32_t* encode(const Vocabulary& vocabulary, const uint8_t* piece, size_t n, const uint8_t* end, uint32_t* out) {
        if (n < 16) {
            uint64_t key[2];
            load16(piece, n, end, key);
            Small& entry = small_[hash(key[0] ^ mix(key[1])) >> (64 - SMALL_BITS)];
            if (entry.key[0] != key[0] || entry.key[1] != key[1] || !entry.count) {
                vocabulary.merge(piece, n, scratch_);
                const size_t count = scratch_.ids.size();
                if (count == 0 || count > 3) return put(scratch_.ids.data(), count, out);
                entry.key[0] = key[0], entry.key[1] = key[1];
                entry.count = uint32_t(count);
                for (size_t i = 0; i < count; i++) entry.ids[i] = scratch_.ids[i];
            }
            *out++ = entry.ids[0];
            if (entry.count > 1) *out++ = entry.ids[1];
            if (entry.count > 2) *out++ = entry.ids[2];
            return out;
        }
        if (n < 32) {
            uint64_t key[4];
            load16(piece, 16, end, key);
            load16(piece + 16, n - 16, end, key + 2);
            Large& entry = large_[hash(key[0] ^ mix(key[1] ^ mix(key[2] ^ mix(key[3])))) >> (64 - LARGE_BITS)];
            if (!entry.count || std::memcmp(entry.key, key, sizeof key)) {
                vocabulary.merge(piece, n, scratch_);
                const size_t count = scratch_.ids.size();
                if (count == 0 || count > 7) return put(scratch_.ids.data(), count, out);
                std::memcpy(entry.key, key, sizeof key);
                entry.count = uint32_t(count);
                for (size_t i = 0; i < count; i++) entry.ids[i] = scratch_.ids[i];
            }
            return put(entry.ids, entry.count, out);
        }
        vocabulary.merge(piece, n, scratch_);
        return put(scratch_.ids.data(), scratch_.ids.size(), out);
    }

   private:
    static constexpr int SMALL_BITS = 15, LARGE_BITS = 12;
    struct alignas(32) Small {
        uint64_t key[2] = {0, 0};
        uint32_t count = 0, ids[3];
    };
    struct alignas(64) Large {
        uint64_t key[4] = {0, 0, 0, 0};
        uint32_t count = 0, ids[7];
    };

    static uint64_t hash(uint64_t a) { return (a ^ (a >> 29)) * 0x9e3779b97f4a7c15u; }

    // The first n of 16 bytes as two numbers, the length in the last byte (16 itself fills all).
    static void load16(const uint8_t* at, size_t n, const uint8_t* end, uint64_t* key) {
        if (n == 16) {
            std::memcpy(key, at, 16);
            return;
        }
        if (end - at >= 16) {
            std::memcpy(key, at, 16);
            key[0] &= n >= 8 ? ~0ull : (1ull << (8 * n)) - 1;
            key[1] &= n > 8 ? (1ull << (8 * (n - 8))) - 1 : 0;
        } else {
            key[0] = key[1] = 0;
            std::memcpy(key, at, n);
        }
        key[1] |= uint64_t(n) << 56;
    }

    static uint32_t* put(const uint32_t* ids, size_t n, uint32_t* out) {
        for (size_t i = 0; i < n; i++) out[i] = ids[i];
        return out + n;
    }

    std::vector<Small> small_;
    std::vector<Large> large_;
    Scratch scratch_;
};

// A part of a text that one thread encodes, and how many ids it gave.
struct Part {
    size_t text;
    const uint8_t *begin, *end;
    uint32_t* out;
    size_t count = 0;
};

// Runs work(i) for i in [0, n) on up to `threads` threads, the caller's among them.
template <class Work>
void in_parallel(size_t n, size_t threads, Work&& work) {
    std::atomic<size_t> next{0};
    std::exception_ptr failed;
    std::mutex mutex;
    const auto loop = [&](size_t thread) {
        try {
            for (size_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < n;) work(i, thread);
        } catch (...) {
            const std::lock_guard lock(mutex);
            failed = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    for (size_t t = 1; t < std::min(threads, n); t++) {
        try {
            others.emplace_back(loop, t);
        } catch (const std::system_error&) {
            break;  // no more threads to be had: those there are do it
        }
    }
    loop(0);
    for (auto& other : others) other.join();
    if (failed) std::rethrow_exception(failed);
}

class Encoder {
   public:
    Encoder(Pattern pattern, int k, bool composes) : scanner(pattern, k), composes_(composes) {}

    Scanner scanner;
    Vocabulary vocabulary;

    // Added tokens: those looked for in the text, then those looked for in what is left of it.
    struct Added {
        AddedTokens first, second;
    };
    Added added[2];  // a text is encoded with the one set or the other

    // Bits of characters for which a text is not encoded here.
    uint8_t foreign() const { return RECENT | (composes_ ? COMPOSES : 0); }

    // Ids of n texts one after the other in `out` (room: as many as the texts have bytes); their counts in `counts`.
    // -1 in `counts`: this text holds characters that are left to the library, and gave no ids. Returns the number of
    // ids.
    size_t encode(const Added& tokens, const uint8_t* const* texts, const uint64_t* lengths, size_t n, size_t threads,
                  uint32_t* out, int64_t* counts) {
        std::vector<Part> parts;
        const bool whole = !tokens.first.empty() || !tokens.second.empty();
        uint32_t* place = out;
        for (size_t i = 0; i < n; i++) {
            const uint8_t *at = texts[i], *end = at + lengths[i];
            counts[i] = 0;
            while (at < end) {
                const uint8_t* stop = whole || size_t(end - at) <= CHUNK ? end : scanner.safe(at + CHUNK, end);
                parts.push_back({i, at, stop, place});
                place += stop - at;
                at = stop;
            }
        }
        std::vector<std::atomic<uint8_t>> foreign_texts(n);
        std::vector<std::unique_ptr<PieceCache>> caches(std::max<size_t>(1, std::min(threads, parts.size())));
        for (auto& cache : caches) cache = borrow();
        in_parallel(parts.size(), threads, [&](size_t i, size_t thread) {
            Part& part = parts[i];
            if (foreign_texts[part.text]) return;
            if (scanner.any(part.begin, part.end, foreign())) {
                foreign_texts[part.text] = 1;
                return;
            }
            part.count = encode_part(tokens, *caches[thread], part) - part.out;
        });
        for (auto& cache : caches) give_back(std::move(cache));
        size_t total = 0;
        for (const Part& part : parts) {
            if (foreign_texts[part.text]) {
                counts[part.text] = -1;
                continue;
            }
            if (out + total != part.out) std::memmove(out + total, part.out, part.count * sizeof *out);
            counts[part.text] += int64_t(part.count);
            total += part.count;
        }
        return total;
    }

   private:
    uint32_t* encode_part(const Added& tokens, PieceCache& cache, const Part& part) {
        uint32_t* out = part.out;
        const auto take = [&](const uint8_t* begin, const uint8_t* end) {
            out = cache.encode(vocabulary, begin, end - begin, part.end, out);
        };
        const auto token = [&](uint32_t id) { *out++ = id; };
        const auto pieces = [&](const uint8_t* begin, const uint8_t* end) { scanner.cut(begin, end, take); };
        const auto section = [&](const uint8_t* begin, const uint8_t* end) { tokens.second.split(begin, end, pieces, token); };
        tokens.first.split(part.begin, part.end, section, token);
        return out;
    }

    std::unique_ptr<PieceCache> borrow() {
        const std::lock_guard lock(mutex_);
        if (caches_.empty()) return std::make_unique<PieceCache>();
        auto cache = std::move(caches_.back());
        caches_.pop_back();
        return cache;
    }

    void give_back(std::unique_ptr<PieceCache> cache) {
        const std::lock_guard lock(mutex_);
        caches_.push_back(std::move(cache));
    }

    bool composes_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<PieceCache>> caches_;
};

}  // namespace danlu
