// The text encoder of the demo model: captions of a small vocabulary to learned embeddings.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "aerogel/tensor.h"

namespace aerogel {

/// Maps a caption to embeddings with the learned tables of a pipeline folder's text_encoder/. A caption is
/// a list of objects separated by commas, each a few words; object i fills the slots from
/// i * slots_per_object on, all other slots hold the padding word. A slot's embedding is the row of its word
/// plus the row of the slot. "groups" in vocabulary.json, lists of slots, sums each of them up to one
/// embedding per object: [[0, 1], [0, 2, 3]].
class CaptionTable {
  public:
    /// Reads vocabulary.json and model.safetensors. IoError / InvalidArgument.
    static CaptionTable load(const std::filesystem::path& folder);
    /// f32 [1, max_length, text_dim], or with groups [1, max_objects * groups, text_dim]. InvalidArgument
    /// naming the known words on an unknown word, or the limit on too many objects or words. "" is the null
    /// caption.
    Tensor encode(const std::string& caption) const;
    /// Bytes of the tables, in float32.
    std::size_t weight_bytes() const { return word_embedding_.bytes() + position_embedding_.bytes(); }

  private:
    std::vector<std::string> words_;
    std::int64_t max_length_ = 0;
    std::int64_t slots_per_object_ = 0;
    std::size_t max_objects_ = 0;
    std::int64_t pad_ = 0;
    std::vector<std::vector<std::int64_t>> sums_;  // the slots of each embedding
    Tensor word_embedding_;
    Tensor position_embedding_;
};

}  // namespace aerogel
