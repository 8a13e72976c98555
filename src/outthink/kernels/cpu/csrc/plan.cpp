// What is decided once for a step: the order in which rows attend, and the tiles that read common pages together.
#include <algorithm>
#include <cstdio>

#include "step.h"

namespace outthink {

void Model::plan(const Batch& batch) {
    order_rows(batch);
    const int heads = shape_.num_kv_heads, threads = pool_.size();
    // Several items a thread, so that one that is held up can be helped; but no smaller than they need be, all heads
    // of a row together if possible.
    const int64_t queries = int64_t{batch.num_rows} * shape_.num_heads;
    const int wanted = static_cast<int>(std::clamp<int64_t>(queries / (threads == 1 ? 1 : 4 * threads), group_, kMaxQueries));
    heads_together_ = std::clamp(wanted / group_, 1, heads);
    const int most = std::max(1, wanted / (group_ * heads_together_));
    tiles_.clear();
    positions_read_ = 0;
    int longest = 1;
    for (int begin = 0; begin < batch.num_rows;) {
        Tile tile{begin, 0, batch.table_width, 1, 0};
        for (; begin < batch.num_rows && tile.count < most; ++begin, ++tile.count) {
            const int row = order_[static_cast<size_t>(begin)];
            if (tile.count > 0) tile.common_pages = std::min(tile.common_pages, shared_[static_cast<size_t>(begin)]);
            positions_read_ += batch.positions[row] + 1;
            tile.blocks = std::max(tile.blocks, batch.positions[row] / kBlockPositions + 1);
        }
        longest = std::max(longest, tile.blocks);
        tiles_.push_back(tile);
    }
    const int tiles = static_cast<int>(tiles_.size());
    split_blocks_ = longest > 1 && threads > 1 && tiles * head_parts() < 4 * threads;
    if (split_blocks_) reserve_blocks(tiles);
}

void Model::reserve_blocks(int tiles) {
    const int parts = head_parts();
    const size_t items = static_cast<size_t>(tiles * parts);
    if (num_pending_ < items) {
        pending_ = std::make_unique<std::atomic<int>[]>(items);
        num_pending_ = items;
    }
    ptrdiff_t size = 0;
    for (int i = 0; i < tiles; ++i) {
        Tile& tile = tiles_[static_cast<size_t>(i)];
        tile.first_state = size;
        size += ptrdiff_t{tile.count} * shape_.num_heads * (kStateHeader + head_stride_) * tile.blocks;
        for (int part = 0; part < parts; ++part) {
            pending_[static_cast<size_t>(i * parts + part)].store(tile.blocks, std::memory_order_relaxed);
        }
    }
    if (partial_.size() < static_cast<size_t>(size)) partial_ = Memory<float>(static_cast<size_t>(size) * 2);
}

// Sequences sorted by their page tables, so that those with a common prefix are neighbours; and for each row how many
// leading pages it shares with the row before it.
void Model::order_rows(const Batch& batch) {
    const auto table = [&](int sequence) {
        return batch.page_tables + static_cast<ptrdiff_t>(sequence) * batch.table_width;
    };
    const auto pages = [&](int sequence) { return (batch.context_lengths[sequence] + kPageSize - 1) / kPageSize; };
    sorted_.clear();
    sequences_.resize(static_cast<size_t>(batch.num_rows));
    for (int s = 0; s < batch.num_sequences; ++s) {
        if (batch.query_starts[s] == batch.query_starts[s + 1]) continue;
        sorted_.push_back(s);
        std::fill(sequences_.begin() + batch.query_starts[s], sequences_.begin() + batch.query_starts[s + 1], s);
    }
    std::sort(sorted_.begin(), sorted_.end(), [&](int a, int b) {
        return std::lexicographical_compare(table(a), table(a) + pages(a), table(b), table(b) + pages(b));
    });
    order_.clear();
    shared_.clear();
    int previous = -1;
    for (const int s : sorted_) {
        int common = 0;
        if (previous >= 0) {
            const int most = std::min(pages(previous), pages(s));
            common = static_cast<int>(std::mismatch(table(s), table(s) + most, table(previous)).first - table(s));
        }
        for (int row = batch.query_starts[s]; row < batch.query_starts[s + 1]; ++row) {
            shared_.push_back(row == batch.query_starts[s] ? common : batch.table_width);
            order_.push_back(row);
        }
        previous = s;
    }
}

std::string find_fault(const Batch& batch, const Shape& shape) {
    const auto fault = [](const char* what, auto... values) {
        char text[200];
        snprintf(text, sizeof text, what, values...);
        return std::string(text);
    };
    const int32_t* starts = batch.query_starts;
    if (starts[0] != 0) return fault("query_starts begins with %d; expected 0.", starts[0]);
    for (int s = 0; s < batch.num_sequences; ++s) {
        if (starts[s + 1] < starts[s]) return fault("query_starts falls from %d to %d.", starts[s], starts[s + 1]);
    }
    if (starts[batch.num_sequences] != batch.num_rows) {
        return fault("query_starts ends with %d; there are %d tokens.", starts[batch.num_sequences], batch.num_rows);
    }
    for (int row = 0; row < batch.num_rows; ++row) {
        if (batch.tokens[row] < 0 || batch.tokens[row] >= shape.vocab_size) {
            return fault("token %d in row %d is outside the vocabulary of %d.", batch.tokens[row], row,
                         shape.vocab_size);
        }
    }
    for (int i = 0; i < batch.num_logits; ++i) {
        if (batch.logit_rows[i] < 0 || batch.logit_rows[i] >= batch.num_rows) {
            return fault("logit row %d is outside the batch of %d rows.", batch.logit_rows[i], batch.num_rows);
        }
    }
    for (int s = 0; s < batch.num_sequences; ++s) {
        if (starts[s] == starts[s + 1]) continue;
        const int length = batch.context_lengths[s];
        const int64_t first = int64_t{length} - (starts[s + 1] - starts[s]);
        const int64_t room = std::min<int64_t>(shape.max_positions, int64_t{batch.table_width} * kPageSize);
        if (length > room) {
            return fault("context length %d of sequence %d exceeds its %lld positions.", length, s,
                         static_cast<long long>(room));
        }
        for (int row = starts[s]; row < starts[s + 1]; ++row) {
            const int64_t expected = first + row - starts[s];
            if (expected < 0 || batch.positions[row] != expected) {
                return fault("position %d in row %d does not agree with context length %d of sequence %d.",
                             batch.positions[row], row, length, s);
            }
        }
        const int32_t* table = batch.page_tables + static_cast<ptrdiff_t>(s) * batch.table_width;
        for (int page = 0; page < (length + kPageSize - 1) / kPageSize; ++page) {
            if (table[page] < 0 || table[page] >= shape.num_pages) {
                return fault("page id %d of sequence %d is outside the %d pages.", table[page], s, shape.num_pages);
            }
        }
    }
    return {};
}

}  // namespace outthink
