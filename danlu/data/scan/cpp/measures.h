// From what was counted to the numbers of danlu/data/quality/measure.py: the same names in the same order.
//
// Every number is one division of whole numbers in double precision, rounded once to float32: so the reference in Python,
// which counts in another way, gives the same bits.

#pragma once

#include <cstdint>
#include <vector>

#include "document.h"
#include "phrases.h"
#include "repeats.h"

namespace danlu {

constexpr const char* COLUMNS =
    "characters units letter_share symbol_share replacement_share han_share mean_line mean_unit long_unit_share "
    "alphabetic_share repeated_line_share repeated_phrase_share advertising_rate spam_rate link_rate generated hash_rate "
    "ellipsis_rate stop_words common_share lines paragraphs bullet_line_share ellipsis_line_share terminal_line_share "
    "short_line_share brief_line_share line_rate duplicate_line_share duplicate_line_characters "
    "duplicate_paragraph_share duplicate_paragraph_characters sentences clauses punctuation_rate curly curly_rate placeholder script "
    "policy top_2 top_3 top_4 top_5 top_6 duplicate_5 duplicate_6 duplicate_7 duplicate_8 duplicate_9 duplicate_10 "
    "duplicate_11 duplicate_13 duplicate_14 duplicate_16";

// The order of PHRASES in phrases.py.
enum Kind { ADVERTISING, SPAM, PLACEHOLDER, SCRIPT, POLICY, LINK, GENERATED };

// The words of one language that are counted: hashes of units, ascending, and what each is.
struct Words {
    const uint64_t* hashes;
    const uint8_t* marks;  // bit 0: a stop word of this language; bit 1: a common character
    int count;

    uint8_t operator[](uint64_t hash) const {
        const uint64_t* found = std::lower_bound(hashes, hashes + count, hash);
        return found != hashes + count && *found == hash ? marks[found - hashes] : 0;
    }
};

inline double share(uint64_t part, uint64_t whole) { return double(part) / double(whole > 1 ? whole : 1); }

// Returns the number of columns written.
inline int measures(
    const Document& d, const Repeats& r, const Classes& classes, const Words& words, const uint32_t* phrases, float* out
) {
    uint64_t visible = d.run_characters, symbols = 0, replaced = 0, han = 0, hashes = 0, ellipses = d.ellipses, curly = 0;
    for (int kind = 0; kind < 256; kind++) {
        uint64_t n = d.counts[kind];
        if (!n) continue;
        uint32_t flags = classes.flags[kind];
        visible += flags & SPACE ? 0 : n;
        symbols += flags & SYMBOL ? n : 0;
        replaced += flags & REPLACEMENT ? n : 0;
        han += flags & HAN ? n : 0;
        hashes += flags & HASH ? n : 0;
        ellipses += flags & ELLIPSIS ? n : 0;
        curly += flags & CURLY ? n : 0;
    }
    uint64_t stop_words = 0, common = 0;
    for (size_t i = 0; i < r.units.keys.size(); i++) {
        uint8_t mark = words[r.units.keys[i]];
        stop_words += mark & 1;
        common += mark & 2 ? r.units.counts[i] : 0;
    }
    uint64_t units = d.units.size(), lines = d.lines.hashes.size(), runs = units >= 5 ? units - 4 : 0;
    auto per_hundred = [&](uint64_t n) { return 100.0 * double(n) / double(units > 1 ? units : 1); };
    float* at = out;
    auto put = [&](double x) { *at++ = float(x); };
    put(double(d.characters));
    put(double(units));
    put(share(d.unit_characters, visible));
    put(share(symbols, visible));
    put(share(replaced, d.characters));
    put(share(han, visible));
    put(share(d.lines.characters, lines));
    put(share(d.unit_characters, units));
    put(share(d.long_characters, visible));
    put(share(d.alphabetic, units));
    put(d.lines.longer ? 1 - double(d.lines.longer_unique) / double(d.lines.longer) : 0);
    put(runs >= 40 ? 1 - double(runs - r.surplus_of_5) / double(runs) : 0);
    put(phrases[ADVERTISING] >= 3 ? per_hundred(phrases[ADVERTISING]) : 0);
    put(phrases[SPAM] >= 2 ? per_hundred(phrases[SPAM]) : 0);
    put(per_hundred(phrases[LINK]));
    put(phrases[GENERATED] > 0);  // "perhaps": Python looks closer
    put(share(hashes - d.headings, units));
    put(share(ellipses, units));
    put(double(stop_words));
    put(share(common, han));
    put(double(lines));
    put(double(d.paragraphs.hashes.size()));
    for (uint64_t n : {d.bullets, d.ellipsis_lines, d.terminal_lines, d.short_lines, d.brief_lines}) put(share(n, lines));
    put(share(lines, units));
    put(share(d.lines.repeats, lines));
    put(share(d.lines.repeated_characters, d.lines.characters));
    put(share(d.paragraphs.repeats, d.paragraphs.hashes.size()));
    put(share(d.paragraphs.repeated_characters, d.lines.characters));
    put(double(d.sentences));
    put(double(d.clauses));
    put(per_hundred(d.clauses));
    put(double(curly));
    put(per_hundred(curly));
    for (Kind kind : {PLACEHOLDER, SCRIPT, POLICY}) put(double(phrases[kind]));
    for (int n : {2, 3, 4, 5, 6}) put(share(r.top[n].count * r.top[n].length, d.unit_characters));
    for (int n : {5, 6, 7, 8, 9, 10, 11, 13, 14, 16}) put(share(r.duplicated[n], d.unit_characters));
    return int(at - out);
}

}  // namespace danlu
