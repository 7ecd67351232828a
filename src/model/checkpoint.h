// The tensors of a model folder, handed out by name and shape. Problems are gathered, so that one error
// lists several of them instead of the first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aerogel/layered_model.h"
#include "aerogel/load_options.h"
#include "aerogel/tensor.h"
#include "quant/weight_file.h"

namespace aerogel {

class Checkpoint {
  public:
    /// Opens diffusion_pytorch_model.safetensors of `folder`, or model.safetensors as transformers names it,
    /// or the shards of their index.json; where `options` name other weights, those. `family` begins the
    /// messages. Float32 copies lie on the device of `options`.
    static Checkpoint open(std::string family, const std::filesystem::path& folder,
                           const LoadOptions& options = {});

    /// The float tensor `name` as stored (mapped); undefined, and a problem noted, when it is missing or has
    /// another shape or type. Vectors, and all that take_f32() gives, must be finite; matrices are looked at
    /// when results are not.
    Tensor take(const std::string& name, const Shape& shape);
    /// The same, as a float32 copy of its own on the device.
    Tensor take_f32(const std::string& name, const Shape& shape);
    /// Like take_f32, but a missing tensor is no problem.
    Tensor take_optional_f32(const std::string& name, const Shape& shape);
    /// The layer with `name`.weight [out_features, in_features] and `name`.bias (unless it has none), which
    /// is read when it is first used; a quantized one where the file stores such blocks and `options` do not
    /// quantize. Without layer, and problems noted, as take().
    LinearSlot linear(const std::string& name, std::int64_t in_features, std::int64_t out_features,
                      bool has_bias = true);
    /// The same of a convolution that moves by its whole kernel: `shape` [out_features, ...], one row per
    /// output.
    LinearSlot patches(const std::string& name, const Shape& shape, bool has_bias = true);
    /// Tensors whose names begin so may be there, and nobody takes them.
    void ignore(std::string_view start) { ignored_.emplace_back(start); }
    Device device() const { return device_; }
    /// InvalidArgument when the files hold fewer tensors than config.json has layers, before work and memory
    /// are spent on so many. `said` is how it says so: "num_layers = 30".
    void check_layers(std::int64_t layers, const std::string& said) const;
    /// To be kept for check_intact(): float weights are views of it.
    const WeightFile& file() const { return file_; }
    /// Bytes of all tensors taken, as stored.
    std::size_t bytes_taken() const { return bytes_taken_; }

    /// InvalidArgument listing the first few problems and tensors that nobody took, if there are any.
    void finish() const;
    /// finish(), and an IoError when the file has been shortened since it was opened; the stored bytes of all
    /// that was taken and is in none of these slots.
    std::size_t finish(std::span<LinearSlot* const> slots) const;

  private:
    bool has(const std::string& name, const Shape& shape);
    LinearSlot float_or_stored(const std::string& name, const Shape& shape, bool has_bias);
    std::unique_ptr<Linear> stored_quantized(const std::string& name);
    void check_finite(const std::string& name, const Tensor& tensor);
    Checkpoint(std::string family, WeightFile file, const LoadOptions& options)
        : family_(std::move(family)),
          file_(std::move(file)),
          device_(options.device),
          as_stored_(!options.online && options.quantized.empty() && options.loras.empty()) {}

    std::string family_;
    WeightFile file_;
    Device device_;
    bool as_stored_;  ///< quantized blocks run as they are
    std::set<std::string> taken_;
    std::vector<std::string> ignored_;
    std::vector<std::string> missing_;
    std::vector<std::string> misfits_;
    std::vector<std::string> not_finite_;
    std::size_t bytes_taken_ = 0;
};

}  // namespace aerogel
