// Checkpoint: names against shapes, problems gathered.
#include "model/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/quantized_linear.h"
#include "core/finite.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/families.h"
#include "model/single_files.h"
#include "quant/weight_plan.h"

namespace aerogel {
namespace {

constexpr const char* kWeightFile = "diffusion_pytorch_model.safetensors";  // of diffusers
constexpr const char* kTextWeightFile = "model.safetensors";                // of transformers
constexpr const char* kIndexEnding = ".index.json";
constexpr std::size_t kShown = 5;

bool is_float(DType dtype) {
    return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::f16;
}

// diffusers ignores this one too: checkpoints carry it, no code reads it.
bool is_ignorable(const std::string& name) {
    return name.find("norm_added_q") != std::string::npos;
}

std::string list_first(std::string_view what, const std::vector<std::string>& items) {
    if (items.empty()) return {};
    std::string text = fmt::format("; {} {}:", items.size(), what);
    for (std::size_t i = 0; i < std::min(items.size(), kShown); ++i) {
        text += (i == 0 ? " " : ", ") + items[i];
    }
    if (items.size() > kShown) text += ", ...";
    return text;
}

// Small tensors lie all over a file. Read one after the other, each would wait for the disk, and for what the
// system reads around it.
WeightFile opened(const std::filesystem::path& path, const OriginalNames& original = {}) {
    constexpr std::size_t kSmall = std::size_t{1} << 16;
    WeightFile file = WeightFile::open(path, original);
    for (const std::string& name : file.names())
        if (file.stored_bytes(name) <= kSmall) file.prefetch(name);
    return file;
}

}  // namespace

Checkpoint Checkpoint::open(std::string family, const std::filesystem::path& folder,
                            const LoadOptions& options) {
    if (!options.weights.empty()) {
        const std::filesystem::path config = folder / "config.json";
        const std::string name =
            path_exists(config) ? class_named(JsonNode::read(config, "transformer")) : "";
        return {std::move(family), opened(options.weights, original_names_of(name)), options};
    }
    for (const std::string name : {kWeightFile, kTextWeightFile}) {
        for (const auto& path : {folder / name, folder / (name + kIndexEnding)})
            if (path_exists(path)) return {std::move(family), opened(path), options};
    }
    throw IoError(fmt::format("[{0}] {1} has neither {2} nor {2}{3}", family, folder.string(), kWeightFile,
                              kIndexEnding));
}

bool Checkpoint::has(const std::string& name, const Shape& shape) {
    if (!file_.contains(name)) {
        missing_.push_back(name);
        return false;
    }
    taken_.insert(name);
    const TensorInfo& info = file_.info(name);
    if (!file_.fits(name, shape) || !is_float(info.dtype)) {
        misfits_.push_back(fmt::format("{} must be a float{}, got {}{}", name, to_string(shape),
                                       to_string(info.dtype), to_string(info.shape)));
        return false;
    }
    bytes_taken_ += shape.size() == 1 ? info.bytes() : file_.stored_bytes(name);  // vectors are copied
    return true;
}

Tensor Checkpoint::take(const std::string& name, const Shape& shape) {
    if (!has(name, shape)) return {};
    const Tensor tensor = file_.tensor(name).reshaped(shape);
    if (shape.size() == 1) check_finite(name, tensor);
    return tensor;
}

void Checkpoint::check_finite(const std::string& name, const Tensor& tensor) {
    std::string problem = finite_problem(name, tensor);
    if (!problem.empty()) not_finite_.push_back(std::move(problem));
}

Tensor Checkpoint::take_f32(const std::string& name, const Shape& shape) {
    const Tensor tensor = take(name, shape);
    if (tensor.defined() && shape.size() != 1) check_finite(name, tensor);
    return tensor.defined() ? tensor.to(DType::f32).to(device_) : Tensor();
}

Tensor Checkpoint::take_optional_f32(const std::string& name, const Shape& shape) {
    return file_.contains(name) ? take_f32(name, shape) : Tensor();
}

std::unique_ptr<Linear> Checkpoint::stored_quantized(const std::string& name) {
    auto weights = as_stored_ ? layer_as_stored(file_, name) : std::nullopt;
    if (!weights) return nullptr;
    auto layer = std::make_unique<QuantizedLinear>(std::move(*weights), device_, KeptArrays::packed_weight);
    file_.release(name + ".weight");
    return layer;
}

LinearSlot Checkpoint::linear(const std::string& name, std::int64_t in_features, std::int64_t out_features,
                              bool has_bias) {
    return float_or_stored(name, {out_features, in_features}, has_bias);
}

LinearSlot Checkpoint::patches(const std::string& name, const Shape& shape, bool has_bias) {
    return float_or_stored(name, shape, has_bias);
}

LinearSlot Checkpoint::float_or_stored(const std::string& name, const Shape& kernel, bool has_bias) {
    const std::string weight = name + ".weight";
    const Shape shape = {kernel[0], element_count({kernel.begin() + 1, kernel.end()})};
    const bool there = has(weight, kernel);
    const Tensor bias = has_bias ? take(name + ".bias", {shape[0]}) : Tensor();
    if (!there) return {name, nullptr};
    if (auto layer = kernel.size() == 2 && bias.defined() == has_bias ? stored_quantized(name) : nullptr)
        return {name, std::move(layer)};
    StoredWeight stored = {
        .dtype = file_.info(weight).dtype,
        .shape = shape,
        .stored_bytes = file_.stored_bytes(weight),
        .read = [file = file_, weight, shape] { return file.tensor(weight).reshaped(shape); },
        .prefetch = [file = file_, weight] { file.prefetch(weight); },
        .release = [file = file_, weight] { file.release(weight); },
        .check = [file = file_] { file.check_intact(); }};
    return {name, std::make_unique<FloatLinear>(std::move(stored), bias, device_)};
}

void Checkpoint::check_layers(std::int64_t layers, const std::string& said) const {
    if (static_cast<std::size_t>(layers) <= file_.names().size()) return;
    throw InvalidArgument(fmt::format("[{}] config.json has {}, but the weight files hold only {}", family_,
                                      said, counted(file_.names().size(), "tensor")));
}

void Checkpoint::finish() const {
    if (!not_finite_.empty()) {
        throw InvalidArgument(fmt::format(
            "[{}] {}: {}{}", family_, file_.path().string(), not_finite_.front(),
            not_finite_.size() == 1 ? "" : fmt::format("; nor are {} others", not_finite_.size() - 1)));
    }
    std::vector<std::string> unexpected;
    for (const std::string& name : file_.names()) {
        const bool ignored = is_ignorable(name) ||
                             std::any_of(ignored_.begin(), ignored_.end(),
                                         [&](const std::string& start) { return name.starts_with(start); });
        if (!taken_.contains(name) && !ignored) unexpected.push_back(name);
    }
    if (missing_.empty() && misfits_.empty() && unexpected.empty()) return;
    throw InvalidArgument(fmt::format("[{}] {} does not fit its config.json{}{}{}", family_,
                                      file_.path().string(), list_first("missing tensors", missing_),
                                      list_first("tensors of the wrong shape or type", misfits_),
                                      list_first("unexpected tensors", unexpected)));
}

std::size_t Checkpoint::finish(std::span<LinearSlot* const> slots) const {
    finish();
    file_.check_intact();
    std::size_t bytes = bytes_taken_;
    for (const LinearSlot* slot : slots) bytes -= slot->layer->weight_bytes();
    return bytes;
}

}  // namespace aerogel
