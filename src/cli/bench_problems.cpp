// The benchmark's problems, made from the lines of tests/problems: shapes of the tests' files, and the layers
// and attentions of known models.
#include "cli/bench_problems.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>
#include <random>
#include <sstream>

#include "aerogel/attention.h"
#include "aerogel/error.h"
#include "aerogel/linear.h"
#include "aerogel/quantized_linear.h"
#include "aerogel/threads.h"
#include "base/clock.h"
#include "base/thread_pool.h"
#include "ops/machines.h"
#include "quant/algorithms/algorithm.h"
#include "quant/algorithms/minmax.h"
#include "quant/schemes.h"

namespace aerogel::cli {
namespace {

/// One line of a problem file: words "key=value"; '#' starts a comment.
struct ProblemLine {
    std::map<std::string, std::string> values;

    bool has(const std::string& key) const { return values.count(key) != 0; }

    /// InvalidArgument when there is no such key or it is no number.
    std::int64_t integer(const std::string& key) const {
        const auto found = values.find(key);
        return whole_number(key, found == values.end() ? "" : found->second);
    }

    /// The values of key=a,b,c.
    std::vector<std::string> list(const std::string& key) const { return split(values.at(key), ','); }

    /// The numbers of key=axb.
    std::vector<std::int64_t> size(const std::string& key) const { return size_of(key, values.at(key)); }

    static std::vector<std::string> split(const std::string& text, char separator) {
        std::vector<std::string> parts;
        std::istringstream stream(text);
        for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
        return parts;
    }

    static std::vector<std::int64_t> size_of(const std::string& key, const std::string& text) {
        std::vector<std::int64_t> size;
        for (const std::string& part : split(text, 'x')) size.push_back(whole_number(key, part));
        return size;
    }

  private:
    static std::int64_t whole_number(const std::string& key, const std::string& text) {
        std::int64_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc() || end != text.data() + text.size())
            throw InvalidArgument(
                fmt::format("[bench] a problem needs {}= with a whole number, got '{}'", key, text));
        return value;
    }
};

/// The lines with that key, in the order of the file.
std::vector<ProblemLine> lines_with(std::string_view key, std::string_view file) {
    std::vector<ProblemLine> problems;
    std::istringstream lines{std::string(file)};
    for (std::string line; std::getline(lines, line);) {
        if (line.starts_with('#')) continue;
        ProblemLine problem;
        std::istringstream words(line);
        for (std::string word; words >> word;) {
            const std::size_t equals = word.find('=');
            if (equals != word.npos) problem.values[word.substr(0, equals)] = word.substr(equals + 1);
        }
        if (problem.has(std::string(key))) problems.push_back(std::move(problem));
    }
    return problems;
}

struct LinearShape {
    std::int64_t m, n, k;
};

struct AttentionShape {
    std::int64_t heads, tokens, keys, head_dim;  ///< keys: of k and v; tokens but for cross-attention
    std::int64_t block = 0;                      ///< of the mask, square; 0: dense
    double density = 1.0;
};

// Roughly normal: the sum of a few uniform values, much cheaper than Box-Muller for large weights.
Tensor random_tensor(Shape shape, unsigned seed, float scale = 1.0F) {
    Tensor tensor(DType::f32, std::move(shape));
    std::minstd_rand random(seed);
    float* values = tensor.mutable_as<float>();
    for (std::int64_t i = 0; i < tensor.count(); ++i) {
        float sum = 0.0F;
        for (int term = 0; term < 3; ++term) sum += static_cast<float>(random()) / 1073741824.0F - 1.0F;
        values[i] = sum * scale;
    }
    return tensor;
}

double relative_error(const std::vector<double>& expected, const std::vector<double>& got) {
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < expected.size(); ++i) {
        difference += (expected[i] - got[i]) * (expected[i] - got[i]);
        norm += expected[i] * expected[i];
    }
    return std::sqrt(difference / norm);
}

/// FLOAT is float32, BF16 bfloat16 in, out and in memory: layers as models have them before quantization.
bool is_float(const std::string& scheme) {
    return scheme == "FLOAT" || scheme == "BF16";
}

/// A number of the device comes to the host after all that was put on the device before.
std::function<void()> waiting_for(Device device) {
    if (device == Device::cpu) return {};
    const Tensor number = Tensor::zeros(DType::f32, {1}, device);
    return [number] { static_cast<void>(number.to(Device::cpu)); };
}

/// x lies on the CPU.
std::unique_ptr<Linear> make_linear(const std::string& scheme, const Tensor& weight, const Tensor& bias,
                                    const Tensor& x, Device device) {
    if (is_float(scheme)) return std::make_unique<FloatLinear>(weight, bias, device);
    QuantizedLinearWeights weights;
    weights.scheme = scheme;
    const Format format = scheme_row("bench", scheme).weight;
    const std::int64_t group_size = scheme == "W4A16" ? 128 : 0;
    weights.weight = algorithm_row("minmax", format).quantize(weight, {group_size});
    weights.bias = bias;
    if (scheme == "W8A8") {
        const Tensor wide = x.to(DType::f32);
        const auto [low, high] = std::minmax_element(wide.as<float>(), wide.as<float>() + wide.count());
        const InputScale input = asymmetric_int8({*low, *high}, DType::f32);
        set_static_scales(weights, {input}, DType::f32);
    }
    return std::make_unique<QuantizedLinear>(std::move(weights), device);
}

// The float result of a few rows, in double.
std::vector<double> linear_samples(const Tensor& given_x, const Tensor& given_weight, const Tensor& bias) {
    const Tensor x = given_x.to(DType::f32), weight = given_weight.to(DType::f32);
    const std::int64_t m = x.dim(0), n = weight.dim(0), k = weight.dim(1);
    std::vector<double> samples;
    for (const std::int64_t row : {std::int64_t{0}, m / 2, m - 1}) {
        for (std::int64_t column = 0; column < n; ++column) {
            double sum = bias.as<float>()[column];
            for (std::int64_t i = 0; i < k; ++i) {
                sum += static_cast<double>(x.as<float>()[row * k + i]) *
                       static_cast<double>(weight.as<float>()[column * k + i]);
            }
            samples.push_back(sum);
        }
    }
    return samples;
}

BenchCase make_linear_case(const std::string& scheme, const LinearShape& shape, Device device) {
    const bool narrow = scheme == "BF16" || (device != Device::cpu && scheme != "FLOAT");
    const DType type = narrow ? DType::bf16 : DType::f32;
    const Tensor weight =
        random_tensor({shape.n, shape.k}, 1, 0.02F).to(scheme == "BF16" ? DType::bf16 : DType::f32);
    const Tensor bias = random_tensor({shape.n}, 2), x = random_tensor({shape.m, shape.k}, 3).to(type);
    const Tensor there = x.to(device);
    Tensor y(type, {shape.m, shape.n}, device);
    const std::shared_ptr<Linear> linear = make_linear(scheme, weight, bias, x, device);
    return {[=]() mutable { linear->forward(there, y, {}); },
            [=] {
                std::vector<double> got;
                const Tensor wide = y.to(Device::cpu).to(DType::f32);
                for (const std::int64_t row : {std::int64_t{0}, shape.m / 2, shape.m - 1}) {
                    const float* values = wide.as<float>() + row * shape.n;
                    got.insert(got.end(), values, values + shape.n);
                }
                return relative_error(linear_samples(x, weight, bias), got);
            },
            static_cast<double>(linear->weight_bytes()), waiting_for(device)};
}

BenchProblem linear_problem(const std::string& scheme, const LinearShape& shape, Device device) {
    const bool float_products = is_float(scheme) || !is_integer(scheme_row("bench", scheme).activation);
    return {fmt::format("linear/{}/{}x{}x{}", scheme, shape.m, shape.n, shape.k), "float64 product",
            scheme == "BF16" ? PeakKind::bf16
            : float_products ? PeakKind::f32
                             : PeakKind::int8,
            2.0 * static_cast<double>(shape.m * shape.n * shape.k),
            [=] { return make_linear_case(scheme, shape, device); }};
}

/// "float": FLOAT and every scheme whose products are floats.
std::vector<std::string> schemes_of(const ProblemLine& line) {
    std::vector<std::string> names = line.list("speed");
    if (names != std::vector<std::string>{"float"}) return names;
    names = {"FLOAT"};
    for (const SchemeRow& scheme : schemes()) {
        if (!is_integer(scheme.activation)) names.emplace_back(scheme.name);
    }
    return names;
}

/// Key blocks that each row keeps.
std::int64_t kept_blocks(const AttentionShape& shape) {
    const std::int64_t blocks = (shape.tokens + shape.block - 1) / shape.block;
    return static_cast<std::int64_t>(std::ceil(shape.density * static_cast<double>(blocks)));
}

BlockMask random_mask(const AttentionShape& shape) {
    BlockMask mask;
    mask.batch = 1;
    mask.heads = shape.heads;
    mask.q_len = mask.k_len = shape.tokens;
    mask.block_q = mask.block_k = shape.block;
    const std::int64_t kept = kept_blocks(shape);
    std::minstd_rand random(7);
    mask.row_start.push_back(0);
    for (std::int64_t row = 0; row < shape.heads * mask.q_blocks(); ++row) {
        std::vector<std::int32_t> blocks(static_cast<std::size_t>(mask.k_blocks()));
        for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = static_cast<std::int32_t>(i);
        std::shuffle(blocks.begin(), blocks.end(), random);
        std::sort(blocks.begin(), blocks.begin() + kept);
        mask.columns.insert(mask.columns.end(), blocks.begin(), blocks.begin() + kept);
        mask.row_start.push_back(static_cast<std::int64_t>(mask.columns.size()));
    }
    return mask;
}

// softmax(q k^T / sqrt(d)) v of the first token of the first head over the keys the mask keeps, in double.
std::vector<double> attention_sample(const Tensor& q, const Tensor& k, const Tensor& v,
                                     const BlockMask* mask) {
    const std::int64_t tokens = k.dim(1), stride = q.dim(2) * q.dim(3), head_dim = q.dim(3);
    std::vector<std::uint8_t> kept(static_cast<std::size_t>(tokens), mask == nullptr ? 1 : 0);
    for (std::int64_t i = 0; mask != nullptr && i < mask->row_start[1]; ++i) {
        const std::int64_t start = mask->columns[static_cast<std::size_t>(i)] * mask->block_k;
        std::fill_n(kept.begin() + start, std::min(mask->block_k, tokens - start), std::uint8_t{1});
    }
    std::vector<double> sums(static_cast<std::size_t>(head_dim), 0.0);
    double total = 0.0;
    for (std::int64_t key = 0; key < tokens; ++key) {
        if (kept[static_cast<std::size_t>(key)] == 0) continue;
        double score = 0.0;
        for (std::int64_t d = 0; d < head_dim; ++d) {
            score +=
                static_cast<double>(q.as<float>()[d]) * static_cast<double>(k.as<float>()[key * stride + d]);
        }
        const double weight = std::exp(score / std::sqrt(static_cast<double>(head_dim)));
        total += weight;
        for (std::int64_t d = 0; d < head_dim; ++d) {
            sums[static_cast<std::size_t>(d)] +=
                weight * static_cast<double>(v.as<float>()[key * stride + d]);
        }
    }
    for (double& sum : sums) sum /= total;
    return sums;
}

BenchCase make_attention_case(const AttentionShape& shape, DType dtype, AttentionFormat format,
                              Device device) {
    const Shape full = {1, shape.tokens, shape.heads, shape.head_dim};
    const Shape keys = {1, shape.keys, shape.heads, shape.head_dim};
    const Tensor q = random_tensor(full, 1).to(dtype), k = random_tensor(keys, 2).to(dtype),
                 v = random_tensor(keys, 3).to(dtype);
    const Tensor there[] = {q.to(device), k.to(device), v.to(device)};
    Tensor o(dtype, full, device);
    const auto mask = shape.block != 0 ? std::make_shared<BlockMask>(random_mask(shape)) : nullptr;
    return {
        [=]() mutable { attention(there[0], there[1], there[2], o, {.mask = mask.get(), .format = format}); },
        [=] {
            const Tensor first = o.to(Device::cpu).to(DType::f32);
            const std::vector<double> got(first.as<float>(), first.as<float>() + shape.head_dim);
            return relative_error(
                attention_sample(q.to(DType::f32), k.to(DType::f32), v.to(DType::f32), mask.get()), got);
        },
        0, waiting_for(device)};
}

AttentionShape attention_shape(const ProblemLine& line) {
    const std::int64_t tokens = line.integer("k_len");
    AttentionShape shape = {line.integer("heads"), tokens, tokens, line.integer("head_dim")};
    if (!line.has("mask")) return shape;
    shape.block = line.size("mask").at(0);  // "128x128"
    shape.density = std::stod(line.values.at("density"));
    return shape;
}

/// Of a problem's types those that the device has: int8_qk is for GPUs.
std::vector<std::string> types_on(Device device, std::vector<std::string> types) {
    if (device != Device::cpu && std::find(types.begin(), types.end(), "int8") != types.end())
        types.emplace_back("int8_qk");
    return types;
}

/// type: "f32", "bf16", or "int8" or "int8_qk" for quantized attention of f32, on a GPU of bf16.
BenchProblem attention_problem(const std::string& type, const AttentionShape& shape, Device device) {
    const bool sparse = shape.block != 0, cross = shape.keys != shape.tokens;
    const AttentionFormat format = type == "int8"      ? AttentionFormat::int8
                                   : type == "int8_qk" ? AttentionFormat::int8_qk
                                                       : AttentionFormat::none;
    const bool int8 = format != AttentionFormat::none;
    const bool narrow = type == "bf16" || (int8 && device != Device::cpu);
    const DType dtype = narrow ? DType::bf16 : DType::f32;
    double operations = 4.0 * static_cast<double>(shape.heads * shape.tokens * shape.keys * shape.head_dim);
    if (sparse)
        operations *=
            static_cast<double>(kept_blocks(shape) * shape.block) / static_cast<double>(shape.tokens);
    const std::string kind = sparse  ? fmt::format("block_sparse_{:.0f}%", 100 * shape.density)
                             : cross ? "cross"
                                     : "dense";
    const std::string keys = cross ? fmt::format("x{}", shape.keys) : "";
    return {fmt::format("attention/{}/{}/{}x{}{}x{}", kind, type, shape.heads, shape.tokens, keys,
                        shape.head_dim),
            sparse ? "float64 softmax over the kept blocks" : "float64 softmax",
            int8                   ? PeakKind::int8
            : dtype == DType::bf16 ? PeakKind::bf16
                                   : PeakKind::f32,
            operations, [=] { return make_attention_case(shape, dtype, format, device); }};
}

// On the CPU, of the thousands that a layer has, so that a call takes a second and not ten.
constexpr std::int64_t kRowsOfModels = 1024;

std::int64_t tokens_of(const std::vector<std::int64_t>& latent) {
    return latent.at(0) * latent.at(1) * latent.at(2);
}

std::vector<BenchProblem> problems_of_model(const ProblemLine& line, Device device) {
    const std::int64_t text = line.has("text") ? line.integer("text") : 0;
    const std::int64_t tokens = tokens_of(line.size(line.has("measured") ? "measured" : "latent")) + text;
    const std::int64_t rows = device == Device::cpu ? std::min(tokens, kRowsOfModels) : tokens;
    std::vector<BenchProblem> problems;
    for (const std::string& layer : line.list("layers")) {
        const auto size = ProblemLine::size_of("layers", layer);
        for (const char* scheme : {"FLOAT", "BF16", "W8A8_DYNAMIC"})
            problems.push_back(linear_problem(scheme, {rows, size.at(0), size.at(1)}, device));
    }
    std::vector<std::int64_t> key_lengths = {tokens};
    if (line.has("cross")) key_lengths.push_back(line.integer("cross"));
    for (const std::int64_t keys : key_lengths)
        for (const std::string& type : types_on(device, {"f32", "bf16", "int8"}))
            problems.push_back(attention_problem(
                type, {line.integer("heads"), tokens, keys, line.integer("head_dim")}, device));
    return problems;
}

/// Problems that several models have are one.
void add_models(std::vector<BenchProblem>& problems, Device device) {
    for (const ProblemLine& line : lines_with("model", model_problem_file())) {
        for (BenchProblem& problem : problems_of_model(line, device)) {
            auto place = std::find_if(problems.begin(), problems.end(),
                                      [&](const auto& other) { return other.name == problem.name; });
            if (place == problems.end()) place = problems.insert(place, std::move(problem));
            place->models.push_back(line.values.at("model"));
        }
    }
}

}  // namespace

bool BenchProblem::is_meant_by(const std::string& part) const {
    return name.find(part) != name.npos ||
           std::any_of(models.begin(), models.end(),
                       [&](const std::string& model) { return model.find(part) != model.npos; });
}

std::vector<BenchProblem> bench_problems(Device device) {
    std::vector<BenchProblem> problems;
    for (const ProblemLine& line : lines_with("speed", linear_problem_file())) {
        const LinearShape shape = {line.integer("m"), line.integer("n"), line.integer("k")};
        for (const std::string& scheme : schemes_of(line))
            problems.push_back(linear_problem(scheme, shape, device));
    }
    for (const ProblemLine& line : lines_with("speed", attention_problem_file())) {
        for (const std::string& type : types_on(device, line.list("speed")))
            problems.push_back(attention_problem(type, attention_shape(line), device));
    }
    add_models(problems, device);
    return problems;
}

double measured_peak(PeakKind kind) {
    const Machine& cpu = machine_of(Device::cpu);
    for (const MachineRow<PeakKernel>& row : cpu.peak) {
        const PeakKernel& kernel = *row.kernel;
        if (kernel.kind != kind || !cpu.why_not(Device::cpu, row.level).empty()) continue;
        const auto rounds = static_cast<std::int64_t>(4e9 / kernel.operations_per_round);
        double best = 0.0;
        for (int attempt = 0; attempt < 5; ++attempt) {
            const auto start = Clock::now();
            parallel_for(num_threads(), [&](std::int64_t, int) { kernel.run(rounds); });
            const double elapsed = seconds_since(start);
            const double operations =
                kernel.operations_per_round * static_cast<double>(rounds * num_threads());
            best = std::max(best, operations / elapsed);
        }
        return best;
    }
    return 0.0;
}

}  // namespace aerogel::cli
