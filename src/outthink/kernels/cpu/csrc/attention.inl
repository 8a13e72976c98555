// Attention over paged KV, one block of positions at a time. Included after pages.inl.
#pragma once

#include "kernels.h"

namespace outthink {
namespace {

// The positions of a row inside a block, relative to the block.
inline Span positions_in(const AttendTask& task, int row, int block) {
    const int last = task.positions[row], base = block * kBlockPositions;
    int begin = task.window && last >= task.window ? last - task.window + 1 - base : -base;
    int end = last + 1 - base;
    begin = begin < 0 ? 0 : begin;
    end = end > kBlockPositions ? kBlockPositions : end;
    return {begin, end};
}

template <Format F>
inline void attend(const AttendTask& task, int block, float* states) {
    const int group = task.queries_per_head, stride = kStateHeader + task.padded_dim, rows = task.num_rows;
    const int words = query_words_of(F, task.padded_dim);
    // Two planes of int8 are as wide as bfloat16.
    const int weight_words = words_of(F == Format::int8 ? Format::bf16 : F, kBlockPositions);
    TaskQueries queries;
    Span own[kMaxQueries], pages[kMaxQueries];  // by row: positions in this block, and the pages they are in
    Span all = {kBlockPages, 0};
    for (int r = 0; r < rows; ++r) {
        own[r] = positions_in(task, task.rows[r], block);
        pages[r] = {own[r].begin / kPageSize, (own[r].end + kPageSize - 1) / kPageSize};
        if (own[r].begin >= own[r].end) pages[r] = {0, 0};
        if (pages[r].begin == pages[r].end) continue;
        all = {pages[r].begin < all.begin ? pages[r].begin : all.begin,
               pages[r].end > all.end ? pages[r].end : all.end};
    }
    for (int q = 0; q < task.num_queries(); ++q) {
        for (int i = 0; i < stride; i += kLanes) store(states + q * stride + i, zero());
    }
    if (all.begin >= all.end) return;
    int q = 0;
    for (int head = task.first_head; head < task.first_head + task.num_heads; ++head) {
        for (int r = 0; r < rows; ++r) {
            const uint32_t* query = task.queries + task.rows[r] * task.query_stride + head * group * words;
            for (int g = 0; g < group; ++g, ++q, query += words) {
                queries.query[q] = query;
                queries.scores[q] = task.scores + q * kBlockPositions;
                queries.weights[q] = task.weights + q * weight_words;
                queries.values[q] = states + q * stride + kStateHeader;
            }
        }
    }
    int shared = task.common_pages - block * kBlockPages;
    shared = rows == 1 || shared > all.end ? all.end : shared < all.begin ? all.begin : shared;
    const Span common = {all.begin, shared};
    // A row's own pages come after the common ones.
    const auto tail = [&](int r) { return Span{pages[r].begin > shared ? pages[r].begin : shared, pages[r].end}; };
    score_pages<F>(task, queries, 0, rows * group, task.rows[0], block, common);
    for (int r = 0; r < rows; ++r) {
        score_pages<F>(task, queries, r * group, group, task.rows[r], block, tail(r));
        for (int head = 0; head < task.num_heads; ++head) {
            for (int i = (head * rows + r) * group; i < (head * rows + r + 1) * group; ++i) {
                const auto scales = [&](int page) {
                    const uint32_t* start = page_of(task, task.rows[r], block * kBlockPages + page);
                    return scales_of(task, start, task.first_head + head, true);
                };
                weigh<F>(queries.scores[i], task.weights + i * weight_words, own[r], all, states + i * stride, scales);
            }
        }
    }
    add_values<F>(task, queries, 0, rows * group, task.rows[0], block, common);
    for (int r = 0; r < rows; ++r) {
        add_values<F>(task, queries, r * group, group, task.rows[r], block, tail(r));
    }
    if constexpr (F == Format::int8) {
        for (int i = 0; i < task.num_queries(); ++i) {
            const Vec scale = splat(states[i * stride + 2]);
            for (int d = 0; d < task.padded_dim; d += kLanes) {
                const Ints sums = load_ints(reinterpret_cast<const int32_t*>(queries.values[i] + d));
                store(queries.values[i] + d, mul(to_float(sums), scale));
            }
        }
    }
}

void attend_block(const AttendTask& task, int block, float* states) {
    switch (task.format) {
        case Format::f32:
            return attend<Format::f32>(task, block, states);
        case Format::bf16:
            return attend<Format::bf16>(task, block, states);
        default:
            return attend<Format::int8>(task, block, states);
    }
}

// Joins the next block to the earlier ones (Milakov & Gimelshein 2018, arXiv:1805.02867). A block without positions of
// a query leaves that query's state as it is, bit for bit.
void fold(const AttendTask& task, float* states, const float* more) {
    const int stride = kStateHeader + task.padded_dim;
    for (int q = 0; q < task.num_queries(); ++q, states += stride, more += stride) {
        if (more[1] == 0.0f) continue;
        if (states[1] == 0.0f) {
            for (int i = 0; i < stride; i += kLanes) store(states + i, load(more + i));
            continue;
        }
        const float maximum = states[0] > more[0] ? states[0] : more[0];
        float factors[kLanes] = {states[0] - maximum, more[0] - maximum};
        store(factors, exponential_below_one(load(factors)));
        const Vec before = splat(factors[0]), after = splat(factors[1]);
        const float total = states[1] * factors[0] + more[1] * factors[1];
        for (int i = 0; i < stride; i += kLanes) {
            store(states + i, fma(load(states + i), before, mul(load(more + i), after)));
        }
        states[0] = maximum;
        states[1] = total;
    }
}

void finish(const AttendTask& task, const float* states) {
    const int stride = kStateHeader + task.padded_dim, group = task.queries_per_head;
    const int words = words_of(task.out_format, task.padded_dim);
    for (int head = task.first_head; head < task.first_head + task.num_heads; ++head) {
        for (int r = 0; r < task.num_rows; ++r) {
            uint32_t* out = task.out + task.rows[r] * task.out_stride + head * group * words;
            for (int g = 0; g < group; ++g, states += stride, out += words) {
                const Vec inverse = splat(1.0f / states[1]);
                for (int i = 0; i < task.padded_dim; i += kLanes) {
                    const Vec value = mul(load(states + kStateHeader + i), inverse);
                    store_activation(task.out_format, out, i / kLanes, value);
                }
            }
        }
    }
}

}  // namespace
}  // namespace outthink
