#include "step.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace outthink {
namespace {

// Multiplications that take about a microsecond, which is several times what it takes to share them; and a step that
// takes as long as waking a thread.
constexpr int64_t kWorthSharing = 1 << 17, kWorthWaking = 1 << 22;
constexpr int kRowCost = 16;  // of norms and the like, for each element, in multiplications of products

}  // namespace

Model::Model(const Shape& shape, const Kernels& kernels, int threads)
    : layers(shape.windows.size()),
      shape_(shape),
      kernels_(kernels),
      pool_(threads),
      group_(shape.num_heads / shape.num_kv_heads),
      hidden_stride_(round_up(shape.hidden_size, kBlockOutputs)),
      head_stride_(round_up(shape.head_dim, kLanes)),
      mlp_stride_(round_up(shape.intermediate_size, kBlockOutputs / 2)),
      qkv_stride_(round_up((shape.num_heads + 2 * shape.num_kv_heads) * head_stride_, kBlockOutputs)),
      hidden_inputs_(round_up(shape.hidden_size, kInputMultiple)),
      attended_inputs_(round_up(shape.num_heads * head_stride_, kInputMultiple)),
      query_words_(shape.num_heads * query_words_of(shape.kv, head_stride_)),
      attended_words_(activation_words(shape.intermediate(), attended_inputs_)),
      mlp_words_(activation_words(shape.intermediate(), mlp_stride_)),
      page_words_(page_words_of(shape.kv, shape.num_kv_heads, head_stride_)),
      layer_words_(page_words_ * shape.num_pages),
      kv_(shape.windows.size() * static_cast<size_t>(layer_words_)),
      scratch_(static_cast<size_t>(threads)) {
    for (auto& scratch : scratch_) {
        scratch.scores.resize(kMaxQueries * kBlockPositions);
        scratch.weights.resize(kMaxQueries * kBlockPositions);
        scratch.states.resize(2 * kMaxQueries * static_cast<size_t>(kStateHeader + head_stride_));
    }
    lay_out_weights();
}

// One block of memory for all: small ones would not get huge pages, and reading would stop at each of their ends.
void Model::lay_out_weights() {
    std::vector<Weights*> order;
    const auto add = [&](Weights& weights, Format format, int outputs, int inputs) {
        weights.linear.format = format;
        weights.linear.group = format == Format::int4 ? shape_.group : 0;
        weights.linear.outputs = outputs;
        weights.linear.inputs = inputs;
        order.push_back(&weights);
    };
    const Format format = shape_.format;
    for (Layer& layer : layers) {
        add(layer.qkv, format, qkv_stride_, hidden_inputs_);
        add(layer.output, format, hidden_stride_, attended_inputs_);
        add(layer.gate_up, format, 2 * mlp_stride_, hidden_inputs_);
        add(layer.down, format, hidden_stride_, mlp_stride_);
    }
    add(head, shape_.head(), round_up(shape_.num_outputs, kBlockOutputs), hidden_inputs_);
    const auto tile_words = [](const Linear& linear) { return size_t{1} * linear.outputs * linear.words(); };
    const auto scale_words = [](const Linear& linear) {
        if (!linear.group) return size_t{0};
        return size_t{1} * linear.outputs * ((linear.inputs + linear.group - 1) / linear.group) / 2;
    };
    size_t total = 0;
    for (const Weights* weights : order) {
        total += tile_words(weights->linear) + scale_words(weights->linear);
        products_ += int64_t{weights->linear.outputs} * weights->linear.inputs;
    }
    weights_ = Memory<uint32_t>(total);
    uint32_t* next = weights_.data();
    for (Weights* weights : order) {
        Linear& linear = weights->linear;
        linear.weights = weights->tiles = next;
        next += tile_words(linear);
        if (linear.group) linear.group_scales = weights->group_scales = reinterpret_cast<uint16_t*>(next);
        next += scale_words(linear);
        if (linear.format != Format::int8) continue;
        weights->scales.resize(static_cast<size_t>(linear.outputs));
        linear.scales = weights->scales.data();
    }
}

void Model::run(const Batch& batch, float* logits) {
    if (batch.num_rows == 0) return;
    batch_ = batch;
    logits_ = logits;
    reserve(std::max(batch.num_rows, batch.num_logits));
    plan(batch);
    pool_.expect(batch.num_rows * products_ >= kWorthWaking);
    step();
}

void Model::copy_pages(const int32_t* source, const int32_t* target, int count) {
    const size_t bytes = static_cast<size_t>(page_words_) * sizeof(uint32_t);
    std::vector<uint32_t> read(static_cast<size_t>(count) * static_cast<size_t>(page_words_));
    for (size_t layer = 0; layer < layers.size(); ++layer) {
        uint32_t* pages = kv_.data() + static_cast<ptrdiff_t>(layer) * layer_words_;
        for (int i = 0; i < count; ++i) std::memcpy(read.data() + i * page_words_, pages + source[i] * page_words_, bytes);
        for (int i = 0; i < count; ++i) std::memcpy(pages + target[i] * page_words_, read.data() + i * page_words_, bytes);
    }
}

void Model::reserve(int rows) {
    if (rows <= capacity_) return;
    capacity_ = round_up(rows, 64);
    const auto sized = [&](int stride) { return static_cast<size_t>(capacity_) * static_cast<size_t>(stride); };
    const int widest = std::max({hidden_inputs_, attended_inputs_, mlp_stride_});
    hidden_ = Memory<float>(sized(hidden_stride_));
    projected_ = Memory<float>(sized(qkv_stride_));
    input_ = Memory<uint32_t>(sized(activation_words(shape_.activations(), widest)));
    queries_ = Memory<uint32_t>(sized(query_words_));
    attended_ = Memory<uint32_t>(sized(attended_words_));
    mlp_ = Memory<uint32_t>(sized(mlp_words_));
}

// Counts the time since the end of the stage before.
void Model::end_stage(Stage stage) {
    const Clock::time_point now = Clock::now();
    auto& seconds = stage_seconds[stage];
    seconds.store(seconds.load(std::memory_order_relaxed) + std::chrono::duration<double>(now - stage_begin_).count(),
                  std::memory_order_relaxed);
    stage_begin_ = now;
}

void Model::step() {
    stage_begin_ = Clock::now();
    const auto* source = static_cast<const char*>(embedding);
    const size_t row_bytes = static_cast<size_t>(shape_.hidden_size) * (embedding_format == Format::f32 ? 4 : 2);
    each_row(batch_.num_rows, hidden_stride_, [&](int row) {
        kernels_.embed(source + static_cast<size_t>(batch_.tokens[row]) * row_bytes, embedding_format,
                       shape_.hidden_size, hidden_stride_, hidden_.data() + ptrdiff_t{row} * hidden_stride_);
    });
    end_stage(kEmbed);
    for (int index = 0; index < static_cast<int>(layers.size()); ++index) layer(index);
    if (batch_.num_logits == 0) return;
    normalize_rows(final_norm, batch_.logit_rows, batch_.num_logits);
    end_stage(kNorm);
    multiply(head, input_.data(), batch_.num_logits, Epilogue::store, logits_, shape_.num_outputs, shape_.num_outputs);
    end_stage(kHead);
}

void Model::layer(int index) {
    const Layer& layer = layers[static_cast<size_t>(index)];
    const int rows = batch_.num_rows;
    normalize_rows(layer.input_norm, nullptr, rows);
    end_stage(kNorm);
    multiply(layer.qkv, input_.data(), rows, Epilogue::store, projected_.data(), qkv_stride_, qkv_stride_);
    end_stage(kQkv);
    rotate(index);
    end_stage(kRotate);
    attention(index);
    end_stage(kAttend);
    multiply_intermediate(layer.output, attended_.data());
    end_stage(kOutput);
    normalize_rows(layer.post_norm, nullptr, rows);
    end_stage(kNorm);
    multiply(layer.gate_up, input_.data(), rows, Epilogue::silu_mul, mlp_.data(), mlp_words_, 0);
    end_stage(kGateUp);
    multiply_intermediate(layer.down, mlp_.data());
    end_stage(kDown);
}

// Rows `rows` of the residual stream (all, if null) as activations 0, 1, ... of the next product.
void Model::normalize_rows(const std::vector<float>& gain, const int32_t* rows, int count) {
    const ptrdiff_t words = activation_words(shape_.activations(), hidden_inputs_);
    each_row(count, hidden_inputs_, [&](int row) {
        const ptrdiff_t from = rows ? rows[row] : row;
        kernels_.normalize({hidden_.data() + from * hidden_stride_, gain.data(), shape_.hidden_size, hidden_inputs_,
                            shape_.norm_eps, shape_.activations(), input_.data() + row * words});
    });
}

void Model::multiply_intermediate(const Weights& weights, const uint32_t* input) {
    const int inputs = weights.linear.inputs;
    if (is_quantized(weights.linear.format)) {
        const auto* rows = reinterpret_cast<const float*>(input);
        const ptrdiff_t stride = activation_words(Format::f32, inputs);
        const ptrdiff_t words = activation_words(Format::int8, inputs);
        each_row(batch_.num_rows, inputs, [&](int row) {
            kernels_.quantize({rows + row * stride, inputs, input_.data() + row * words});
        });
        input = input_.data();
    }
    multiply(weights, input, batch_.num_rows, Epilogue::add, hidden_.data(), hidden_stride_, hidden_stride_);
}

void Model::multiply(const Weights& weights, const uint32_t* input, int rows, Epilogue epilogue, void* result,
                     int stride, int columns) {
    const Linear& linear = weights.linear;
    const bool packed = epilogue == Epilogue::silu_mul;
    const LinearTask task{&linear,
                          input,
                          activation_words(activations_of(linear.format), linear.inputs),
                          epilogue,
                          packed ? nullptr : static_cast<float*>(result),
                          packed ? static_cast<uint32_t*>(result) : nullptr,
                          shape_.intermediate(),
                          stride,
                          columns};
    const int blocks = linear.outputs / kBlockOutputs, wanted = 2 * pool_.size();
    int parts = (rows + kRowsPerItem - 1) / kRowsPerItem;
    if (blocks * parts < wanted) parts = std::clamp((wanted + blocks - 1) / blocks, parts, (rows + 5) / 6);
    const bool alone = int64_t{rows} * linear.outputs * linear.inputs < kWorthSharing;
    pool_.each(blocks * parts, alone, [&](int item, int) {
        const int part = item % parts;
        kernels_.linear(task, item / parts, rows * part / parts, rows * (part + 1) / parts);
    });
}

void Model::rotate(int index) {
    const Layer& layer = layers[static_cast<size_t>(index)];
    const float scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
    each_row(batch_.num_rows, qkv_stride_, [&](int row) {
        const ptrdiff_t position = batch_.positions[row];
        const int32_t* pages = batch_.page_tables + ptrdiff_t{sequences_[static_cast<size_t>(row)]} * batch_.table_width;
        RotateTask task{};
        task.format = shape_.kv;
        task.num_heads = shape_.num_heads;
        task.num_kv_heads = shape_.num_kv_heads;
        task.head_dim = shape_.head_dim;
        task.padded_dim = head_stride_;
        task.projected = projected_.data() + ptrdiff_t{row} * qkv_stride_;
        task.q_gain = layer.q_norm.empty() ? nullptr : layer.q_norm.data();
        task.k_gain = layer.k_norm.empty() ? nullptr : layer.k_norm.data();
        task.eps = shape_.norm_eps;
        task.cos = cosines.data() + position * head_stride_;
        task.sin = sines.data() + position * head_stride_;
        task.scale = scale;
        task.queries = queries_.data() + ptrdiff_t{row} * query_words_;
        task.page = kv_.data() + index * layer_words_ + pages[position / kPageSize] * page_words_;
        task.slot = static_cast<int>(position % kPageSize);
        kernels_.rotate(task);
    });
}

void Model::attention(int index) {
    AttendTask shared{};
    shared.format = shape_.kv;
    shared.queries_per_head = group_;
    shared.padded_dim = head_stride_;
    shared.kv = kv_.data() + index * layer_words_;
    shared.num_kv_heads = shape_.num_kv_heads;
    shared.window = shape_.windows[static_cast<size_t>(index)];
    shared.queries = queries_.data();
    shared.query_stride = query_words_;
    shared.out = attended_.data();
    shared.out_stride = attended_words_;
    shared.out_format = shape_.intermediate();
    shared.positions = batch_.positions;
    shared.sequences = sequences_.data();
    shared.page_tables = batch_.page_tables;
    shared.table_width = batch_.table_width;
    const int parts = head_parts(), items = static_cast<int>(tiles_.size()) * parts;
    int pieces = 1;
    if (split_blocks_) {
        for (const Tile& tile : tiles_) pieces = std::max(pieces, tile.blocks);
    }
    const bool alone = positions_read_ * shape_.num_heads * head_stride_ * 2 < kWorthSharing;
    pool_.each(items * pieces, alone, [&](int item, int thread) {
        const int part = item / pieces;
        const Tile& tile = tiles_[static_cast<size_t>(part / parts)];
        AttendTask task = shared;
        task.rows = order_.data() + tile.begin;
        task.num_rows = tile.count;
        task.common_pages = tile.common_pages;
        task.first_head = part % parts * heads_together_;
        task.num_heads = std::min(heads_together_, shape_.num_kv_heads - task.first_head);
        task.scores = scratch_[static_cast<size_t>(thread)].scores.data();
        task.weights = scratch_[static_cast<size_t>(thread)].weights.data();
        if (!split_blocks_) {
            attend_tile(task, tile, thread);
        } else if (item % pieces < tile.blocks) {
            attend_piece(task, tile, part, item % pieces);
        }
    });
}

void Model::attend_tile(const AttendTask& task, const Tile& tile, int thread) {
    float* states = scratch_[static_cast<size_t>(thread)].states.data();
    float* more = states + ptrdiff_t{kMaxQueries} * (kStateHeader + head_stride_);
    kernels_.attend_block(task, 0, states);
    for (int block = 1; block < tile.blocks; ++block) {
        kernels_.attend_block(task, block, more);
        kernels_.fold(task, states, more);
    }
    kernels_.finish(task, states);
}

// One block of some heads of a tile; whoever does the last one joins them all, in the order of blocks.
void Model::attend_piece(const AttendTask& task, const Tile& tile, int part, int block) {
    const ptrdiff_t size = ptrdiff_t{task.num_queries()} * (kStateHeader + head_stride_);
    const ptrdiff_t before = ptrdiff_t{task.first_head} * tile.count * group_ * (kStateHeader + head_stride_);
    float* states = partial_.data() + tile.first_state + before * tile.blocks;
    kernels_.attend_block(task, block, states + block * size);
    auto& pending = pending_[static_cast<size_t>(part)];
    if (pending.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
    pending.store(tile.blocks, std::memory_order_relaxed);
    for (int i = 1; i < tile.blocks; ++i) kernels_.fold(task, states, states + i * size);
    kernels_.finish(task, states);
}

// `width`: elements of a row that are worked on.
template <class Function>
void Model::each_row(int rows, int width, Function function) {
    const bool alone = int64_t{rows} * width * kRowCost < kWorthSharing;
    const int items = std::min(rows, 4 * pool_.size());
    pool_.each(items, alone, [&](int item, int) {
        const int end = static_cast<int>(int64_t{rows} * (item + 1) / items);
        for (int row = static_cast<int>(int64_t{rows} * item / items); row < end; ++row) function(row);
    });
}

}  // namespace outthink
