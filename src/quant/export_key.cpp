// Everything is appended to one text, whose hash is the key.
#include "quant/export_key.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <span>
#include <system_error>

#include "aerogel/version.h"
#include "core/hash.h"
#include "quant/attention_types.h"

namespace aerogel {
namespace {

constexpr std::size_t kSample = 4096;

// Copies of other models may have the same sizes and times.
std::uint64_t sample_of(const Tensor& tensor) {
    const std::size_t size = std::min(kSample, tensor.bytes());
    const auto* middle = static_cast<const std::byte*>(tensor.data()) + (tensor.bytes() - size) / 2;
    return hash_bytes({middle, size});
}

std::string model_text(const SafetensorsFile& model) {
    std::string text;
    for (const auto& file : model.files()) {
        std::error_code error;  // a file that is gone counts as another
        const auto size = std::filesystem::file_size(file, error);
        const auto time = std::filesystem::last_write_time(file, error).time_since_epoch().count();
        text += fmt::format("file {} {}\n", size, time);
    }
    for (const auto& name : model.names()) {
        const TensorInfo& info = model.info(name);
        text += fmt::format("tensor {} {}{} {:x}\n", name, to_string(info.dtype), to_string(info.shape),
                            sample_of(model.tensor(name)));
        model.release(name);
    }
    return text;
}

std::string calibration_text(const CalibrationStats& stats, const std::string& layer) {
    std::string text = fmt::format("steps {}", stats.steps());
    for (const InputRange& range : stats.ranges_by_step(layer)) {
        text += fmt::format(" {:x} {:x}", std::bit_cast<std::uint32_t>(range.min),
                            std::bit_cast<std::uint32_t>(range.max));
    }
    return text + "\n";
}

std::string tensor_text(const Tensor& tensor) {
    return fmt::format("{:x}\n", hash_bytes({static_cast<const std::byte*>(tensor.data()), tensor.bytes()}));
}

}  // namespace

std::string export_key(const SafetensorsFile& model, const LayerPlan& plan, PairLayout layout,
                       const ExportOptions& options) {
    std::string text = fmt::format("{} v{}\n", kVersion, layout == PairLayout::v0 ? 0 : 1);
    const CalibrationStats* calibration = options.calibration;
    for (const auto& [name, how] : plan) {
        text += fmt::format("layer {} {} {} {} {} {} {} {} {}\n", name, how.scheme->name, how.algorithm,
                            how.smoothing, how.weight.group_size, how.weight.symmetric, how.packed,
                            how.rotation_block, how.low_rank);
        if (how.scheme->needs_calibration) text += calibration_text(*calibration, name);
        if (needs_inputs(*how.scheme, how)) text += tensor_text(calibration->inputs(name).rows);
    }
    for (const auto& [name, attention] : options.attentions) {
        text += fmt::format("attention {} {}\n", name, attention.quant_type);
        for (const auto& [tensor, value] : attention_tensors(attention)) text += tensor_text(value);
    }
    return fmt::format("{:016x}", hash_text(text + model_text(model)));
}

}  // namespace aerogel
