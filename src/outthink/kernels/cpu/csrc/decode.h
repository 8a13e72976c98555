// Drawing tokens from logits, and several steps of decoding in one call.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "step.h"

namespace outthink {

// How R rows are drawn from; arrays are borrowed.
struct Laws {
    int num_rows;
    const uint64_t* keys;
    const double *temperature, *top_p, *min_p;
    const int32_t* top_k;  // 0: all
};

// Where the rows of one extension stop.
struct Stops {
    std::vector<int32_t> tokens;
    std::vector<std::string> strings;
};

// Sequences that each want the positions from `positions` on, the token at the first of which is in `tokens`.
struct DecodeTask {
    int num_rows, table_width;
    const int32_t *tokens, *positions, *page_tables;
    const int32_t* limits;  // tokens that a row may draw, from 1 to num_steps
    const int32_t* groups;  // by row: index into stops
    std::vector<Stops> stops;
    std::vector<std::string> tails;  // by row: the end of the text, for stop strings that began there
    Laws laws;
    int num_steps;
    double seconds;            // no step is begun after so long
    const int32_t* interrupt;  // no step is begun once it is not 0
};

// Arrays [num_rows, num_steps], and how many of them there are by row.
struct Decoded {
    int32_t* tokens;
    double *log_probs, *sample_log_probs;
    int32_t* counts;
};

class Decoder {
   public:
    explicit Decoder(Model& model) : model_(model), scratch_(static_cast<size_t>(model.pool().size())) {}

    // What each token spells; needed where there are stop strings.
    void set_pieces(std::string bytes, std::vector<uint32_t> ends);
    bool knows_pieces() const { return !ends_.empty(); }

    // Draws[r] from row r of logits [num_rows, num_outputs], for the token at positions[r].
    void sample(const Laws& laws, const float* logits, const int32_t* positions, Draw* draws);

    // Steps until a row's limit, stops and the rest leave nothing to do, or all rows of a group have ended. A step with
    // a logit that is not finite does not count, and is the last. Returns the number of steps.
    int decode(const DecodeTask& task, const Decoded& out);

    // Safe to look at from other threads.
    std::atomic<double> forward_seconds{0.0};  // spent in the model's own steps
    std::atomic<double> forward_cpu{0.0};      // of that, processor time of the calling thread; measured where `timed`
    std::atomic<bool> timed{false};
    void forward(const Batch& batch, float* logits);

   private:
    struct Scratch {
        std::vector<double> law;
        std::vector<int32_t> ranked;
    };

    void pack(const DecodeTask& task);
    bool stops(const DecodeTask& task, int row, int32_t token);
    std::string_view piece(int32_t token) const;

    Model& model_;
    std::string bytes_;
    std::vector<uint32_t> ends_;
    std::vector<Scratch> scratch_;
    // Of the call that is running.
    std::vector<int> rows_;  // of the task, that go on
    std::vector<std::string> tails_;
    std::vector<int32_t> last_, tokens_, positions_, starts_, lengths_, tables_, logit_rows_;
    std::vector<float> logits_;
    std::vector<Draw> draws_;
    std::vector<uint64_t> keys_;
    std::vector<double> temperature_, top_p_, min_p_;
    std::vector<int32_t> top_k_;
};

}  // namespace outthink
