// Low-rank adapters beside a model: y = x W^T + (x A^T) B^T for the rows of those requests that ask for one.
//
//     low  = A x       [r]       as soon as a row of x is made (Stepper::prepare)
//     more = B low               for one block of outputs, added where the product hands them over (Stepper::multiply)
//
// So an adapter costs no barrier and no pass over y of its own. Rows without one are not touched.
//
// One matrix of the model may be several of the adapter's: query, key and value each have an A and a B. Their lows stand
// one behind the other in a row, and the rows of each B lie in blocks of LANES as those of the matrix do, so that a block
// of outputs belongs to one part, or to none. The scale is in B.
//
// Both products are those of product.h over float weights: a row's result does not depend on the rows beside it.

#pragma once

#include "product.h"

namespace danlu {

struct Part {
    Matrix a, b;  // [r, K], [n, r]
    int begin;    // of its low in the row's
};

struct LowRank {  // all that an adapter adds to one matrix
    struct Block {
        int part = -1, block = 0;  // which B, and which block of it
    };
    std::vector<Part> parts;
    std::vector<Block> blocks;  // of the matrix
    int width = 0;              // floats of a row's low

    bool changes(int block) const { return blocks[block].part >= 0; }

    // Rows of x [n, stride] -> rows of low [n, low_stride].
    void shrink(const float* x, size_t stride, int n, float* low, size_t low_stride) const {
        for (const Part& part : parts) {
            auto keep = [&](int row, int r, Floats y) { store(low + row * low_stride + part.begin + r, y); };
            multiply_blocks(part.a, 0, part.a.blocks, {x, stride}, n, keep);
        }
    }

    // What is added to one block of outputs: rows of low -> LANES floats each, `more_stride` apart.
    void expand(int block, const float* low, size_t low_stride, int n, float* more, size_t more_stride) const {
        if (!changes(block)) return;
        const Part& part = parts[blocks[block].part];
        auto keep = [&](int row, int, Floats y) { store(more + row * more_stride, y); };
        const int b = blocks[block].block;
        multiply_blocks(part.b, b, b + 1, {low + part.begin, low_stride}, n, keep);
    }
};

struct Adapter {
    const void* model;              // the one it was made for
    std::vector<LowRank> products;  // [layer * 4 + which]
    int width = 0;                  // of the widest
    Arena arena = {};
};

}  // namespace danlu
