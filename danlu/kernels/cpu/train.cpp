// The kernels of a training step, behind an interface in plain C. Each is one pass over its tensors on torch's threads.
//
// dtypes are 0 for float32 and 1 for bfloat16. Sizes are checked by the caller (kernels/training.py); tensors are
// contiguous but where a stride is asked for.

#include "causal.h"
#include "heads.h"
#include "linear.h"
#include "muon.h"
#include "rows.h"

using namespace danlu;

namespace {

// f(a null pointer of the type): the dtypes that come in as numbers become types.
template <class F>
void as_type(int dtype, F f) {
    if (dtype == 0)
        f((float*)nullptr);
    else
        f((uint16_t*)nullptr);
}

template <class T>
struct Behind;
template <class T>
struct Behind<T*> {
    using type = T;
};
template <class P>
using Of = typename Behind<P>::type;

}  // namespace

extern "C" {

// x and s are float32 or bfloat16, `added` is of dtype `added_dtype` or null, y of dtype `y_dtype`.
void danlu_rms_norm(int threads, int rows, int size, float eps, int x_dtype, int added_dtype, int y_dtype, const void* x,
                    const void* added, const float* w, void* s, void* y, float* r) {
    as_type(x_dtype, [&](auto a) {
        as_type(added_dtype, [&](auto b) {
            as_type(y_dtype, [&](auto c) {
                add_rms_norm(threads, rows, size, eps, (decltype(a))x, (const Of<decltype(b)>*)added, w, (decltype(a))s, (decltype(c))y, r);
            });
        });
    });
}

void danlu_rms_norm_backward(int threads, int rows, int size, int x_dtype, int added_dtype, int y_dtype, const void* g,
                             const void* d_sum, const void* s, const float* r, const float* w, void* d_s, void* d_added, float* d_w) {
    as_type(x_dtype, [&](auto a) {
        as_type(added_dtype, [&](auto b) {
            as_type(y_dtype, [&](auto c) {
                using X = const Of<decltype(a)>;
                add_rms_norm_backward(threads, rows, size, (const Of<decltype(c)>*)g, (X*)d_sum, (X*)s, r, w, (decltype(a))d_s,
                                      (decltype(b))d_added, d_w);
            });
        });
    });
}

void danlu_swiglu(int threads, int rows, int inner, int dtype, const void* gate_up, void* y) {
    as_type(dtype, [&](auto a) { swiglu(threads, rows, inner, (const Of<decltype(a)>*)gate_up, (decltype(a))y); });
}

void danlu_swiglu_backward(int threads, int rows, int inner, int dtype, const void* g, const void* gate_up, void* d_gate_up) {
    as_type(dtype, [&](auto a) {
        using T = const Of<decltype(a)>;
        swiglu_backward(threads, rows, inner, (T*)g, (T*)gate_up, (decltype(a))d_gate_up);
    });
}

void danlu_softmax_cross_entropy(int threads, int rows, int vocab, int dtype, void* logits, const int64_t* targets, int gradient,
                                 float* losses) {
    as_type(dtype, [&](auto a) { softmax_cross_entropy(threads, rows, vocab, (decltype(a))logits, targets, gradient != 0, losses); });
}

void danlu_norm_and_rotate(int threads, const Heads* heads, int dtype, const void* x, void* y) {
    as_type(dtype, [&](auto a) { norm_and_rotate(threads, *heads, (const Of<decltype(a)>*)x, (decltype(a))y); });
}

void danlu_norm_and_rotate_backward(int threads, const Heads* heads, int dtype, const void* d_q, const void* d_k, const void* d_v,
                                    const int64_t* strides, const void* x, void* d_x, float* d_weight) {
    as_type(dtype, [&](auto a) {
        using T = const Of<decltype(a)>;
        norm_and_rotate_backward(threads, *heads, (T*)d_q, (T*)d_k, (T*)d_v, strides, (T*)x, (decltype(a))d_x, d_weight);
    });
}

void danlu_causal_attention(int threads, const Causal* c, int dtype, const void* q, const void* k, const void* v, void* out,
                            float* log_sums) {
    as_type(dtype, [&](auto a) {
        using T = const Of<decltype(a)>;
        causal_attention(threads, *c, (T*)q, (T*)k, (T*)v, (decltype(a))out, log_sums);
    });
}

void danlu_causal_attention_backward(int threads, const Causal* c, int dtype, const void* q, const void* k, const void* v,
                                     const void* out, const float* log_sums, const void* d_out, void* d_q, void* d_k, void* d_v,
                                     int64_t d_stride) {
    as_type(dtype, [&](auto a) {
        using T = const Of<decltype(a)>;
        using P = decltype(a);
        causal_attention_backward(threads, *c, (T*)q, (T*)k, (T*)v, (T*)out, log_sums, (T*)d_out, (P)d_q, (P)d_k, (P)d_v, d_stride);
    });
}

// Rows and columns of each matrix are multiples of 16; products are in bfloat16 where it goes in pairs (panel.h).
void danlu_muon(int threads, int n, const MuonMatrix* matrices, const MuonStep* step) { muon(threads, n, matrices, *step); }

// Whether bfloat16 goes in pairs. Elsewhere the three below do nothing, and torch has the faster products for Muon.
int danlu_in_pairs() { return PAIRS; }

void danlu_linear(int threads, int rows, int n, int k, const void* x, const float* w, void* y) {
    linear(threads, rows, n, k, (const uint16_t*)x, w, (uint16_t*)y);
}

void danlu_linear_backward(int threads, int rows, int n, int k, const void* g, const void* x, const float* w, void* d_x, float* d_w) {
    linear_backward(threads, rows, n, k, (const uint16_t*)g, (const uint16_t*)x, w, (uint16_t*)d_x, d_w);
}

void danlu_linear_cross_entropy(int threads, int rows, int vocab, int size, int chunk, const void* h, const float* w,
                                const int64_t* targets, void* logits, float* losses, void* d_h, float* d_w) {
    linear_cross_entropy(threads, rows, vocab, size, chunk, (const uint16_t*)h, w, targets, (uint16_t*)logits, losses, (uint16_t*)d_h, d_w);
}

}  // extern "C"
