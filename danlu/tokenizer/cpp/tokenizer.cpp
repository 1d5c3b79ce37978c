// The C interface that danlu/tokenizer/encoder.py and trainer.py call through ctypes.
//
// Nothing throws across it: what cannot be done (no memory, damaged vocabulary) is a null handle or -1.

#include "encoder.h"
#include "trainer.h"

using namespace danlu;

extern "C" {

// An encoder, or null where the vocabulary is none that it can read. `foreign_nfc`: leave texts that NFC could change.
void* danlu_encoder_new(int pattern, int k, int foreign_nfc, int whole_words, const char* tokens, uint64_t tokens_size,
                        const uint32_t* ids, uint64_t n, const char* merges, uint64_t merges_size, uint64_t n_merges) {
    try {
        auto encoder = std::make_unique<Encoder>(Pattern(pattern), k, foreign_nfc != 0);
        if (!encoder->vocabulary.read({tokens, tokens_size}, ids, n, {merges, merges_size}, n_merges, whole_words != 0))
            return nullptr;
        return encoder.release();
    } catch (const std::exception&) {
        return nullptr;
    }
}

void danlu_encoder_free(void* encoder) { delete static_cast<Encoder*>(encoder); }

// An added token (not empty) of set 0 or 1, looked for in the first or the second pass. 0, or -1.
int danlu_encoder_add(void* encoder, int set, const char* text, uint64_t size, uint32_t id, int second_pass,
                      int skipped) {
    try {
        auto& added = static_cast<Encoder*>(encoder)->added[set];
        (second_pass ? added.second : added.first).add({std::string(text, size), id, skipped != 0});
        return 0;
    } catch (const std::exception&) {
        return -1;
    }
}

// See Encoder::encode. -1 when memory ran out.
int64_t danlu_encoder_encode(void* encoder, int set, const uint8_t* const* texts, const uint64_t* lengths, uint64_t n,
                             uint64_t threads, uint32_t* out, int64_t* counts) {
    try {
        auto& self = *static_cast<Encoder*>(encoder);
        return int64_t(self.encode(self.added[set], texts, lengths, n, threads, out, counts));
    } catch (const std::exception&) {
        return -1;
    }
}

// Where the pieces of a text end, in bytes; returns how many there are. For tests and reports.
uint64_t danlu_encoder_cut(void* encoder, const uint8_t* text, uint64_t length, uint64_t* ends) {
    uint64_t n = 0;
    static_cast<Encoder*>(encoder)->scanner.cut(
        text, text + length, [&](const uint8_t*, const uint8_t* end) { ends[n++] = end - text; });
    return n;
}
}
