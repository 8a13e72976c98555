// Drawing a token by inverting the distribution function at one number, in float64 whatever the instruction set: plain
// loops, which compilers turn into vectors, and every sum in one fixed order. Included after rows.inl.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace outthink {
namespace {

// exp of x <= 0 for a block, relative error about 1e-16; below -708 it stays at exp(-708).
// (Cephes: a quotient of polynomials after taking off a multiple of ln 2.)
inline void exponentials(double* x) {
    constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it leaves a whole number in the low bits
    for (int i = 0; i < kLawBlock; ++i) {
        const double v = x[i] > -708.0 ? x[i] : -708.0;
        const double shifted = v * 1.4426950408889634074 + kMagic, n = shifted - kMagic;
        const double r = (v - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6, square = r * r;
        const double p = r * ((1.26177193074810590878e-4 * square + 3.02994407707441961300e-2) * square + 1.0);
        const double q = ((3.00198505138664455042e-6 * square + 2.52448340349684104192e-3) * square +
                          2.27265548208155028766e-1) * square + 2.0;
        const double e = 1.0 + 2.0 * (p / (q - p));
        uint64_t bits, scale;
        std::memcpy(&bits, &shifted, sizeof bits);
        scale = (bits + 1023) << 52;
        double power;
        std::memcpy(&power, &scale, sizeof power);
        x[i] = e * power;
    }
}

inline double sum_of_block(const double* x) {
    double part[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    for (int i = 0; i < kLawBlock; i += 8) {
        for (int j = 0; j < 8; ++j) part[j] += x[i + j];
    }
    return ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
}

inline int num_blocks(int size) { return (size + kLawBlock - 1) / kLawBlock; }

// The largest logit; not a number where any is not finite.
inline float largest_logit(const SampleTask& task) {
    Vec most = splat(task.logits[0]), zeros = zero();
    int i = 0;
    for (; i + kLanes <= task.size; i += kLanes) {
        const Vec x = load(task.logits + i);
        most = max(most, x);
        zeros = fma(x, zero(), zeros);
    }
    float maximum = largest(most), check = sum(zeros);
    for (; i < task.size; ++i) {
        maximum = task.logits[i] > maximum ? task.logits[i] : maximum;
        check += task.logits[i] * 0.0f;
    }
    return check == 0.0f ? maximum : __builtin_nanf("");
}

// exp((logit - most) / temperature) for all tokens, 0 in the padding; the sums of blocks follow. Returns their sum.
inline double fill_law(const SampleTask& task, float most, double temperature) {
    const int blocks = num_blocks(task.size);
    double total = 0.0, *sums = task.law + blocks * kLawBlock;
    for (int b = 0; b < blocks; ++b) {
        double* x = task.law + b * kLawBlock;
        const float* logits = task.logits + b * kLawBlock;
        const int count = std::min(kLawBlock, task.size - b * kLawBlock);
        if (count == kLawBlock) {
            for (int i = 0; i < kLawBlock; ++i) x[i] = (double{logits[i]} - double{most}) / temperature;
        } else {
            for (int i = 0; i < kLawBlock; ++i) x[i] = i < count ? (double{logits[i]} - double{most}) / temperature : 0.0;
        }
        exponentials(x);
        for (int i = count; i < kLawBlock; ++i) x[i] = 0.0;
        total += sums[b] = sum_of_block(x);
    }
    return total;
}

// Ranks the tokens that can be kept, likeliest first and ties by their number; returns how many they are. `total` is the
// sum that top_p is a share of: of all tokens, or of the top k.
inline int rank_tokens(const SampleTask& task, double& total) {
    const double* law = task.law;
    const auto before = [law](int32_t a, int32_t b) { return law[a] > law[b] || (law[a] == law[b] && a < b); };
    const int k = task.top_k > 0 ? std::min(task.top_k, task.size) : 0;
    // The likeliest token has 1. Few others matter as a rule, and sorting all would take longer than all the rest.
    double least = k || task.min_p <= 0.0 ? 0x1p-4 : task.min_p;
    for (;; least *= 0x1p-3) {
        if (least < 0x1p-60) least = 0.0;
        int count = 0;
        double sum = 0.0;
        for (int i = 0; i < task.size; ++i) {
            task.ranked[count] = i;
            count += law[i] >= least;
        }
        for (int i = 0; i < count; ++i) sum += law[task.ranked[i]];
        const bool enough = k ? count >= k : task.min_p > 0.0 || sum > task.top_p * total * (1.0 + 1e-9);
        if (!enough && least > 0.0) continue;
        if (k && k < count) std::nth_element(task.ranked, task.ranked + k, task.ranked + count, before);
        if (k) count = k;
        std::sort(task.ranked, task.ranked + count, before);
        if (k) {
            total = 0.0;
            for (int i = 0; i < count; ++i) total += law[task.ranked[i]];
        }
        return count;
    }
}

// Keeps the top k, then the smallest likeliest set of mass top_p, then what reaches min_p of the likeliest; ties go to
// the lowest token. Returns the new sum.
inline double filter_law(const SampleTask& task, double total) {
    const int count = rank_tokens(task, total);
    int kept = 0;
    for (double passed = 0.0; kept < count; ++kept) {
        const double p = task.law[task.ranked[kept]];
        if ((task.top_p < 1.0 && passed / total >= task.top_p) || p < task.min_p) break;
        passed += p;
    }
    std::sort(task.ranked, task.ranked + kept);
    const int blocks = num_blocks(task.size);
    double *sums = task.law + blocks * kLawBlock, sum = 0.0;
    std::fill(sums, sums + blocks, 0.0);
    int next = 0;
    for (int i = 0; i < kept; ++i) {
        const int token = task.ranked[i];
        std::fill(task.law + next, task.law + token, 0.0);
        sums[token / kLawBlock] += task.law[token];
        next = token + 1;
    }
    std::fill(task.law + next, task.law + task.size, 0.0);
    for (int b = 0; b < blocks; ++b) sum += sums[b];
    return sum;
}

// A number in the open interval (0, 1): `uniforms` of outthink.core.rng.
inline double uniform(uint64_t key, uint64_t counter) {
    uint64_t z = key + 0x9E3779B97F4A7C15u * (counter + 1);
    for (int round = 0; round < 2; ++round) {
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
    }
    return (static_cast<double>(z >> 12) + 0.5) * 0x1p-52;
}

// The first token whose cumulated probability is above `point`, the last possible one where rounding leaves none.
inline int32_t invert(const SampleTask& task, double point) {
    const int blocks = num_blocks(task.size);
    const double* sums = task.law + blocks * kLawBlock;
    double passed = 0.0;
    int last = 0;
    for (int b = 0; b < blocks; ++b) {
        if (sums[b] <= 0.0) continue;
        last = b;
        if (passed + sums[b] > point) break;
        passed += sums[b];
    }
    int32_t token = -1;
    for (int i = last * kLawBlock; i < (last + 1) * kLawBlock; ++i) {
        if (task.law[i] <= 0.0) continue;
        token = i;
        passed += task.law[i];
        if (passed > point) break;
    }
    return token;
}

Draw sample(const SampleTask& task) {
    Draw draw;
    const float most = largest_logit(task);
    if (!(most == most)) return draw;
    const auto below = [&](int32_t token) { return double{task.logits[token]} - double{most}; };
    double total = fill_law(task, most, 1.0);
    const double log_total = std::log(total);
    if (task.temperature == 0.0) {
        draw.token = static_cast<int32_t>(std::find(task.logits, task.logits + task.size, most) - task.logits);
        draw.log_prob = below(draw.token) - log_total;
        return draw;
    }
    if (task.temperature != 1.0) total = fill_law(task, most, task.temperature);
    if (task.top_k > 0 || task.top_p < 1.0 || task.min_p > 0.0) total = filter_law(task, total);
    draw.token = invert(task, uniform(task.key, task.position) * total);
    draw.log_prob = below(draw.token) - log_total;
    draw.sample_log_prob = below(draw.token) / task.temperature - std::log(total);
    return draw;
}

}  // namespace
}  // namespace outthink
