// From a prompt to what a transformer takes as encoder_hidden_states, as each pipeline of diffusers does it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include "aerogel/tensor.h"
#include "model/text/text_model.h"

namespace aerogel {

class PromptEncoder {
  public:
    /// The tokenizer and the text encoder of a pipeline folder, of the class that model_index.json names; or
    /// the learned tables of text_encoder/vocabulary.json. InvalidArgument for a class without a row (it
    /// lists those there are), a tokenizer or config.json that is missing or wrong, IoError.
    static std::unique_ptr<PromptEncoder> load(const std::filesystem::path& folder,
                                               const LoadOptions& options = {});
    PromptEncoder() = default;
    PromptEncoder(const PromptEncoder&) = delete;
    PromptEncoder& operator=(const PromptEncoder&) = delete;
    virtual ~PromptEncoder() = default;

    /// f32 [1, len, dim], on the device of the model. A prompt that is too long is cut as the pipeline cuts
    /// it. InvalidArgument when it is not UTF-8.
    virtual Tensor encode(const std::string& prompt) const = 0;
    /// Bytes of all weights as stored on disk.
    virtual std::size_t weight_bytes() const = 0;
    /// The model behind it, whose Linears can be quantized; null where there is none.
    virtual TextModel* model() = 0;
    /// Those of the model behind it, where there is one.
    void move_weights(WeightPlace place) {
        if (TextModel* const text = model()) text->move_weights(place);
    }
};

/// Whether its captions are words of a vocabulary.
bool has_captions(const std::filesystem::path& folder);
/// Whether the folder has what load() wants: a class with a row and a text encoder.
bool has_prompt_encoder(const std::filesystem::path& folder);

}  // namespace aerogel
