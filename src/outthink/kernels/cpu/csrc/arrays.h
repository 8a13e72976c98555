// NumPy arrays as the bindings take them, and how they refuse.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>
#include <type_traits>
#include <vector>

#include "step.h"

namespace outthink {

namespace nb = nanobind;

template <class T>
using Row = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using Table = nb::ndarray<T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ints = Row<const int32_t>;
using IntTable = Table<const int32_t>;

inline void require(bool condition, const std::string& message) {
    if (!condition) throw nb::value_error(message.c_str());
}

inline constexpr size_t kMaxRows = size_t{1} << 18;  // of a call: products of rows and parts stay whole numbers of 32 bits

// What is checked with the interpreter lock held must not change once it is released.
template <class Array>
auto copy_of(const Array& array) {
    using Element = std::remove_cv_t<std::remove_reference_t<decltype(*array.data())>>;
    return std::vector<Element>(array.data(), array.data() + array.size());
}

}  // namespace outthink
