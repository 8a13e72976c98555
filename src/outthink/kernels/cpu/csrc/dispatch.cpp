#include <cstring>

#include "kernels.h"

namespace outthink {
namespace {

bool runs_avx512() {
#if defined(OUTTHINK_AVX512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#else
    return false;
#endif
}

bool runs_avx2() {
#if defined(OUTTHINK_AVX2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return false;
#endif
}

}  // namespace

// The build defines these where the compiler knows the instruction set.
#if !defined(OUTTHINK_AVX512)
const Kernels* avx512_kernels() { return nullptr; }
#endif
#if !defined(OUTTHINK_AVX2)
const Kernels* avx2_kernels() { return nullptr; }
#endif

const Kernels* select_kernels(const char* name) {
    const Kernels* usable[] = {runs_avx512() ? avx512_kernels() : nullptr, runs_avx2() ? avx2_kernels() : nullptr,
                               generic_kernels()};
    for (const Kernels* kernels : usable) {
        if (kernels && (std::strcmp(name, "auto") == 0 || std::strcmp(name, kernels->name) == 0)) return kernels;
    }
    return nullptr;
}

}  // namespace outthink
