// The table of operators that one instruction set offers, and the plain records they work on.
//
// Layouts are the same on every instruction set. A *word* is 32 bits along the reduction axis: one float32, a pair of
// bfloat16, four int8, or eight int4. Every reduction runs over words in increasing order whatever the number of rows, and over KV in fixed
// blocks, so that a row's result does not depend, to the last bit, on what else is computed beside it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace outthink {

enum class Format : int { f32, bf16, int8, int4 };

inline constexpr int kLanes = 16;       // logical vector width of every layout
inline constexpr int kPageSize = 16;    // positions of a page
inline constexpr int kBlockPages = 16;  // pages of a KV block: softmax is folded block by block
inline constexpr int kBlockPositions = kPageSize * kBlockPages;
inline constexpr int kBlockOutputs = 64;  // output features of a weight tile
inline constexpr int kMaxHeadDim = 512;
// The least there is, so that no score loses against it; finite, so that the difference of two of them is a number.
inline constexpr float kMasked = -3.402823466e38f;

inline constexpr int kRowsPerItem = 48;  // of a product: enough to reuse weights from the second-level cache

inline constexpr int kInputMultiple = 32;  // inputs of a product are padded to it; activations keep a sum of each 32
inline constexpr int kScaleGroup = 128;    // inputs of a row that share a scale in int8 activations

constexpr int words_of(Format format, int elements) {
    return format == Format::f32    ? elements
           : format == Format::bf16 ? elements / 2
           : format == Format::int8 ? elements / 4
                                    : elements / 8;
}
constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }
// What the inputs of a product with weights of this format are made of.
constexpr Format activations_of(Format weights) { return weights == Format::int4 ? Format::int8 : weights; }
constexpr bool is_quantized(Format format) { return format == Format::int8 || format == Format::int4; }
constexpr int num_scales(int inputs) { return (inputs + kScaleGroup - 1) / kScaleGroup; }
// A row of activations: its words; if int8, then a float scale for each 128 and an int32 sum for each 32 of them.
constexpr int activation_words(Format format, int inputs) {
    const int extra = format == Format::int8 ? num_scales(inputs) + inputs / kInputMultiple : 0;
    return round_up(words_of(format, inputs) + extra, kLanes);
}

// A head's query: its words; in front of int8 KV it has 16 bits, as int8 words of the high halves, then of the low ones,
// then a float scale and the int32 sums of both.
constexpr int query_words_of(Format kv, int dim) { return kv == Format::int8 ? dim / 2 + 4 : words_of(kv, dim); }
// A page: keys of all heads, then values of all heads; if int8, then the bfloat16 scales [heads][16] of both. int8 keys
// are kept plus 128. Keys are [words][16 positions], values [positions in words][dim].
constexpr int page_values_at(Format kv, int heads, int dim) { return heads * words_of(kv, dim) * kPageSize; }
constexpr int page_scales_at(Format kv, int heads, int dim) { return 2 * page_values_at(kv, heads, dim); }
constexpr int page_words_of(Format kv, int heads, int dim) {
    return page_scales_at(kv, heads, dim) + (kv == Format::int8 ? heads * kPageSize : 0);
}

// Weights [outputs, inputs] as tiles [outputs / 64][words][64]; padding is zero. int8 weights are kept plus 128, with a
// scale for each output; int4 weights plus 8, in low halves of bytes for even and in high halves for odd groups of four
// inputs, with scales [outputs / 64][inputs / group][64] in float16.
struct Linear {
    Format format = Format::f32;
    int outputs = 0;  // multiple of 64
    int inputs = 0;   // multiple of 32
    int group = 0;    // int4: inputs that share a scale, 32 or 128
    const uint32_t* weights = nullptr;
    const float* scales = nullptr;
    const uint16_t* group_scales = nullptr;
    const float* bias = nullptr;  // [outputs], or null

    int words() const { return words_of(format, inputs); }
};

struct Span {
    int begin, end;
};

enum class Epilogue : int {
    store,     // result[row, o] = y, for o < columns
    add,       // result[row, o] += y
    silu_mul,  // words: tiles hold 16 gates, 16 ups alternately; silu(gate) * up in half as many columns
};

struct LinearTask {
    const Linear* linear;
    const uint32_t* input;  // activations [rows, input_stride] words
    ptrdiff_t input_stride;
    Epilogue epilogue;
    float* result;       // store, add: [rows, result_stride]
    uint32_t* packed;    // silu_mul: [rows, result_stride] words
    Format packed_format;
    ptrdiff_t result_stride;
    int columns;  // store: columns that exist
};

// float32 rows as int8 activations.
struct QuantizeTask {
    const float* x;
    int padded;  // multiple of 32
    uint32_t* out;
};

struct NormTask {
    const float* x;
    const float* gain;  // [padded]
    int size, padded;   // padded: multiple of 32, x and gain are zero from size on
    float eps;
    Format format;
    uint32_t* out;
};

// The rotation of one row's queries and keys, and the writing of its keys and values into its page.
struct RotateTask {
    Format format;
    int num_heads, num_kv_heads, head_dim, padded_dim;
    const float* projected;           // q heads, k heads, v heads, each [padded_dim]; pairs adjacent in q and k
    const float *q_gain, *k_gain;     // [padded_dim], or null
    float eps;
    const float *cos, *sin;           // [padded_dim]: cos doubled; sin doubled, with alternating sign
    float scale;                      // of the queries
    uint32_t* queries;                // [num_heads, words]
    uint32_t* page;                   // the row's page in this layer
    int slot;
};

// Attention of a tile of rows, which have their first `common_pages` pages in common, in some heads over one KV block.
// Query number q of the task is ((kv head * num_rows) + row) * queries_per_head + query head, all counted in the task.
struct AttendTask {
    Format format;
    int queries_per_head;  // query heads of a kv head
    int padded_dim;
    const uint32_t* kv;  // this layer's pages
    int num_kv_heads;
    int first_head, num_heads;  // kv heads of the task, at most kMaxQueries / (rows * queries_per_head)
    int window;  // 0: none
    const uint32_t* queries;  // [rows, query_stride] words
    ptrdiff_t query_stride;
    uint32_t* out;  // [rows, out_stride] words
    ptrdiff_t out_stride;
    Format out_format;
    const int32_t* rows;
    int num_rows;
    int common_pages;
    const int32_t* positions;      // by row
    const int32_t* sequences;      // by row
    const int32_t* page_tables;    // [sequences, table_width]
    int table_width;
    float* scores;        // scratch [queries, kBlockPositions]
    uint32_t* weights;    // scratch [queries, words of kBlockPositions]

    ptrdiff_t page_stride() const { return page_words_of(format, num_kv_heads, padded_dim); }
    int num_queries() const { return num_heads * num_rows * queries_per_head; }
    const int32_t* page_table(int row) const {
        return page_tables + static_cast<ptrdiff_t>(sequences[row]) * table_width;
    }
};

// What one KV block contributes to a query: [maximum, sum, scale of int8 values, 13 unused, values padded_dim] floats.
inline constexpr int kStateHeader = kLanes;
inline constexpr int kMaxQueries = 64;  // of a task

// One draw from the distribution that logits and options make, see outthink.core.sampling.Sampling.
struct SampleTask {
    const float* logits;  // [size]
    int size;
    double temperature, top_p, min_p;
    int top_k;               // 0: all
    uint64_t key, position;  // of the random number
    double* law;             // scratch [sample_scratch(size)]
    int32_t* ranked;         // scratch [size]
};

// Log-probabilities under the model itself, and under what the token was drawn from.
struct Draw {
    int32_t token = -1;  // -1 where a logit is not finite
    double log_prob = 0.0, sample_log_prob = 0.0;
};

inline constexpr int kLawBlock = 64;  // probabilities are summed block by block
// The probabilities, padded to whole blocks, and the sums of blocks.
constexpr size_t sample_scratch(int size) {
    const size_t blocks = (static_cast<size_t>(size) + kLawBlock - 1) / kLawBlock;
    return blocks * (kLawBlock + 1);
}

struct Kernels {
    const char* name;
    void (*linear)(const LinearTask&, int block, int row_begin, int row_end);  // at most kRowsPerItem rows
    // The inner loop of products on data in the first-level cache; returns how many multiplications it did.
    int64_t (*multiply_cached)(Format, int64_t rounds);
    void (*embed)(const void* source, Format format, int size, int padded, float* out);
    void (*normalize)(const NormTask&);
    void (*quantize)(const QuantizeTask&);
    // Squared error of x [count], a multiple of 16, rounded to codes -8 to 7 of this scale.
    float (*int4_error)(const float* x, int count, float scale);
    void (*rotate)(const RotateTask&);
    void (*attend_block)(const AttendTask&, int block, float* states);
    void (*fold)(const AttendTask&, float* states, const float* more);
    void (*finish)(const AttendTask&, const float* states);
    Draw (*sample)(const SampleTask&);
};

// Null where the compiler does not know the instruction set.
const Kernels* avx512_kernels();
const Kernels* avx2_kernels();
const Kernels* generic_kernels();
// The table called `name`, or the best one that this processor runs for "auto". Null if it is unknown or unusable.
const Kernels* select_kernels(const char* name);

}  // namespace outthink
