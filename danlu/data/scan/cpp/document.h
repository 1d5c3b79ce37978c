// One pass over a document: its units, its lines, and how many characters of each class it has.
//
// A unit is one character of a script without spaces, or a run of other word characters (danlu/core/text.py), lower-cased.
// Outside of runs every character is counted by its class; whatever is asked about characters is then a sum over classes.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "table.h"
#include "text.h"

namespace danlu {

constexpr uint32_t LONG_UNIT = 40;

// Lines or paragraphs: how many there are, and what of them occurred before.
struct Pieces {
    std::vector<uint64_t> hashes;
    std::vector<uint32_t> lengths;  // characters
    uint64_t characters = 0;
    uint32_t repeats = 0;             // pieces that occurred before
    uint64_t repeated_characters = 0;
    uint64_t longer = 0, longer_unique = 0;  // characters in pieces of four or more; in the first of each

    void clear() { hashes.clear(), lengths.clear(); }

    void add(uint64_t hash, uint32_t length) { hashes.push_back(hash), lengths.push_back(length); }

    void compare(Numbers& table) {
        table.clear(hashes.size());
        characters = repeats = repeated_characters = longer = longer_unique = 0;
        for (size_t i = 0; i < hashes.size(); i++) {
            size_t known = table.keys.size();
            bool again = table.add(hashes[i]) < known;
            characters += lengths[i];
            repeats += again;
            repeated_characters += again ? lengths[i] : 0;
            if (lengths[i] < 4) continue;
            longer += lengths[i];
            longer_unique += again ? 0 : lengths[i];
        }
    }
};

struct Document {
    uint64_t counts[256];  // characters of each class, those of word runs left out
    uint64_t characters, run_characters, unit_characters, long_characters, alphabetic;
    uint64_t sentences, clauses, ellipses, newlines;
    uint64_t headings;  // number signs that begin lines
    uint64_t bullets, ellipsis_lines, terminal_lines, short_lines, brief_lines;
    std::vector<uint64_t> units;    // hashes
    std::vector<uint32_t> lengths;  // characters
    Pieces lines, paragraphs;

    // bytes [begin, end) are followed by PADDING.
    void scan(const Alphabet& letters, const uint8_t* begin, const uint8_t* end) {
        clear();
        alphabet = &letters;
        line_begin = begin, line_first = 0;
        const uint8_t* p = begin;
        while (p < end) {
            Character c = letters.read(p);
            if (pending) settle(c.flags);
            if (c.flags & (WORD | UNSPACED)) {
                p = c.flags & UNSPACED ? one(c, p) : run(c, p, end);
                continue;
            }
            counts[c.kind]++, characters++, p += c.size;
            if (c.flags & (SENTENCE | CLAUSE | DOT)) {
                pending = c.flags;
                dots += (c.flags & DOT) != 0;
            } else if (c.flags & NEWLINE) {
                newlines++;
                line(p - 1, characters - 1);
                line_begin = p, line_first = characters;
            }
        }
        if (pending) settle(SPACE);
        line(std::min(p, end), characters);
        end_paragraph();
    }

  private:
    const Alphabet* alphabet;
    const uint8_t* line_begin;
    uint64_t line_first;  // characters before this line
    uint32_t pending, dots;
    uint64_t paragraph_hash;
    uint32_t paragraph_length, paragraph_lines;

    void clear() {
        std::memset(counts, 0, sizeof counts);
        characters = run_characters = unit_characters = long_characters = alphabetic = 0;
        sentences = clauses = ellipses = newlines = 0;
        headings = bullets = ellipsis_lines = terminal_lines = short_lines = brief_lines = 0;
        units.clear(), lengths.clear(), lines.clear(), paragraphs.clear();
        pending = dots = paragraph_length = paragraph_lines = 0;
        paragraph_hash = SEED;
    }

    void unit(uint64_t hash, uint32_t length, uint32_t flags) {
        hash ^= hash >> 32;
        units.push_back(hash * FACTOR_2);
        lengths.push_back(length);
        unit_characters += length;
        long_characters += length > LONG_UNIT ? length : 0;
        alphabetic += (flags & ALPHA) != 0;
    }

    const uint8_t* one(const Character& c, const uint8_t* p) {
        counts[c.kind]++, characters++;
        unit((SEED ^ c.lower) * FACTOR, 1, c.flags);
        return p + c.size;
    }

    const uint8_t* run(Character c, const uint8_t* p, const uint8_t* end) {
        uint64_t hash = SEED;
        uint32_t length = 0, flags = 0;
        do {
            hash = (hash ^ c.lower) * FACTOR;
            length++, flags |= c.flags, p += c.size;
            if (c.flags & SPLITS || p >= end) break;
            c = alphabet->read(p);
        } while ((c.flags & (WORD | UNSPACED)) == WORD);
        characters += length, run_characters += length;
        unit(hash, length, flags);
        return p;
    }

    // What the last sentence end, clause end or dot was, now that the next character is known.
    void settle(uint32_t next) {
        uint32_t last = pending;
        pending = 0;
        bool apart = (next & (SPACE | CLOSER | UNSPACED)) != 0;
        if (last & SENTENCE) sentences += last & WIDE ? !(next & SENTENCE) : apart;
        if (last & CLAUSE) clauses += last & WIDE ? !(next & CLAUSE) : apart;
        if (last & DOT && !(next & DOT)) ellipses += dots / 3, dots = 0;
    }

    // The line up to `end`, without its outer white space.
    void line(const uint8_t* end, uint64_t last_character) {
        const uint8_t* begin = line_begin;
        uint64_t length = last_character - line_first;
        Character first{}, last{};
        while (begin < end && (first = alphabet->read(begin)).flags & SPACE) begin += first.size, length--;
        while (begin < end) {
            const uint8_t* back = end - 1;
            while (back > begin && (*back & 0xc0) == 0x80) back--;
            last = alphabet->read(back);
            if (!(last.flags & SPACE)) break;
            end = back, length--;
        }
        if (begin >= end) return end_paragraph();
        for (const uint8_t* p = begin; p < end && *p == '#'; p++) headings++;
        bullets += (first.flags & BULLET) != 0;
        terminal_lines += (last.flags & TERMINAL) != 0;
        ellipsis_lines += last.flags & ELLIPSIS || (end - begin >= 3 && !std::memcmp(end - 3, "...", 3));
        short_lines += length <= 30;
        brief_lines += length <= 8;
        uint64_t hash = hash_bytes(begin, end - begin);
        lines.add(hash, uint32_t(length));
        paragraph_hash = (paragraph_hash ^ hash) * FACTOR;
        paragraph_hash ^= paragraph_hash >> 32;
        paragraph_length += uint32_t(length), paragraph_lines++;
    }

    void end_paragraph() {
        if (paragraph_lines) paragraphs.add(paragraph_hash * FACTOR_2, paragraph_length);
        paragraph_hash = SEED, paragraph_length = paragraph_lines = 0;
    }
};

}  // namespace danlu
