// Inputs of the transformer recorded elsewhere, one record per forward pass.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "aerogel/transformer.h"

namespace aerogel {

/// A safetensors file with "hidden_states" [records, channels, frames, height, width], "timestep" [records]
/// (or [records, tokens]), "encoder_hidden_states" [records, text_len, text_dim], for image models
/// "encoder_hidden_states_image" [records, image_len, image_dim], for models that are told it "guidance"
/// [records] (all f32, bf16 or f16), and maybe "step"
/// i32|i64 [records]. Without "step" the step of a record is the rank of its (largest) timestep among the
/// recorded ones, the largest first.
class RecordedInputFile {
  public:
    /// IoError; InvalidArgument naming file and tensor when one is missing or does not fit. `operation`
    /// begins the messages.
    RecordedInputFile(const std::filesystem::path& path, std::string operation);

    std::int64_t count() const { return count_; }
    const std::vector<int>& steps() const { return steps_; }
    /// One record, f32, the first axis of size 1 ([1] for a plain timestep).
    TransformerInput input(std::int64_t record) const;

  private:
    void check(const char* name, bool fits, const std::string& wanted) const;
    const TensorInfo& info(const char* name, std::size_t axes = 0) const;
    std::vector<int> given_steps() const;
    std::vector<int> ranks() const;
    Tensor row(const char* name, std::int64_t record) const;

    SafetensorsFile file_;
    std::string operation_;
    std::int64_t count_ = 0;
    bool image_ = false;
    std::vector<int> steps_;  // of each record
};

}  // namespace aerogel
