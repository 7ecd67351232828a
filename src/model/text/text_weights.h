// The weights of a text encoder, by the names they have below the prefix of their file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "aerogel/layered_model.h"
#include "model/checkpoint.h"

namespace aerogel {

class TextWeights {
  public:
    /// Opens model.safetensors, or its index.json and shards. The prefix is the first of `prefixes` with
    /// which `probe` is there; the last one where there is none. `family` begins the messages.
    TextWeights(const std::string& family, const std::filesystem::path& folder, const LoadOptions& options,
                std::string_view probe, std::initializer_list<std::string_view> prefixes);

    LinearSlot linear(const std::string& name, std::int64_t in_features, std::int64_t out_features,
                      bool bias);
    /// f32 [size] on the device.
    Tensor vector(const std::string& name, std::int64_t size);
    /// f32 [rows, columns] on the host.
    Tensor matrix(const std::string& name, std::int64_t rows, std::int64_t columns);
    /// [rows, columns] as stored.
    Tensor table(const std::string& name, std::int64_t rows, std::int64_t columns);
    bool contains(const std::string& name) const;
    /// Tensors that are there and not used: by the start of their names, the prefix included.
    void ignore(std::string_view start) { checkpoint_.ignore(start); }

    Device device() const { return checkpoint_.device(); }
    const WeightFile& file() const { return checkpoint_.file(); }
    /// InvalidArgument when the files hold fewer tensors than config.json has layers.
    void check_layers(std::string_view key, std::int64_t layers) const;
    /// Throws what problems there were; else the stored bytes of all that is in no slot.
    std::size_t finish(std::span<LinearSlot* const> slots) const;

  private:
    Checkpoint checkpoint_;
    std::string prefix_;
};

}  // namespace aerogel
