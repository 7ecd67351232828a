// Whose tensors are whose in a LoRA file: the ways in which programs name them.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/safetensors.h"

namespace aerogel {

/// Names of the tensors of one layer; empty where there is none.
struct LoraModule {
    std::string down, up, alpha, bias;
    std::vector<std::string> keys() const;
};

/// What diffusers writes beside the tensors ("lora_adapter_metadata", PEFT's LoraConfig).
struct LoraMetadata {
    /// By the name of the layer or an end of it behind a dot; the first that fits counts, as in PEFT.
    std::vector<std::pair<std::string, double>> alphas;
    std::optional<double> alpha;  ///< of all others; nullopt: the factor is 1
    bool root_of_rank = false;    ///< rsLoRA (arXiv 2312.03732)

    /// For the Linear that the model calls so.
    double scale(const std::string& linear, std::int64_t rank) const;
};

struct LoraKeys {
    std::map<std::string, LoraModule> modules;  ///< by lookup_name() of the layer, without prefixes
    std::vector<std::string> unknown;           ///< keys of no known ending
    LoraMetadata metadata;
};

/// Looks at names and metadata only, but for changes of norms, which are left out where they are zeros (as
/// some programs write them) and unknown otherwise. InvalidArgument for metadata of the wrong form and a
/// tensor that is there twice under two names.
LoraKeys lora_keys(const SafetensorsFile& file);

}  // namespace aerogel
