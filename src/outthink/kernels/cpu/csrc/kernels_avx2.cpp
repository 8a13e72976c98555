#include "isa_avx2.h"
// The order matters: each needs the ones before it.
#include "rows.inl"
#include "linear.inl"
#include "pages.inl"
#include "attention.inl"
#include "sample.inl"

namespace outthink {

const Kernels* avx2_kernels() {
    static const Kernels table = {"avx2", linear, multiply_cached, embed, normalize, quantize, int4_error, rotate, attend_block, fold, finish, sample};
    return &table;
}

}  // namespace outthink
