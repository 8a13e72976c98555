// What is checked before tokens are drawn, so that nothing out of range reaches the kernels.
#include "decode_binding.h"

#include <cmath>

namespace outthink {
namespace {

std::string text_of(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }

// The options of rows, in memory of their own.
struct OwnedLaws {
    std::vector<uint64_t> keys;
    std::vector<double> temperature, top_p, min_p;
    std::vector<int32_t> top_k;

    Laws view() const {
        return {static_cast<int>(keys.size()), keys.data(), temperature.data(), top_p.data(), min_p.data(), top_k.data()};
    }
};

OwnedLaws laws_of(const LawArrays& arrays, size_t rows) {
    require(rows <= kMaxRows, "At most 262,144 rows in a call.");
    require(arrays.keys.size() == rows && arrays.temperature.size() == rows && arrays.top_p.size() == rows &&
                arrays.min_p.size() == rows && arrays.top_k.size() == rows,
            "keys and options need one entry for each row.");
    OwnedLaws laws{copy_of(arrays.keys), copy_of(arrays.temperature), copy_of(arrays.top_p), copy_of(arrays.min_p),
                   copy_of(arrays.top_k)};
    for (size_t i = 0; i < rows; ++i) {
        const double temperature = laws.temperature[i], top_p = laws.top_p[i], min_p = laws.min_p[i];
        require(temperature >= 0.0 && std::isfinite(temperature), "temperature must be 0 or more.");
        require(top_p > 0.0 && top_p <= 1.0, "top_p must be above 0 and at most 1.");
        require(min_p >= 0.0 && min_p <= 1.0, "min_p must be between 0 and 1.");
        require(laws.top_k[i] >= 0, "top_k must be at least 1, or 0 for all.");
    }
    return laws;
}

// Raises where the last positions that the rows may come to are not theirs to write.
void check_room(const DecodeTask& task, const Shape& shape) {
    std::vector<int32_t> starts{0}, last, lengths;
    for (int row = 0; row < task.num_rows; ++row) {
        require(task.limits[row] >= 1 && task.limits[row] <= task.num_steps,
                "limits must be from 1 to the number of steps.");
        require(task.positions[row] >= 0 && task.positions[row] < shape.max_positions, "A position is out of range.");
        require(task.groups[row] >= 0 && task.groups[row] < static_cast<int>(task.stops.size()),
                "A row belongs to no group.");
        starts.push_back(row + 1);
        last.push_back(task.positions[row] + task.limits[row] - 1);
        lengths.push_back(last.back() + 1);
    }
    const std::string fault = find_fault({task.num_rows, task.num_rows, task.table_width, 0, task.tokens, last.data(),
                                          starts.data(), lengths.data(), task.page_tables, nullptr},
                                         shape);
    require(fault.empty(), fault);
}

}  // namespace

void sample_rows(Decoder& decoder, const Shape& shape, const Table<const float>& logits, const Ints& positions,
                 const LawArrays& laws, const Row<int32_t>& tokens, const Row<double>& log_probs,
                 const Row<double>& sample_log_probs) {
    const size_t rows = logits.shape(0);
    require(static_cast<int>(logits.shape(1)) == shape.num_outputs, "logits must be [rows, num_outputs].");
    require(positions.size() == rows && tokens.size() == rows && log_probs.size() == rows &&
                sample_log_probs.size() == rows,
            "positions and results need one entry for each row.");
    const OwnedLaws checked = laws_of(laws, rows);
    const std::vector<int32_t> counters = copy_of(positions);
    std::vector<Draw> draws(rows);
    {
        nb::gil_scoped_release unlocked;
        decoder.sample(checked.view(), logits.data(), counters.data(), draws.data());
    }
    for (size_t i = 0; i < rows; ++i) {
        require(draws[i].token >= 0, "Row " + std::to_string(i) + " has logits that are not finite.");
        tokens(i) = draws[i].token;
        log_probs(i) = draws[i].log_prob;
        sample_log_probs(i) = draws[i].sample_log_prob;
    }
}

int decode_rows(Decoder& decoder, const Shape& shape, const DecodeArrays& arrays, const StopLists& stops,
                const std::vector<nb::bytes>& tails, double seconds, const Table<int32_t>& tokens,
                const Table<double>& log_probs, const Table<double>& sample_log_probs, const Row<int32_t>& counts) {
    const size_t rows = arrays.tokens.size(), steps = tokens.shape(1);
    require(arrays.positions.size() == rows && arrays.page_tables.shape(0) == rows && arrays.limits.size() == rows &&
                arrays.groups.size() == rows && tails.size() == rows && counts.size() == rows,
            "Every array needs one entry for each row.");
    for (const auto& result : {tokens.shape(0), log_probs.shape(0), sample_log_probs.shape(0)}) {
        require(result == rows, "Results need one row for each sequence.");
    }
    require(log_probs.shape(1) == steps && sample_log_probs.shape(1) == steps && steps > 0 && steps <= 1 << 16,
            "Results need one column for each step.");
    require(arrays.interrupt.size() == 1, "interrupt must have one entry.");
    const OwnedLaws laws = laws_of(arrays.laws, rows);
    const auto latest = copy_of(arrays.tokens), positions = copy_of(arrays.positions), limits = copy_of(arrays.limits),
               groups = copy_of(arrays.groups), tables = copy_of(arrays.page_tables);
    DecodeTask task{};
    task.num_rows = static_cast<int>(rows);
    task.table_width = static_cast<int>(arrays.page_tables.shape(1));
    task.tokens = latest.data();
    task.positions = positions.data();
    task.page_tables = tables.data();
    task.limits = limits.data();
    task.groups = groups.data();
    for (const auto& [ids, strings] : stops) {
        Stops group{ids, {}};
        for (const nb::bytes& stop : strings) {
            require(stop.size() > 0 && decoder.knows_pieces(), "Stop strings need text, and the spelling of tokens.");
            group.strings.push_back(text_of(stop));
        }
        task.stops.push_back(std::move(group));
    }
    for (const nb::bytes& tail : tails) task.tails.push_back(text_of(tail));
    task.laws = laws.view();
    task.num_steps = static_cast<int>(steps);
    task.seconds = seconds;
    task.interrupt = arrays.interrupt.data();
    check_room(task, shape);
    nb::gil_scoped_release unlocked;
    return decoder.decode(task, {tokens.data(), log_probs.data(), sample_log_probs.data(), counts.data()});
}

}  // namespace outthink
