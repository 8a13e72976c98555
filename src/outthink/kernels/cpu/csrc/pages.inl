// The two products of attention with pages of keys and values. Included after linear.inl.
//
// A page holds keys as [words][16 positions] and values as [16 positions' words][dim], so that both products run along
// lanes. A query's scores, weights and sums are computed in the same order whether its pages are read for it alone or
// for all rows of a tile.
//
// In front of int8 pages queries and weights have 16 bits, in two planes: sums over a block are exact integers, whatever
// their order, and no more is lost than the rounding of keys and values themselves.
#pragma once

#include "kernels.h"

namespace outthink {
namespace {

inline const uint32_t* page_of(const AttendTask& task, int row, int page) {
    return task.kv + task.page_table(row)[page] * task.page_stride();
}
// The scales of a head's 16 keys or (`values`) values in an int8 page.
inline const uint16_t* scales_of(const AttendTask& task, const uint32_t* page, int head, bool values) {
    const auto* scales = reinterpret_cast<const uint16_t*>(
        page + page_scales_at(Format::int8, task.num_kv_heads, task.padded_dim));
    return scales + (head + (values ? task.num_kv_heads : 0)) * kPageSize;
}

// Queries computed together: two planes take twice the registers.
template <Format F>
inline constexpr int kQueryTile = F == Format::int8 && kTileRows > 1 ? kTileRows / 2 : kTileRows;

// The keys of one head in some pages.
struct KeyPages {
    const uint32_t* keys[kTileVectors];
    const uint16_t* scales[kTileVectors];  // int8 only
};

template <Format F, int Queries, int Pages>
inline void score_tile(const uint32_t* const* queries, const KeyPages& pages, int words, float* const* out) {
    Vec acc[Queries][Pages];
    for (int q = 0; q < Queries; ++q) {
        for (int p = 0; p < Pages; ++p) acc[q][p] = zero();
    }
    for (int w = 0; w < words; ++w) {
        Words key[Pages];
        for (int p = 0; p < Pages; ++p) key[p] = load_words(pages.keys[p] + w * kPageSize);
        for (int q = 0; q < Queries; ++q) {
            const Words x = splat_word(queries[q] + w);
            for (int p = 0; p < Pages; ++p) acc[q][p] = dot<F>(acc[q][p], key[p], x);
        }
    }
    for (int q = 0; q < Queries; ++q) {
        for (int p = 0; p < Pages; ++p) store(out[q] + p * kPageSize, acc[q][p]);
    }
}

template <int Queries, int Pages>
inline void score_codes(const uint32_t* const* queries, const KeyPages& pages, int words, float* const* out) {
    Ints high[Queries][Pages], low[Queries][Pages];
    for (int q = 0; q < Queries; ++q) {
        const auto* sums = reinterpret_cast<const int32_t*>(queries[q] + 2 * words + 1);
        for (int p = 0; p < Pages; ++p) {
            high[q][p] = splat_int(-128 * sums[0]);
            low[q][p] = splat_int(-128 * sums[1]);
        }
    }
    for (int w = 0; w < words; ++w) {
        Words key[Pages];
        for (int p = 0; p < Pages; ++p) key[p] = load_words(pages.keys[p] + w * kPageSize);
        for (int q = 0; q < Queries; ++q) {
            const Words x = splat_word(queries[q] + w), y = splat_word(queries[q] + words + w);
            for (int p = 0; p < Pages; ++p) high[q][p] = dot_int8(high[q][p], key[p], x);
            for (int p = 0; p < Pages; ++p) low[q][p] = dot_int8(low[q][p], key[p], y);
        }
    }
    for (int q = 0; q < Queries; ++q) {
        const Vec scale = splat(*reinterpret_cast<const float*>(queries[q] + 2 * words));
        for (int p = 0; p < Pages; ++p) {
            const Vec product = fma(to_float(high[q][p]), splat(256.0f), to_float(low[q][p]));
            store(out[q] + p * kPageSize, mul(product, mul(scale, load_bf16(pages.scales[p]))));
        }
    }
}

template <Format F, int Pages, int Queries = kQueryTile<F>>
inline void score_queries(const uint32_t* const* queries, int count, const KeyPages& pages, int words,
                          float* const* out) {
    if (count >= Queries) {
        if constexpr (F == Format::int8) {
            score_codes<Queries, Pages>(queries, pages, words, out);
        } else {
            score_tile<F, Queries, Pages>(queries, pages, words, out);
        }
        if (count > Queries) {
            score_queries<F, Pages, kQueryTile<F>>(queries + Queries, count - Queries, pages, words, out + Queries);
        }
    } else if constexpr (Queries > 1) {
        score_queries<F, Pages, Queries - 1>(queries, count, pages, words, out);
    }
}

// Adds the values of pages [begin, end) to acc[query][first .. first + Vectors), weighted.
template <Format F, int Queries, int Vectors>
inline void value_tile(const uint32_t* const* weights, const uint32_t* const* pages, Span span, int dim, int first,
                       float* const* out) {
    constexpr int kWords = words_of(F, kPageSize);
    Vec acc[Queries][Vectors];
    for (int q = 0; q < Queries; ++q) {
        for (int j = 0; j < Vectors; ++j) acc[q][j] = load(out[q] + first + j * kLanes);
    }
    for (int p = span.begin; p < span.end; ++p) {
        const uint32_t* value = pages[p] + first;
        for (int w = 0; w < kWords; ++w, value += dim) {
            Words v[Vectors];
            for (int j = 0; j < Vectors; ++j) v[j] = load_words(value + j * kLanes);
            for (int q = 0; q < Queries; ++q) {
                const Words x = splat_word(weights[q] + p * kWords + w);
                for (int j = 0; j < Vectors; ++j) acc[q][j] = dot<F>(acc[q][j], v[j], x);
            }
        }
    }
    for (int q = 0; q < Queries; ++q) {
        for (int j = 0; j < Vectors; ++j) store(out[q] + first + j * kLanes, acc[q][j]);
    }
}

// The same for int8 pages; `out` are int32 sums, which a block does not overflow: 256 * 65535 * 127 < 2^31.
template <int Queries, int Vectors>
inline void value_codes(const uint32_t* const* weights, const uint32_t* const* pages, Span span, int dim, int first,
                        float* const* out) {
    constexpr int kWords = words_of(Format::int8, kPageSize), kPlane = words_of(Format::int8, kBlockPositions);
    Ints high[Queries][Vectors], low[Queries][Vectors];
    for (int q = 0; q < Queries; ++q) {
        for (int j = 0; j < Vectors; ++j) high[q][j] = low[q][j] = splat_int(0);
    }
    for (int p = span.begin; p < span.end; ++p) {
        const uint32_t* value = pages[p] + first;
        for (int w = p * kWords; w < (p + 1) * kWords; ++w, value += dim) {
            Words v[Vectors];
            for (int j = 0; j < Vectors; ++j) v[j] = load_words(value + j * kLanes);
            for (int q = 0; q < Queries; ++q) {
                const Words x = splat_word(weights[q] + w), y = splat_word(weights[q] + kPlane + w);
                for (int j = 0; j < Vectors; ++j) high[q][j] = dot_int8(high[q][j], x, v[j]);
                for (int j = 0; j < Vectors; ++j) low[q][j] = dot_int8(low[q][j], y, v[j]);
            }
        }
    }
    for (int q = 0; q < Queries; ++q) {
        auto* sums = reinterpret_cast<int32_t*>(out[q]) + first;
        for (int j = 0; j < Vectors; ++j) {
            store_ints(sums + j * kLanes, add_wide(load_ints(sums + j * kLanes), high[q][j], low[q][j]));
        }
    }
}

template <Format F, int Vectors, int Queries = kQueryTile<F>>
inline void value_queries(const uint32_t* const* weights, int count, const uint32_t* const* pages, Span span, int dim,
                          int first, float* const* out) {
    if (count >= Queries) {
        if constexpr (F == Format::int8) {
            value_codes<Queries, Vectors>(weights, pages, span, dim, first, out);
        } else {
            value_tile<F, Queries, Vectors>(weights, pages, span, dim, first, out);
        }
        if (count > Queries) {
            value_queries<F, Vectors, kQueryTile<F>>(weights + Queries, count - Queries, pages, span, dim, first,
                                                 out + Queries);
        }
    } else if constexpr (Queries > 1) {
        value_queries<F, Vectors, Queries - 1>(weights, count, pages, span, dim, first, out);
    }
}

// The queries of a task, and where their scores, weights and sums are.
struct TaskQueries {
    const uint32_t* query[kMaxQueries];
    float* scores[kMaxQueries];
    const uint32_t* weights[kMaxQueries];
    float* values[kMaxQueries];
};

// Scores of `count` queries for each head, from query `first` of the first head on. Heads go inside of pages: reading
// a page from end to end is what memory does best.
template <Format F>
inline void score_pages(const AttendTask& task, const TaskQueries& queries, int first, int count, int row, int block,
                        Span span) {
    const int words = words_of(F, task.padded_dim), queries_of_head = task.num_rows * task.queries_per_head;
    float* out[kMaxQueries];
    for (int p = span.begin; p < span.end;) {
        const int pages = p + kTileVectors <= span.end ? kTileVectors : 1;
        KeyPages keys;
        for (int i = 0; i < pages; ++i) {
            const uint32_t* page = page_of(task, row, block * kBlockPages + p + i);
            keys.keys[i] = page + task.first_head * words * kPageSize;
            keys.scales[i] = scales_of(task, page, task.first_head, false);
        }
        for (int head = 0; head < task.num_heads; ++head) {
            const int query = head * queries_of_head + first;
            for (int q = 0; q < count; ++q) out[q] = queries.scores[query + q] + p * kPageSize;
            if (pages == kTileVectors) {
                score_queries<F, kTileVectors>(queries.query + query, count, keys, words, out);
            } else {
                score_queries<F, 1>(queries.query + query, count, keys, words, out);
            }
            for (int i = 0; i < pages; ++i) {
                keys.keys[i] += words * kPageSize;
                keys.scales[i] += kPageSize;
            }
        }
        p += pages;
    }
}

// The same for the values.
template <Format F>
inline void add_values(const AttendTask& task, const TaskQueries& queries, int first, int count, int row, int block,
                       Span span) {
    const int dim = task.padded_dim, words = words_of(F, dim) * kPageSize;
    const int queries_of_head = task.num_rows * task.queries_per_head;
    const ptrdiff_t values_at = page_values_at(F, task.num_kv_heads, dim) + task.first_head * words;
    const uint32_t* pages[kBlockPages];
    for (int p = span.begin; p < span.end; p += kTileVectors) {
        const Span some = {p, p + kTileVectors < span.end ? p + kTileVectors : span.end};
        for (int i = some.begin; i < some.end; ++i) pages[i] = page_of(task, row, block * kBlockPages + i) + values_at;
        for (int head = 0; head < task.num_heads; ++head) {
            const uint32_t* const* weights = queries.weights + head * queries_of_head + first;
            float* const* values = queries.values + head * queries_of_head + first;
            int column = 0;
            for (; column + kTileVectors * kLanes <= dim; column += kTileVectors * kLanes) {
                value_queries<F, kTileVectors>(weights, count, pages, some, dim, column, values);
            }
            // Small heads: with a vector alone each sum would wait for itself.
            if constexpr (kTileVectors > 2) {
                for (; column + 2 * kLanes <= dim; column += 2 * kLanes) {
                    value_queries<F, 2>(weights, count, pages, some, dim, column, values);
                }
            }
            for (; column < dim; column += kLanes) {
                value_queries<F, 1>(weights, count, pages, some, dim, column, values);
            }
            for (int i = some.begin; i < some.end; ++i) pages[i] += words;
        }
    }
}

// exp(score - maximum) as weights of the second product, 0 on pages of `all` outside the query's own; sets the maximum
// and the sum of the weights in `state`. Scores are overwritten. `scales(page)` are those of int8 values.
template <Format F, class Scales>
inline void weigh(float* scores, uint32_t* weights, Span own, Span all, float* state, Scales scales) {
    const bool none = own.begin >= own.end;
    const Span pages = {none ? all.end : own.begin / kPageSize,
                        none ? all.end : (own.end + kPageSize - 1) / kPageSize};
    const auto inside = [&](int page, Vec x, float other) {
        const int begin = own.begin - page * kPageSize, end = own.end - page * kPageSize;
        if (begin <= 0 && end >= kPageSize) return x;
        return keep(x, begin > 0 ? begin : 0, end < kPageSize ? end : kPageSize, other);
    };
    Vec most = splat(kMasked), zeros = zero();
    for (int p = pages.begin; p < pages.end; ++p) {
        const Vec score = inside(p, load(scores + p * kPageSize), kMasked);
        most = max(most, score);
        zeros = fma(score, zero(), zeros);
    }
    const float maximum = largest(most), check = sum(zeros);
    const Vec shift = splat(maximum);
    Vec total = zero(), heaviest = zero();
    for (int p = all.begin; p < all.end; ++p) {
        Vec weight = zero();
        if (p >= pages.begin && p < pages.end) {
            weight = inside(p, exponential_below_one(sub(load(scores + p * kPageSize), shift)), 0.0f);
        }
        if constexpr (F == Format::int8) {
            total = add(total, weight);
            if (p >= pages.begin && p < pages.end) weight = inside(p, mul(weight, load_bf16(scales(p))), 0.0f);
            heaviest = max(heaviest, weight);
            store(scores + p * kPageSize, weight);
        } else {
            store_activation(F, weights, p, weight);
            if constexpr (F == Format::bf16) weight = load_bf16(reinterpret_cast<uint16_t*>(weights) + p * kPageSize);
            total = add(total, weight);
        }
    }
    // A query without positions here keeps the state of zeros, by which `fold` knows it.
    if (!none) {
        state[0] = maximum;
        state[1] = sum(total) + check;  // no number where a score is none, which neither `max` nor `exponential_below_one` keeps
    }
    if constexpr (F == Format::int8) {
        const float span = span_of(largest(heaviest), 65535.0f);
        const Vec inverse = splat(65535.0f / span);
        auto* high = reinterpret_cast<uint8_t*>(weights);
        uint8_t* low = high + kBlockPositions;
        for (int p = all.begin; p < all.end; ++p) {
            const Vec code = round_nearest(mul(load(scores + p * kPageSize), inverse));
            // Down to the whole number: fractions are multiples of 1/256.
            const Vec h = round_nearest(fma(code, splat(1.0f / 256.0f), splat(1.0f / 512.0f - 0.5f)));
            store_uint8(high + p * kPageSize, h);
            store_uint8(low + p * kPageSize, fma(h, splat(-256.0f), code));
        }
        state[2] = span / 65535.0f;
    }
}

}  // namespace
}  // namespace outthink
