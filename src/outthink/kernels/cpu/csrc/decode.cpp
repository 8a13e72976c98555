#include "decode.h"

#include <ctime>

#include <algorithm>

namespace outthink {
namespace {

double seconds_of(clockid_t clock) {
    timespec time;
    clock_gettime(clock, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// Draws that take about a microsecond: see kWorthSharing in step.cpp.
constexpr int kTokensWorthSharing = 1 << 10;

}  // namespace

void Decoder::set_pieces(std::string bytes, std::vector<uint32_t> ends) {
    bytes_ = std::move(bytes);
    ends_ = std::move(ends);
}

std::string_view Decoder::piece(int32_t token) const {
    const auto t = static_cast<size_t>(token);
    if (t >= ends_.size()) return {};
    const uint32_t begin = t ? ends_[t - 1] : 0;
    return std::string_view(bytes_).substr(begin, ends_[t] - begin);
}

void Decoder::forward(const Batch& batch, float* logits) {
    const bool measured = timed;
    const double begin = seconds_of(CLOCK_MONOTONIC), cpu = measured ? seconds_of(CLOCK_THREAD_CPUTIME_ID) : 0.0;
    model_.run(batch, logits);
    if (measured) forward_cpu += seconds_of(CLOCK_THREAD_CPUTIME_ID) - cpu;
    forward_seconds += seconds_of(CLOCK_MONOTONIC) - begin;
}

void Decoder::sample(const Laws& laws, const float* logits, const int32_t* positions, Draw* draws) {
    const int size = model_.shape().num_outputs;
    const bool alone = int64_t{laws.num_rows} * size < kTokensWorthSharing;
    model_.pool().each(laws.num_rows, alone, [&](int row, int thread) {
        Scratch& scratch = scratch_[static_cast<size_t>(thread)];
        scratch.law.resize(sample_scratch(size));
        scratch.ranked.resize(static_cast<size_t>(size));
        draws[row] = model_.kernels().sample({logits + ptrdiff_t{row} * size, size, laws.temperature[row],
                                              laws.top_p[row], laws.min_p[row], laws.top_k[row], laws.keys[row],
                                              static_cast<uint64_t>(positions[row]), scratch.law.data(),
                                              scratch.ranked.data()});
    });
}

int Decoder::decode(const DecodeTask& task, const Decoded& out) {
    if (task.num_rows == 0) return 0;
    const double deadline = seconds_of(CLOCK_MONOTONIC) + task.seconds;
    const int size = model_.shape().num_outputs;
    std::vector<int> growing(task.stops.size(), 0);
    rows_.clear();
    for (int row = 0; row < task.num_rows; ++row) {
        rows_.push_back(row);
        ++growing[static_cast<size_t>(task.groups[row])];
        out.counts[row] = 0;
    }
    tails_ = task.tails;
    last_.assign(task.tokens, task.tokens + task.num_rows);
    logits_.resize(rows_.size() * static_cast<size_t>(size));
    draws_.resize(rows_.size());
    bool packed = false;
    for (int step = 0; step < task.num_steps && !rows_.empty(); ++step) {
        if (step > 0 && (__atomic_load_n(task.interrupt, __ATOMIC_RELAXED) != 0 ||
                         seconds_of(CLOCK_MONOTONIC) >= deadline)) {
            return step;
        }
        if (!packed) pack(task);
        packed = true;
        const int count = static_cast<int>(rows_.size());
        for (int i = 0; i < count; ++i) {
            const auto at = static_cast<size_t>(i);
            tokens_[at] = last_[static_cast<size_t>(rows_[at])];
            positions_[at] = task.positions[rows_[at]] + step;
            lengths_[at] = positions_[at] + 1;
        }
        forward({count, count, task.table_width, count, tokens_.data(), positions_.data(), starts_.data(),
                 lengths_.data(), tables_.data(), logit_rows_.data()},
                logits_.data());
        const Laws laws{count, keys_.data(), temperature_.data(), top_p_.data(), min_p_.data(), top_k_.data()};
        sample(laws, logits_.data(), lengths_.data(), draws_.data());
        if (std::any_of(draws_.begin(), draws_.begin() + count, [](const Draw& draw) { return draw.token < 0; })) {
            return step;
        }
        bool group_ended = false;
        size_t kept = 0;
        for (int i = 0; i < count; ++i) {
            const int row = rows_[static_cast<size_t>(i)];
            const Draw& draw = draws_[static_cast<size_t>(i)];
            const ptrdiff_t at = ptrdiff_t{row} * task.num_steps + step;
            out.tokens[at] = last_[static_cast<size_t>(row)] = draw.token;
            out.log_probs[at] = draw.log_prob;
            out.sample_log_probs[at] = draw.sample_log_prob;
            out.counts[row] = step + 1;
            if (step + 1 == task.limits[row] || stops(task, row, draw.token)) {
                packed = false;
                group_ended |= --growing[static_cast<size_t>(task.groups[row])] == 0;
            } else {
                rows_[kept++] = row;
            }
        }
        rows_.resize(kept);
        if (group_ended) return step + 1;
    }
    return rows_.empty() ? *std::max_element(out.counts, out.counts + task.num_rows) : task.num_steps;
}

// What stays the same from step to step for the rows that go on.
void Decoder::pack(const DecodeTask& task) {
    const size_t count = rows_.size(), width = static_cast<size_t>(task.table_width);
    for (auto* array : {&tokens_, &positions_, &lengths_, &logit_rows_, &top_k_}) array->resize(count);
    for (auto* array : {&temperature_, &top_p_, &min_p_}) array->resize(count);
    starts_.resize(count + 1);
    keys_.resize(count);
    tables_.resize(count * width);
    starts_[0] = 0;
    for (size_t i = 0; i < count; ++i) {
        const auto row = static_cast<size_t>(rows_[i]);
        starts_[i + 1] = static_cast<int32_t>(i + 1);
        logit_rows_[i] = static_cast<int32_t>(i);
        keys_[i] = task.laws.keys[row];
        temperature_[i] = task.laws.temperature[row];
        top_p_[i] = task.laws.top_p[row];
        min_p_[i] = task.laws.min_p[row];
        top_k_[i] = task.laws.top_k[row];
        std::copy_n(task.page_tables + row * width, width, tables_.begin() + static_cast<ptrdiff_t>(i * width));
    }
}

// Whether a row ends with this token.
bool Decoder::stops(const DecodeTask& task, int row, int32_t token) {
    const Stops& stops = task.stops[static_cast<size_t>(task.groups[row])];
    if (std::find(stops.tokens.begin(), stops.tokens.end(), token) != stops.tokens.end()) return true;
    if (stops.strings.empty()) return false;
    std::string& tail = tails_[static_cast<size_t>(row)];
    tail += piece(token);
    size_t longest = 0;
    for (const std::string& stop : stops.strings) {
        if (tail.find(stop) != std::string::npos) return true;
        longest = std::max(longest, stop.size());
    }
    if (tail.size() >= longest) tail.erase(0, tail.size() - (longest - 1));
    return false;
}

}  // namespace outthink
