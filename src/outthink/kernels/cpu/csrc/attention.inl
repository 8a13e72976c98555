// Attention over paged KV, one block of positions at a time. Included after linear.inl.
//
// A page holds keys as [words][16 positions] and values as [16 positions' words][padded_dim], so that both products
// run along lanes. A query's scores, weights and sums are computed in the same order whether its pages are read for it
// alone or for all rows of a tile.
#pragma once

#include "kernels.h"

namespace outthink {
namespace {

struct Span {
    int begin, end;
};

// The positions of a row inside a block, relative to the block.
inline Span positions_in(const AttendTask& task, int row, int block) {
    const int last = task.positions[row], base = block * kBlockPositions;
    int begin = task.window && last >= task.window ? last - task.window + 1 - base : -base;
    int end = last + 1 - base;
    begin = begin < 0 ? 0 : begin;
    end = end > kBlockPositions ? kBlockPositions : end;
    return {begin, end};
}

inline const uint32_t* page_of(const AttendTask& task, int row, int page) {
    return task.kv + task.page_table(row)[page] * task.page_stride;
}

template <Format F, int Queries, int Pages>
inline void score_tile(const uint32_t* const* queries, const uint32_t* const* pages, int words, float* const* out) {
    Vec acc[Queries][Pages];
    for (int q = 0; q < Queries; ++q) {
        for (int p = 0; p < Pages; ++p) acc[q][p] = zero();
    }
    for (int w = 0; w < words; ++w) {
        Words key[Pages];
        for (int p = 0; p < Pages; ++p) key[p] = load_words(pages[p] + w * kPageSize);
        for (int q = 0; q < Queries; ++q) {
            const Words x = splat_word(queries[q] + w);
            for (int p = 0; p < Pages; ++p) acc[q][p] = dot<F>(acc[q][p], key[p], x);
        }
    }
    for (int q = 0; q < Queries; ++q) {
        for (int p = 0; p < Pages; ++p) store(out[q] + p * kPageSize, acc[q][p]);
    }
}

template <Format F, int Pages, int Queries = kTileRows>
inline void score_queries(const uint32_t* const* queries, int count, const uint32_t* const* pages, int words,
                          float* const* out) {
    if (count >= Queries) {
        score_tile<F, Queries, Pages>(queries, pages, words, out);
        if (count > Queries) {
            score_queries<F, Pages, kTileRows>(queries + Queries, count - Queries, pages, words, out + Queries);
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

template <Format F, int Vectors, int Queries = kTileRows>
inline void value_queries(const uint32_t* const* weights, int count, const uint32_t* const* pages, Span span, int dim,
                          int first, float* const* out) {
    if (count >= Queries) {
        value_tile<F, Queries, Vectors>(weights, pages, span, dim, first, out);
        if (count > Queries) {
            value_queries<F, Vectors, kTileRows>(weights + Queries, count - Queries, pages, span, dim, first,
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
        const uint32_t* keys[kTileVectors];
        for (int i = 0; i < pages; ++i) {
            keys[i] = page_of(task, row, block * kBlockPages + p + i) + task.first_head * words * kPageSize;
        }
        for (int head = 0; head < task.num_heads; ++head) {
            const int query = head * queries_of_head + first;
            for (int q = 0; q < count; ++q) out[q] = queries.scores[query + q] + p * kPageSize;
            if (pages == kTileVectors) {
                score_queries<F, kTileVectors>(queries.query + query, count, keys, words, out);
            } else {
                score_queries<F, 1>(queries.query + query, count, keys, words, out);
            }
            for (int i = 0; i < pages; ++i) keys[i] += words * kPageSize;
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
    const ptrdiff_t values_at = task.page_stride / 2 + task.first_head * words;
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
            for (; column < dim; column += kLanes) {
                value_queries<F, 1>(weights, count, pages, some, dim, column, values);
            }
            for (int i = some.begin; i < some.end; ++i) pages[i] += words;
        }
    }
}

// exp(score - maximum) as weights of the second product; returns the maximum and the sum of the rounded weights.
// Pages of `all` outside the query's own get weight 0.
template <Format F>
inline void weigh(const float* scores, uint32_t* weights, Span own, Span all, float* state) {
    Span pages = {own.begin / kPageSize, (own.end + kPageSize - 1) / kPageSize};
    if (own.begin >= own.end) pages = {0, 0};
    const auto inside = [&](int page, Vec x, float other) {
        const int begin = own.begin - page * kPageSize, end = own.end - page * kPageSize;
        if (begin <= 0 && end >= kPageSize) return x;
        return keep(x, begin > 0 ? begin : 0, end < kPageSize ? end : kPageSize, other);
    };
    Vec most = splat(kMasked);
    for (int p = pages.begin; p < pages.end; ++p) {
        most = max(most, inside(p, load(scores + p * kPageSize), kMasked));
    }
    const float maximum = largest(most);
    const Vec shift = splat(maximum);
    Vec total = zero();
    for (int p = all.begin; p < all.end; ++p) {
        Vec weight = zero();
        if (p >= pages.begin && p < pages.end) {
            weight = inside(p, exponential(sub(load(scores + p * kPageSize), shift)), 0.0f);
        }
        store_activation(F, weights, p, weight);
        if constexpr (F == Format::bf16) weight = load_bf16(reinterpret_cast<uint16_t*>(weights) + p * kPageSize);
        total = add(total, weight);
    }
    // A query without positions here keeps the state of zeros, by which `fold` knows it.
    if (pages.begin == pages.end) return;
    state[0] = maximum;
    state[1] = sum(total);
}

template <Format F>
inline void attend(const AttendTask& task, int block, float* states) {
    const int group = task.queries_per_head, stride = kStateHeader + task.padded_dim, rows = task.num_rows;
    const int words = words_of(F, task.padded_dim), weight_words = words_of(F, kBlockPositions);
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
                weigh<F>(queries.scores[i], task.weights + i * weight_words, own[r], all, states + i * stride);
            }
        }
    }
    add_values<F>(task, queries, 0, rows * group, task.rows[0], block, common);
    for (int r = 0; r < rows; ++r) {
        add_values<F>(task, queries, r * group, group, task.rows[r], block, tail(r));
    }
}

void attend_block(const AttendTask& task, int block, float* states) {
    if (task.format == Format::f32) {
        attend<Format::f32>(task, block, states);
    } else {
        attend<Format::bf16>(task, block, states);
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
        store(factors, exponential(load(factors)));
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
