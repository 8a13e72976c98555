// The Python face of the kernels: everything is checked here, and computed with the interpreter lock released.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <stdexcept>

#include "arrays.h"
#include "decode_binding.h"
#include "roofline.h"
#include "pack.h"
#include "step.h"

using namespace outthink;

namespace {

using Floats = Row<const float>;
using FloatTable = Table<float>;
using ScaleTable = Table<const float>;
using Matrix = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu, nb::ro>;

// bfloat16 crosses as its bits, uint16: NumPy has no such type.
Format format_of(const Matrix& matrix) {
    if (matrix.dtype() == nb::dtype<float>()) return Format::f32;
    require(matrix.dtype() == nb::dtype<uint16_t>(), "Weights must be float32, or bfloat16 as uint16.");
    return Format::bf16;
}

// A matrix of codes that fit into weights of this shape, and their scales.
Source coded_source(const Matrix& codes, const ScaleTable& scales, const Linear& linear) {
    require(is_quantized(linear.format), "Codes need quantized weights: int8 or int4.");
    require(codes.dtype() == nb::dtype<int8_t>(), "Codes must be int8.");
    require(scales.shape(0) == codes.shape(0) && static_cast<int>(scales.shape(1)) == num_scales_of(linear),
            "Codes need one scale for each output and group of packed inputs.");
    if (linear.format == Format::int4) {
        const auto* code = static_cast<const int8_t*>(codes.data());
        const auto [least, most] = std::minmax_element(code, code + codes.size());
        require(codes.size() == 0 || (*least >= -8 && *most <= 7), "Codes of int4 lie between -8 and 7.");
    }
    const float most = linear.format == Format::int4 ? 65504.0f : 3.402823466e38f;
    for (size_t i = 0; i < scales.size(); ++i) {
        require(std::fabs(scales.data()[i]) <= most, "Scales must be finite, those of int4 in float16.");
    }
    return {codes.data(), Format::int8, static_cast<int>(codes.shape(0)), static_cast<int>(codes.shape(1)),
            scales.data()};
}

Format weight_format(const std::string& name) {
    if (name == "float32") return Format::f32;
    if (name == "bfloat16") return Format::bf16;
    if (name == "int8") return Format::int8;
    require(name == "int4", "Weight formats: float32, bfloat16, int8, int4.");
    return Format::int4;
}

Format kv_format(const std::string& name) {
    if (name == "float32") return Format::f32;
    if (name == "bfloat16") return Format::bf16;
    require(name == "int8", "KV formats: float32, bfloat16, int8.");
    return Format::int8;
}

std::vector<float> padded(const Floats& values, int size) {
    std::vector<float> result(static_cast<size_t>(size), 0.0f);
    require(values.size() <= result.size(), "A vector of weights is longer than the model's shape allows.");
    std::memcpy(result.data(), values.data(), values.size() * sizeof(float));
    return result;
}

// Held for as long as a thread works on a model. A second one is refused: made to wait, it would compute on pages that
// the first has changed.
class Claim {
   public:
    explicit Claim(std::atomic_flag& busy) : busy_(busy) {
        if (!busy.test_and_set(std::memory_order_acquire)) return;
        throw std::runtime_error("Another thread is computing on this backend; one at a time may use it.");
    }
    ~Claim() { busy_.clear(std::memory_order_release); }
    Claim(const Claim&) = delete;
    Claim& operator=(const Claim&) = delete;

   private:
    std::atomic_flag& busy_;
};

constexpr int kMaxWidth = 1 << 22, kMaxPositions = 1 << 26;  // by which no size in the model overflows
constexpr size_t kMaxLayers = 4096;
constexpr double kMaxPageWords = 0x1p46;

class Core {
   public:
    Core(int vocab_size, int num_outputs, int hidden_size, int intermediate_size, int num_heads, int num_kv_heads,
         int head_dim, int max_positions, int num_pages, float norm_eps, const std::string& format, int group,
         const std::string& kv, std::vector<int> windows, const std::string& isa, int threads) {
        for (const int size : {vocab_size, num_outputs, hidden_size, intermediate_size, num_heads, num_kv_heads,
                               head_dim, max_positions, num_pages, threads}) {
            require(size > 0, "Sizes must be positive.");
        }
        require(num_heads % num_kv_heads == 0 && num_heads / num_kv_heads <= kMaxQueries,
                "Attention heads must be a multiple of key-value heads, at most 64 times as many.");
        require(head_dim % 2 == 0 && head_dim <= kMaxHeadDim, "head_dim must be even and at most 512.");
        require(std::max({vocab_size, hidden_size, intermediate_size}) <= kMaxWidth &&
                    int64_t{num_heads} * round_up(head_dim, kLanes) <= kMaxWidth,
                "Vocabulary, hidden and intermediate size, and heads times head_dim, are at most 4,194,304.");
        require(num_outputs <= vocab_size, "There are more outputs than tokens in the vocabulary.");
        require(max_positions <= kMaxPositions, "At most 67,108,864 positions.");
        require(windows.size() <= kMaxLayers, "At most 4096 layers.");
        for (const int window : windows) require(window >= 0, "Windows must be positive, or 0 for none.");
        const int page_words = page_words_of(kv_format(kv), num_kv_heads, round_up(head_dim, kLanes));
        require(1.0 * page_words * num_pages * static_cast<double>(windows.size()) <= kMaxPageWords,
                "The pages need more memory than there is on any machine.");
        require(threads <= 1024, "At most 1024 threads.");
        require(group == kInputMultiple || group == kScaleGroup, "Groups have 32 or 128 inputs.");
        const Kernels* kernels = select_kernels(isa.c_str());
        require(kernels != nullptr, "This processor does not run the instruction set '" + isa + "'.");
        const Shape shape{vocab_size,   num_outputs, hidden_size,   intermediate_size,     num_heads,
                          num_kv_heads, head_dim,    max_positions, num_pages,             norm_eps,
                          weight_format(format), group, kv_format(kv), std::move(windows)};
        model_ = std::make_unique<Model>(shape, *kernels, threads);
        decoder_ = std::make_unique<Decoder>(*model_);
    }

    // Sources are float32, bfloat16, or int8 codes of whole numbers times the `scales` that go with each source. Returns
    // the number of one that cannot be quantized, see `pack`; -1 if there is none.
    int set_linear(int layer, const std::string& name, const std::vector<Matrix>& sources, const Ints& row_map,
                    const Ints& column_map, std::optional<Floats> bias, const std::vector<ScaleTable>& scales) {
        const Claim claim(busy_);
        Weights& weights = linear(layer, name);
        require(scales.empty() || scales.size() == sources.size(), "Codes need scales, all of them or none.");
        std::vector<Source> matrices;
        int rows = 0;
        for (size_t i = 0; i < sources.size(); ++i) {
            const Matrix& source = sources[i];
            if (scales.empty()) {
                matrices.push_back({source.data(), format_of(source), static_cast<int>(source.shape(0)),
                                    static_cast<int>(source.shape(1))});
            } else {
                matrices.push_back(coded_source(source, scales[i], weights.linear));
            }
            rows += matrices.back().rows;
            require(matrices.back().columns == matrices.front().columns, "Stacked weights differ in width.");
        }
        const std::vector<int32_t> outputs(row_map.data(), row_map.data() + row_map.size());
        const std::vector<int32_t> inputs(column_map.data(), column_map.data() + column_map.size());
        const Linear& shape = weights.linear;
        require(static_cast<int>(outputs.size()) == shape.outputs &&
                    static_cast<int>(inputs.size()) == shape.inputs,
                "The weights of '" + name + "' do not have the model's shape.");
        require(!matrices.empty(), "No weights for '" + name + "'.");
        for (const int32_t row : outputs) require(row >= -1 && row < rows, "A row map points outside the weights.");
        for (const int32_t column : inputs) {
            require(column >= -1 && column < matrices.front().columns, "A column map points outside the weights.");
        }
        weights.filled = false;
        int refused;
        {
            nb::gil_scoped_release unlocked;
            refused = pack(matrices, outputs, inputs, weights, model_->kernels(), model_->pool());
        }
        if (refused >= 0) return refused;
        if (bias) {
            weights.bias = padded(*bias, shape.outputs);
            weights.linear.bias = weights.bias.data();
        }
        weights.filled = true;
        return -1;
    }

    void set_vector(int layer, const std::string& name, const Floats& values) {
        const Claim claim(busy_);
        const int hidden = model_->hidden_inputs();
        if (name == "final_norm") {
            model_->final_norm = padded(values, hidden);
            return;
        }
        Layer& target = layer_at(layer);
        if (name == "input_norm") {
            target.input_norm = padded(values, hidden);
        } else if (name == "post_norm") {
            target.post_norm = padded(values, hidden);
        } else if (name == "q_norm") {
            target.q_norm = padded(values, model_->head_stride());
        } else if (name == "k_norm") {
            target.k_norm = padded(values, model_->head_stride());
        } else {
            require(false, "Unknown vector '" + name + "'.");
        }
    }

    void set_embedding(const Matrix& rows) {
        const Claim claim(busy_);
        require(static_cast<int>(rows.shape(0)) == model_->shape().vocab_size &&
                    static_cast<int>(rows.shape(1)) == model_->shape().hidden_size,
                "The embedding does not have the model's shape.");
        embedding_ = rows;  // borrowed for as long as this object lives
        model_->embedding = embedding_.data();
        model_->embedding_format = format_of(rows);
    }

    void set_rotation(const Floats& cosines, const Floats& sines) {
        const Claim claim(busy_);
        const size_t size = static_cast<size_t>(model_->shape().max_positions) * model_->head_stride();
        require(cosines.size() == size && sines.size() == size, "The rotation tables do not have the model's shape.");
        model_->cosines.assign(cosines.data(), cosines.data() + size);
        model_->sines.assign(sines.data(), sines.data() + size);
    }

    // Refuses to compute before everything has been set.
    void seal() {
        bool complete = model_->head.filled && model_->embedding && !model_->final_norm.empty() &&
                        !model_->cosines.empty();
        for (const Layer& layer : model_->layers) {
            complete = complete && layer.qkv.filled && layer.output.filled && layer.gate_up.filled && layer.down.filled &&
                       !layer.input_norm.empty() && !layer.post_norm.empty() &&
                       layer.q_norm.empty() == layer.k_norm.empty();
        }
        require(complete, "Weights are missing.");
        sealed_ = true;
    }

    void run(const Ints& tokens, const Ints& positions, const Ints& query_starts, const Ints& context_lengths,
             const IntTable& page_tables, const Ints& logit_rows, const FloatTable& logits) {
        require(sealed_, "The model has no weights yet.");
        const Claim claim(busy_);
        const Shape& shape = model_->shape();
        require(std::max({tokens.size(), context_lengths.size(), logit_rows.size()}) <= kMaxRows,
                "At most 262,144 rows in a step.");
        require(tokens.size() == positions.size(), "tokens and positions differ in length.");
        require(query_starts.size() == context_lengths.size() + 1,
                "query_starts must be one longer than context_lengths.");
        require(page_tables.shape(0) == context_lengths.size(), "page_tables needs one row for each sequence.");
        require(logits.shape(0) == logit_rows.size() && static_cast<int>(logits.shape(1)) == shape.num_outputs,
                "logits must be [rows wanted, num_outputs].");
        const auto ids = copy_of(tokens), places = copy_of(positions), starts = copy_of(query_starts),
                   lengths = copy_of(context_lengths), tables = copy_of(page_tables), wanted = copy_of(logit_rows);
        const Batch batch{static_cast<int>(tokens.size()),
                          static_cast<int>(context_lengths.size()),
                          static_cast<int>(page_tables.shape(1)),
                          static_cast<int>(logit_rows.size()),
                          ids.data(),
                          places.data(),
                          starts.data(),
                          lengths.data(),
                          tables.data(),
                          wanted.data()};
        const std::string fault = find_fault(batch, shape);
        require(fault.empty(), fault);
        nb::gil_scoped_release unlocked;
        decoder_->forward(batch, logits.data());
    }

    void copy_pages(const Ints& source, const Ints& target) {
        const Claim claim(busy_);
        require(source.size() == target.size(), "source and target differ in length.");
        const auto from = copy_of(source), to = copy_of(target);
        const int pages = model_->shape().num_pages;
        for (size_t i = 0; i < from.size(); ++i) {
            for (const int32_t page : {from[i], to[i]}) {
                require(page >= 0 && page < pages,
                        "page id " + std::to_string(page) + " is outside the " + std::to_string(pages) + " pages.");
            }
        }
        nb::gil_scoped_release unlocked;
        model_->copy_pages(from.data(), to.data(), static_cast<int>(from.size()));
    }

    // Bytes of all tokens one after the other, and where each ends.
    void set_pieces(const nb::bytes& pieces, std::vector<uint32_t> ends) {
        const Claim claim(busy_);
        require(static_cast<int>(ends.size()) <= model_->shape().vocab_size && std::is_sorted(ends.begin(), ends.end()) &&
                    (ends.empty() || ends.back() <= pieces.size()),
                "The ends of pieces do not fit them.");
        decoder_->set_pieces({pieces.c_str(), pieces.size()}, std::move(ends));
    }

    void sample(const Table<const float>& logits, const Ints& positions, const LawArrays& laws,
                const Row<int32_t>& tokens, const Row<double>& log_probs, const Row<double>& sample_log_probs) {
        const Claim claim(busy_);
        sample_rows(*decoder_, model_->shape(), logits, positions, laws, tokens, log_probs, sample_log_probs);
    }

    int decode(const DecodeArrays& arrays, const StopLists& stops, const std::vector<nb::bytes>& tails, double seconds,
               const Table<int32_t>& tokens, const Table<double>& log_probs, const Table<double>& sample_log_probs,
               const Row<int32_t>& counts) {
        require(sealed_, "The model has no weights yet.");
        const Claim claim(busy_);
        return decode_rows(*decoder_, model_->shape(), arrays, stops, tails, seconds, tokens, log_probs,
                           sample_log_probs, counts);
    }

    void set_timed(bool timed) { decoder_->timed = timed; }
    double forward_seconds() const { return decoder_->forward_seconds; }
    double forward_cpu() const { return decoder_->forward_cpu; }

    std::map<std::string, double> stage_seconds() const {
        std::map<std::string, double> seconds;
        for (size_t i = 0; i < kStages.size(); ++i) seconds[kStages[i]] = model_->stage_seconds[i].load();
        return seconds;
    }

    const char* isa() const { return model_->kernels().name; }

    size_t weight_bytes() const { return model_->weight_bytes(); }

   private:
    Layer& layer_at(int layer) {
        require(layer >= 0 && layer < static_cast<int>(model_->layers.size()), "No such layer.");
        return model_->layers[static_cast<size_t>(layer)];
    }

    Weights& linear(int layer, const std::string& name) {
        if (name == "head") return model_->head;
        Layer& target = layer_at(layer);
        if (name == "qkv") return target.qkv;
        if (name == "output") return target.output;
        if (name == "gate_up") return target.gate_up;
        require(name == "down", "Unknown weights '" + name + "'.");
        return target.down;
    }

    std::unique_ptr<Model> model_;
    std::unique_ptr<Decoder> decoder_;
    Matrix embedding_;
    std::atomic_flag busy_;
    bool sealed_ = false;
};

}  // namespace

NB_MODULE(_core, module) {
    nb::set_leak_warnings(false);  // a model that is open when the program ends is no leak
    nb::class_<LawArrays>(module, "Laws")
        .def(nb::init<Row<const uint64_t>, Row<const double>, Row<const double>, Row<const double>, Ints>(),
             nb::arg("keys").noconvert(), nb::arg("temperature").noconvert(), nb::arg("top_p").noconvert(),
             nb::arg("min_p").noconvert(), nb::arg("top_k").noconvert());
    nb::class_<DecodeArrays>(module, "DecodeArrays")
        .def(nb::init<Ints, Ints, IntTable, Ints, Ints, LawArrays, Ints>(), nb::arg("tokens").noconvert(),
             nb::arg("positions").noconvert(), nb::arg("page_tables").noconvert(), nb::arg("limits").noconvert(),
             nb::arg("groups").noconvert(), nb::arg("laws"), nb::arg("interrupt").noconvert());
    nb::class_<Core>(module, "Core")
        .def(nb::init<int, int, int, int, int, int, int, int, int, float, const std::string&, int,
                      const std::string&, std::vector<int>,
                      const std::string&, int>(),
             nb::arg("vocab_size"), nb::arg("num_outputs"), nb::arg("hidden_size"), nb::arg("intermediate_size"),
             nb::arg("num_heads"), nb::arg("num_kv_heads"), nb::arg("head_dim"), nb::arg("max_positions"), nb::arg("num_pages"),
             nb::arg("norm_eps"), nb::arg("format"), nb::arg("group"), nb::arg("kv"), nb::arg("windows"), nb::arg("isa"), nb::arg("threads"))
        .def("set_linear", &Core::set_linear, nb::arg("layer"), nb::arg("name"), nb::arg("sources"),
             nb::arg("row_map"), nb::arg("column_map"), nb::arg("bias").none(),
             nb::arg("scales") = std::vector<ScaleTable>())
        .def("set_vector", &Core::set_vector)
        .def("set_embedding", &Core::set_embedding)
        .def("set_rotation", &Core::set_rotation)
        .def("seal", &Core::seal)
        // A silent conversion would copy, and the result would be lost.
        .def("run", &Core::run, nb::arg("tokens").noconvert(), nb::arg("positions").noconvert(),
             nb::arg("query_starts").noconvert(), nb::arg("context_lengths").noconvert(),
             nb::arg("page_tables").noconvert(), nb::arg("logit_rows").noconvert(), nb::arg("logits").noconvert())
        .def("set_pieces", &Core::set_pieces)
        .def("sample", &Core::sample, nb::arg("logits").noconvert(), nb::arg("positions").noconvert(), nb::arg("laws"),
             nb::arg("tokens").noconvert(), nb::arg("log_probs").noconvert(), nb::arg("sample_log_probs").noconvert())
        .def("decode", &Core::decode, nb::arg("arrays"), nb::arg("stops"), nb::arg("tails"), nb::arg("seconds"),
             nb::arg("tokens").noconvert(), nb::arg("log_probs").noconvert(), nb::arg("sample_log_probs").noconvert(),
             nb::arg("counts").noconvert())
        .def("set_timed", &Core::set_timed)
        .def_prop_ro("forward_seconds", &Core::forward_seconds)
        .def_prop_ro("forward_cpu", &Core::forward_cpu)
        .def_prop_ro("stage_seconds", &Core::stage_seconds)
        .def("copy_pages", &Core::copy_pages, nb::arg("source").noconvert(), nb::arg("target").noconvert())
        .def_prop_ro("isa", &Core::isa)
        .def_prop_ro("weight_bytes", &Core::weight_bytes);
    module.def(
        "read_bandwidth",
        [](int mebibytes, int threads) {
            require(mebibytes > 0 && mebibytes <= 1 << 16, "Read from 1 to 65,536 MiB.");
            require(threads > 0 && threads <= 1024, "From 1 to 1024 threads.");
            nb::gil_scoped_release unlocked;
            return read_bandwidth(static_cast<size_t>(mebibytes) << 20, threads);
        },
        nb::arg("mebibytes"), nb::arg("threads"));
    module.def(
        "multiply_rate",
        [](const std::string& format, const std::string& isa, int threads) {
            require(threads > 0 && threads <= 1024, "From 1 to 1024 threads.");
            const Kernels* kernels = select_kernels(isa.c_str());
            require(kernels != nullptr, "This processor does not run the instruction set '" + isa + "'.");
            const Format type = weight_format(format);
            nb::gil_scoped_release unlocked;
            return multiply_rate(*kernels, type, threads);
        },
        nb::arg("format"), nb::arg("isa"), nb::arg("threads"));
    module.def("usable_isas", [] {
        std::vector<std::string> names;
        for (const char* name : {"avx512", "avx2", "generic"}) {
            if (select_kernels(name)) names.emplace_back(name);
        }
        return names;
    });
}
