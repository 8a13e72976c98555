// NumPy arrays as the bindings take them, and how they refuse.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

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

}  // namespace outthink
