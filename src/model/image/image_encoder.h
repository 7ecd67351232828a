// What an image-to-video model is told of pictures by CLIP: the folders image_encoder/ and image_processor/
// of a pipeline.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>

#include "model/image/clip_vision.h"
#include "model/image/image_input.h"
#include "model/pipeline_folder.h"

namespace aerogel {

class ImageEncoder {
  public:
    /// Errors as ClipVision and ClipImageInput; InvalidArgument when pictures are prepared in another size
    /// than the model sees.
    explicit ImageEncoder(const std::filesystem::path& pipeline, const LoadOptions& options = {});

    /// InvalidArgument when a transformer cannot take what look() gives.
    void check_fits(const SeenPictures& wanted) const;
    /// As LayeredModel::move_weights().
    void move_weights(WeightPlace place) { vision_.move_weights(place); }
    /// TransformerInput::encoder_hidden_states_image: f32 [pictures, tokens, dim] on the model's device.
    Tensor look(std::span<const Picture> pictures) const {
        return vision_.hidden_states(input_.pixels(pictures));
    }

  private:
    std::filesystem::path folder_;
    ClipVision vision_;
    ClipImageInput input_;
};

}  // namespace aerogel
