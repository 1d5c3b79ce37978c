// The C interface of the one pass: danlu/data/scan/batch.py is the caller and says what the arrays are.

#include <algorithm>
#include <cstdint>
#include <memory>

#include "document.h"
#include "measures.h"
#include "phrases.h"
#include "repeats.h"
#include "signature.h"
#include "text.h"

using namespace danlu;

extern "C" {

const char* danlu_columns() { return COLUMNS; }

struct Setup {
    Classes classes;
    const uint8_t* phrase_bytes;
    const int64_t* phrase_offsets;
    const uint8_t* phrase_kinds;
    int32_t phrases;
    int32_t languages;
    const uint64_t* word_hashes;  // of all languages, one after the other
    const uint8_t* word_marks;
    const int32_t* word_offsets;  // [languages + 1]
    const uint32_t* a;            // [128]
    const uint32_t* b;
};

struct Batch {
    int64_t documents;
    const uint8_t* bytes;
    const int64_t* offsets;   // [documents + 1]
    const uint8_t* language;  // [documents]: whose words are counted
    const uint8_t* shingle;   // [documents]: units in a shingle
    float* measures;          // [documents][M], or null
    uint32_t* signatures;     // [documents][128], or null
    uint32_t* units;          // [documents]
    uint64_t* lines;          // hashes of all lines, one document after the other, or null
    uint64_t* paragraphs;
    int64_t* line_ends;       // [documents]: lines up to the end of this document
    int64_t* paragraph_ends;
    uint32_t* shingles;       // of all documents, each sorted and once, or null
    int64_t* shingle_ends;
};

void danlu_scan(const Setup* setup, const Batch* batch) {
    Alphabet alphabet(setup->classes);
    Phrases phrases(setup->phrase_bytes, setup->phrase_offsets, setup->phrase_kinds, setup->phrases);
    auto document = std::make_unique<Document>();
    Repeats repeats;
    Numbers seen;
    std::vector<uint32_t> shingles;
    int64_t lines = 0, paragraphs = 0, written = 0;
    float* measured = batch->measures;
    for (int64_t i = 0; i < batch->documents; i++) {
        const uint8_t *begin = batch->bytes + batch->offsets[i], *end = batch->bytes + batch->offsets[i + 1];
        document->scan(alphabet, begin, end);
        batch->units[i] = uint32_t(document->units.size());
        if (measured) {
            uint32_t found[KINDS];
            phrases.count(begin, end, found);
            document->lines.compare(seen);
            document->paragraphs.compare(seen);
            repeats.find(document->units.data(), document->lengths.data(), document->units.size());
            int language = batch->language[i], from = setup->word_offsets[language];
            Words words{setup->word_hashes + from, setup->word_marks + from, setup->word_offsets[language + 1] - from};
            measured += measures(*document, repeats, setup->classes, words, found, measured);
        }
        if (batch->signatures && !document->units.empty())
            signature(document->units, batch->shingle[i], setup->a, setup->b, shingles, batch->signatures + i * PERMUTATIONS);
        if (batch->shingles) {
            shingles.clear();
            if (!document->units.empty()) shingle(document->units, batch->shingle[i], shingles);
            std::sort(shingles.begin(), shingles.end());
            auto end = std::unique(shingles.begin(), shingles.end());
            std::copy(shingles.begin(), end, batch->shingles + written);
            batch->shingle_ends[i] = written += end - shingles.begin();
        }
        if (batch->lines) {
            for (uint64_t hash : document->lines.hashes) batch->lines[lines++] = hash;
            for (uint64_t hash : document->paragraphs.hashes) batch->paragraphs[paragraphs++] = hash;
            batch->line_ends[i] = lines, batch->paragraph_ends[i] = paragraphs;
        }
    }
}

}  // extern "C"
