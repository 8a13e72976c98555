// The Python face of `Decoder`.
#pragma once

#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <utility>
#include <vector>

#include "arrays.h"
#include "decode.h"

namespace outthink {

// The options of R rows: keys, temperature, top_p, min_p [R], top_k [R].
struct LawArrays {
    Row<const uint64_t> keys;
    Row<const double> temperature, top_p, min_p;
    Ints top_k;
};

using StopLists = std::vector<std::pair<std::vector<int32_t>, std::vector<nb::bytes>>>;

void sample_rows(Decoder& decoder, const Shape& shape, const Table<const float>& logits, const Ints& positions,
                 const LawArrays& laws, const Row<int32_t>& tokens, const Row<double>& log_probs,
                 const Row<double>& sample_log_probs);

struct DecodeArrays {
    Ints tokens, positions;
    IntTable page_tables;
    Ints limits, groups;
    LawArrays laws;
    Ints interrupt;
};

int decode_rows(Decoder& decoder, const Shape& shape, const DecodeArrays& arrays, const StopLists& stops,
                const std::vector<nb::bytes>& tails, double seconds, const Table<int32_t>& tokens,
                const Table<double>& log_probs, const Table<double>& sample_log_probs, const Row<int32_t>& counts);

}  // namespace outthink
