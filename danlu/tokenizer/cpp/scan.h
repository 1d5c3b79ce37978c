// Pre-tokenizers without a regex engine: where the piece that starts here ends.
//
// The patterns of the byte-level families differ in a few places and share the rest, so each is one small function over
// classes of code points (characters.h). An alternative of a pattern is an `if`, in the pattern's order; what a regex
// engine would find by going back is worked out by hand and noted beside it.
//
//   GPT2       's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   DIGITS     every \p{N} is cut out first, then GPT2 on what lies between (SmolLM2, StarCoder)
//   LLAMA      (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,k}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//              k = 3: Llama 3, cl100k; k = 1: Qwen2 and 2.5
//   DANLU      the table in bpe.py; k = han_run
//
// Every function is linear: a piece is looked at once, and only a space before a word twice.
// The text is UTF-8 from Python, thus valid; bytes that are not are taken one at a time, never read beyond the end.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "characters.h"

namespace danlu {

enum : uint8_t { LETTER = 1, MARK = 2, NUMBER = 4, SPACE = 8, HAN = 16, UNSPACED = 32, RECENT = 64, COMPOSES = 128 };
enum class Pattern : int { GPT2 = 0, DIGITS = 1, LLAMA = 2, DANLU = 3 };

constexpr int UNSPACED_RUN = 6;  // as in bpe.py
constexpr int NUMBER_RUN = 2;

inline const uint8_t* classes() {
    static const std::vector<uint8_t> table = [] {
        std::vector<uint8_t> all(0x110000);
        const size_t n = sizeof RUNS / sizeof RUNS[0];
        for (size_t i = 0; i < n; i++) {
            const uint32_t end = i + 1 < n ? RUNS[i + 1].start : 0x110000;
            for (uint32_t code = RUNS[i].start; code < end; code++) all[code] = RUNS[i].bits;
        }
        return all;
    }();
    return table.data();
}

struct Character {
    uint32_t length;  // bytes; 0 at the end of the text
    uint8_t bits;
};

class Scanner {
   public:
    Scanner(Pattern pattern, int k) : pattern_(pattern), k_(k), table_(classes()) {}

    // One past the last byte of the piece that starts at `at` < `end`.
    const uint8_t* piece(const uint8_t* at, const uint8_t* end) const {
        switch (pattern_) {
            case Pattern::LLAMA: return llama(at, end);
            case Pattern::DANLU: return danlu(at, end);
            default: return gpt2(at, end);
        }
    }

    // Calls take(begin, end) for each piece in turn.
    template <class Take>
    void cut(const uint8_t* at, const uint8_t* end, Take&& take) const {
        if (pattern_ != Pattern::DIGITS) {
            while (at < end) {
                const uint8_t* stop = piece(at, end);
                take(at, stop);
                at = stop;
            }
            return;
        }
        while (at < end) {
            const uint8_t* digit = at;
            Character c = look(digit, end);
            while (c.length && !(c.bits & NUMBER)) digit += c.length, c = look(digit, end);
            while (at < digit) {
                const uint8_t* stop = gpt2(at, digit);
                take(at, stop);
                at = stop;
            }
            if (c.length) take(digit, digit + c.length);
            at = digit + c.length;
        }
    }

    // Whether a character has one of these bits.
    bool any(const uint8_t* at, const uint8_t* end, uint8_t bits) const {
        while (at < end) {
            if (end - at >= 8) {
                uint64_t eight;
                std::memcpy(&eight, at, 8);
                if (!(eight & 0x8080808080808080u)) {
                    at += 8;  // no ASCII character is RECENT or COMPOSES
                    continue;
                }
            }
            const Character c = look(at, end);
            if (c.bits & bits) return true;
            at += c.length;
        }
        return false;
    }

    // A place at or after `at` where a piece ends whatever stands before and after: behind a line end that has no other
    // white space beside it. `end` where there is none.
    const uint8_t* safe(const uint8_t* at, const uint8_t* end) const {
        while (at < end) {
            at = static_cast<const uint8_t*>(std::memchr(at, '\n', end - at));
            if (!at) return end;
            at++;
            if (at < end && at[0] > ' ' && at[0] < 0x7f && at[-2] > ' ' && at[-2] < 0x7f) return at;
        }
        return end;
    }

   private:
    Character look(const uint8_t* at, const uint8_t* end) const {
        if (at >= end) return {0, 0};
        const uint32_t a = at[0];
        if (a < 0x80) return {1, table_[a]};
        if (a >= 0xe0 && a < 0xf0 && end - at >= 3)
            return {3, table_[(a & 15) << 12 | (at[1] & 63u) << 6 | (at[2] & 63u)]};
        if (a >= 0xc0 && a < 0xe0 && end - at >= 2) return {2, table_[(a & 31) << 6 | (at[1] & 63u)]};
        if (a >= 0xf0 && a < 0xf5 && end - at >= 4) {
            const uint32_t code = (a & 7) << 18 | (at[1] & 63u) << 12 | (at[2] & 63u) << 6 | (at[3] & 63u);
            if (code < 0x110000) return {4, table_[code]};
        }
        return {1, 0};
    }

    // Over all characters that have one of `some` and none of `none`.
    const uint8_t* run(const uint8_t* at, const uint8_t* end, uint8_t some, uint8_t none = 0) const {
        for (Character c = look(at, end); c.length && (c.bits & some) && !(c.bits & none); c = look(at, end))
            at += c.length;
        return at;
    }

    // Over all characters that have none of `none`.
    const uint8_t* run_without(const uint8_t* at, const uint8_t* end, uint8_t none) const {
        for (Character c = look(at, end); c.length && !(c.bits & none); c = look(at, end)) at += c.length;
        return at;
    }

    // At most `most` characters that have the bit.
    const uint8_t* few(const uint8_t* at, const uint8_t* end, uint8_t bit, int most) const {
        for (Character c = look(at, end); most-- && c.length && (c.bits & bit); c = look(at, end)) at += c.length;
        return at;
    }

    // Length of s, t, m, d, re, ve, ll behind an apostrophe, else 0. Without regard to case, "ſ" (U+017F) is an s.
    static size_t contraction(const uint8_t* at, const uint8_t* end, bool any_case) {
        const size_t left = end - at;
        if (!left) return 0;
        const uint8_t fold = any_case ? 0x20 : 0;
        const uint8_t a = at[0] | fold;
        if (a == 's' || a == 't' || a == 'm' || a == 'd') return 1;
        if (left < 2) return 0;
        if (any_case && at[0] == 0xc5 && at[1] == 0xbf) return 2;
        const uint8_t b = at[1] | fold;
        return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 2 : 0;
    }

    // \s*[\r\n]+ (where `lines`), \s+(?!\S), \s+ : all white space up to and with the last line end; else all of it at
    // the end of the text; else all but its last character, which goes with the word behind it; but at least one.
    const uint8_t* white(const uint8_t* at, const uint8_t* end, bool lines) const {
        const uint8_t *stop = at, *last = at, *line = nullptr;
        for (Character c = look(stop, end); c.length && (c.bits & SPACE); c = look(stop, end)) {
            last = stop;
            stop += c.length;
            if (*last == '\n' || *last == '\r') line = stop;
        }
        if (lines && line) return line;
        return stop == end || last == at ? stop : last;
    }

    const uint8_t* gpt2(const uint8_t* at, const uint8_t* end) const {
        if (*at == '\'')
            if (const size_t n = contraction(at + 1, end, false)) return at + 1 + n;
        const uint8_t* word = at + (*at == ' ');
        const Character c = look(word, end);
        if (c.length && !(c.bits & SPACE)) {
            if (c.bits & LETTER) return run(word, end, LETTER);
            if (c.bits & NUMBER) return run(word, end, NUMBER);
            return run_without(word, end, SPACE | LETTER | NUMBER);
        }
        return white(at, end, false);
    }

    // ` ?[^\s...]+[\r\n]*`, or null when there is none: `letters` are the classes that are no marks.
    const uint8_t* marks(const uint8_t* at, const uint8_t* end, uint8_t letters) const {
        const uint8_t* first = at + (*at == ' ');
        const uint8_t* stop = run_without(first, end, letters);
        if (stop == first) return nullptr;
        while (stop < end && (*stop == '\r' || *stop == '\n')) stop++;
        return stop;
    }

    const uint8_t* llama(const uint8_t* at, const uint8_t* end) const {
        const Character c = look(at, end);
        if (c.bits & LETTER) return run(at + c.length, end, LETTER);
        if (*at == '\'')
            if (const size_t n = contraction(at + 1, end, true)) return at + 1 + n;
        if (c.bits & NUMBER) return few(at, end, NUMBER, k_);
        if (*at != '\r' && *at != '\n') {
            const uint8_t* word = at + c.length;
            const uint8_t* stop = run(word, end, LETTER);
            if (stop != word) return stop;
        }
        if (const uint8_t* stop = marks(at, end, SPACE | LETTER | NUMBER)) return stop;
        return white(at, end, true);
    }

    const uint8_t* danlu(const uint8_t* at, const uint8_t* end) const {
        const Character c = look(at, end);
        if (c.bits & HAN) return few(at, end, HAN, k_);
        if (c.bits & UNSPACED) return few(at, end, UNSPACED, UNSPACED_RUN);
        if (c.bits & (LETTER | MARK)) return run(at + c.length, end, LETTER | MARK, HAN | UNSPACED);
        if (*at == '\'')
            if (const size_t n = contraction(at + 1, end, true)) return at + 1 + n;
        if (c.bits & NUMBER) return few(at, end, NUMBER, NUMBER_RUN);
        if (*at != '\r' && *at != '\n') {
            const uint8_t* word = at + c.length;
            const uint8_t* stop = run(word, end, LETTER | MARK, HAN | UNSPACED);
            if (stop != word) return stop;
        }
        if (const uint8_t* stop = marks(at, end, SPACE | LETTER | MARK | NUMBER)) return stop;
        return white(at, end, true);
    }

    Pattern pattern_;
    int k_;
    const uint8_t* table_;
};

}  // namespace danlu
