// Files of weights under the names of a model's own code, and the float weights of any model on disk.
#pragma once

#include <filesystem>
#include <string_view>

#include "model/families.h"
#include "quant/weight_file.h"

namespace aerogel {

/// How its own code names the tensors of this class of diffusers: a native family or one that only Python
/// runs; no names for others.
OriginalNames original_names_of(std::string_view class_name);

struct ModelWeights {
    WeightFile file;  ///< under the names of diffusers
    DefaultPatterns defaults =
        {};  ///< of the family, where the folder's config.json or a GGUF file's names tell it
};

/// The float weights of a model: what weights_of_model() finds, or a .gguf file. A GGUF file may have the
/// names of the own code of any class above; it is recognized by them. IoError; InvalidArgument, also for
/// a checkpoint that another program has quantized.
ModelWeights open_model_weights(const char* op, const std::filesystem::path& model, int rank = -1);

}  // namespace aerogel
