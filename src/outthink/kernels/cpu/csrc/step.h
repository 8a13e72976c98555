// A model in packed form with its paged KV memory, and the computation of one step over it.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "pool.h"

namespace outthink {

struct Shape {
    // num_outputs: of the head; vocab_size in a language model, 1 in a reward model.
    int vocab_size, num_outputs, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim, max_positions,
        num_pages;
    float norm_eps;
    Format format;  // of the layers' weights
    int group;      // int4: inputs that share a scale
    Format kv;      // f32 only if the weights are; bf16, int8
    std::vector<int> windows;  // by layer; 0: none

    Format activations() const { return activations_of(format); }
    // int4 is too coarse for the head, which decides between tokens directly.
    Format head() const { return activations(); }
    // What attention and the MLP write: float32 where it must be quantized before the next product.
    Format intermediate() const { return is_quantized(format) ? Format::f32 : format; }
};

struct Weights {
    Linear linear;
    // Where Linear's pointers point to, for the packing.
    uint32_t* tiles = nullptr;  // in the model's weight memory
    uint16_t* group_scales = nullptr;  // in the model's weight memory
    std::vector<float> scales, bias;
    bool filled = false;
};

struct Layer {
    Weights qkv, output, gate_up, down;
    std::vector<float> input_norm, post_norm, q_norm, k_norm;
};

// See outthink.kernels.step.StepBatch. Arrays are borrowed for the length of a step.
struct Batch {
    int num_rows, num_sequences, table_width, num_logits;
    const int32_t *tokens, *positions, *query_starts, *context_lengths, *page_tables, *logit_rows;
};

// What a step spends its time on, in the order of a layer; `output`, `down` with the quantizing of their inputs.
inline constexpr std::array<const char*, 9> kStages = {"embed",  "norm",    "qkv",  "rotate", "attend",
                                                       "output", "gate_up", "down", "head"};
enum Stage { kEmbed, kNorm, kQkv, kRotate, kAttend, kOutput, kGateUp, kDown, kHead };

// Describes the first thing wrong with a batch; empty if it may be computed.
std::string find_fault(const Batch& batch, const Shape& shape);

class Model {
   public:
    Model(const Shape& shape, const Kernels& kernels, int threads);

    const Shape& shape() const { return shape_; }
    const Kernels& kernels() const { return kernels_; }
    Pool& pool() { return pool_; }
    // Widths after padding; pads are zero everywhere.
    int hidden_inputs() const { return hidden_inputs_; }
    int head_stride() const { return head_stride_; }
    size_t weight_bytes() const { return weights_.bytes(); }  // of the products: what a step reads at least

    std::vector<Layer> layers;
    Weights head;
    std::vector<float> final_norm;
    std::vector<float> cosines, sines;  // [max_positions, head_stride], see RotateTask
    const void* embedding = nullptr;    // [vocab_size, hidden_size], borrowed
    Format embedding_format = Format::f32;

    // Writes logits [num_logits, num_outputs]. The batch must be without fault.
    void run(const Batch& batch, float* logits);
    void copy_pages(const int32_t* source, const int32_t* target, int count);
    // Spent in each of kStages so far; may be read while a step runs.
    std::array<std::atomic<double>, kStages.size()> stage_seconds{};

   private:
    using Clock = std::chrono::steady_clock;
    // Consecutive rows of order_ that attend together.
    struct Tile {
        int begin, count, common_pages, blocks;
        ptrdiff_t first_state;
    };
    struct Scratch {
        std::vector<float> scores, states;
        std::vector<uint32_t> weights;
    };

    void lay_out_weights();
    void plan(const Batch& batch);
    int head_parts() const { return (shape_.num_kv_heads + heads_together_ - 1) / heads_together_; }
    void order_rows(const Batch& batch);
    void reserve(int rows);
    void reserve_blocks(int tiles);
    void step();
    void end_stage(Stage stage);
    void layer(int index);
    void rotate(int index);
    void attention(int index);
    void attend_tile(const AttendTask& task, const Tile& tile, int thread);
    void attend_piece(const AttendTask& task, const Tile& tile, int part, int block);
    // Quantizes the input first where the weights are quantized, and adds the product to the residual stream.
    void multiply_intermediate(const Weights& weights, const uint32_t* input);
    void multiply(const Weights& weights, const uint32_t* input, int rows, Epilogue epilogue, void* result, int stride,
                  int columns);
    void normalize_rows(const std::vector<float>& gain, const int32_t* rows, int count);
    template <class Function>
    void each_row(int rows, int width, Function function);

    const Shape shape_;
    const Kernels& kernels_;
    Pool pool_;
    int group_;  // query heads of a kv head
    int hidden_stride_, head_stride_, mlp_stride_, qkv_stride_;
    int hidden_inputs_, attended_inputs_;  // padded widths of products' inputs
    int query_words_, attended_words_, mlp_words_;  // of a row
    ptrdiff_t page_words_, layer_words_;
    Memory<uint32_t> weights_;  // in the order of use
    Memory<uint32_t> kv_;

    // Of the step that is running.
    Batch batch_{};
    float* logits_ = nullptr;
    Clock::time_point stage_begin_;
    std::vector<int32_t> sequences_, order_, sorted_, shared_;
    std::vector<Tile> tiles_;
    bool split_blocks_ = false;
    int heads_together_ = 1;  // kv heads of an item of attention
    int64_t positions_read_ = 0;  // by all rows' attention together
    int64_t products_ = 0;        // multiplications for one row, all weights
    std::unique_ptr<std::atomic<int>[]> pending_;  // blocks to do, by tile and part of its heads
    size_t num_pending_ = 0;
    // Activations by row; grown as needed.
    int capacity_ = 0;
    Memory<float> hidden_, projected_, partial_;
    Memory<uint32_t> input_, queries_, attended_, mlp_;
    std::vector<Scratch> scratch_;
};

}  // namespace outthink
