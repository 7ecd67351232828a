// The image encoder of CLIP (Radford et al., arXiv 2103.00020), as far as image-to-video models look: the
// hidden states before the last block of transformers' CLIPVisionModel.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

#include "aerogel/load_options.h"
#include "aerogel/tensor.h"
#include "aerogel/transformer.h"

namespace aerogel {

class ClipVision {
  public:
    /// The folder image_encoder/ with config.json and model.safetensors (or its index.json and shards).
    /// IoError; InvalidArgument for wrong values and missing or misshapen tensors.
    explicit ClipVision(const std::filesystem::path& folder, const LoadOptions& options = {});
    ~ClipVision();
    ClipVision(const ClipVision&) = delete;
    ClipVision& operator=(const ClipVision&) = delete;

    /// Pixels per side.
    std::int64_t image_size() const;
    /// Sizes of the hidden states of an image.
    std::int64_t tokens() const;
    std::int64_t dim() const;
    /// pixels f32 [images, 3, image_size, image_size] (ClipImageInput) -> f32 [images, 1 + patches, dim] on
    /// the model's device: `hidden_states[-2]`. InvalidArgument for other shapes and when the result is not
    /// finite.
    Tensor hidden_states(const Tensor& pixels, const StepContext& step = {}) const;
    /// As LayeredModel::move_weights().
    void move_weights(WeightPlace place);
    /// Bytes of the weights that are used, as stored on disk.
    std::size_t weight_bytes() const;

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace aerogel
