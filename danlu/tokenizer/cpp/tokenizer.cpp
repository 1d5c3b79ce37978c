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

// The table of characters, one byte for each of 0x110000 code points.
void danlu_classes(uint8_t* out) { std::memcpy(out, classes(), 0x110000); }

// A trainer whose pieces are cut, and begin as the ids, that `encoder` gives; it must live as long. `folder` takes what
// does not fit into `budget` bytes. Null when memory ran out.
void* danlu_trainer_new(void* encoder, const char* folder, uint64_t budget) {
    try {
        return new Trainer(*static_cast<Encoder*>(encoder), folder, budget);
    } catch (const std::exception&) {
        return nullptr;
    }
}

void danlu_trainer_free(void* trainer) { delete static_cast<Trainer*>(trainer); }

// See PieceCounter::add. 0, or -1 when there was no room on disk or in memory.
int danlu_trainer_add(void* trainer, const uint8_t* const* texts, const uint64_t* lengths, uint64_t n, uint64_t threads,
                      uint8_t* foreign) {
    try {
        static_cast<Trainer*>(trainer)->counter().add(texts, lengths, n, threads, foreign);
        return 0;
    } catch (const std::exception&) {
        return -1;
    }
}

int danlu_trainer_add_piece(void* trainer, const char* bytes, uint64_t size, uint64_t count) {
    try {
        if (size) static_cast<Trainer*>(trainer)->counter().add_piece(0, {bytes, size}, count);
        return 0;
    } catch (const std::exception&) {
        return -1;
    }
}

int danlu_trainer_token(void* trainer, const char* bytes, uint64_t size, uint32_t id) {
    try {
        static_cast<Trainer*>(trainer)->token({bytes, size}, id);
        return 0;
    } catch (const std::exception&) {
        return -1;
    }
}

// See Trainer::learn. The number of merges, or -1 when there was no room on disk or in memory.
int64_t danlu_trainer_learn(void* trainer, uint32_t next, uint32_t room, uint64_t min_frequency) {
    try {
        auto& self = *static_cast<Trainer*>(trainer);
        self.learn(next, room, min_frequency);
        return int64_t(self.merges.size());
    } catch (const std::exception&) {
        return -1;
    }
}

// The merges as (left, right, joined), [merges, 3], and four numbers: pieces kept and dropped, how often the dropped ones
// occur, runs on disk.
void danlu_trainer_result(void* trainer, uint32_t* merges, uint64_t* numbers) {
    auto& self = *static_cast<Trainer*>(trainer);
    for (const Learned& merge : self.merges) {
        *merges++ = merge.left;
        *merges++ = merge.right;
        *merges++ = merge.joined;
    }
    const PieceCounter& counter = self.counter();
    numbers[0] = counter.kept;
    numbers[1] = counter.dropped;
    numbers[2] = counter.dropped_count;
    numbers[3] = counter.spilled();
}
}
