// Two transformers that share a sampling run: transformer/ takes the noisy steps, transformer_2/ the others
// (Wan 2.2 A14B: a mixture of two experts by noise level).
#pragma once

#include <filesystem>
#include <optional>

#include "aerogel/transformer.h"
#include "model/component_list.h"

namespace aerogel {

struct Experts {
    /// Share of the noise levels from which the first one works; nullopt: there is one transformer.
    std::optional<double> boundary_ratio;

    /// `boundary_ratio` of a pipeline folder's model_index.json. InvalidArgument when it is there but
    /// transformer_2 is not, and for other values than numbers between 0 and 1.
    static Experts read(const ComponentList& components);
    /// InvalidArgument when the configs of both do not take and give the same.
    static void check_alike(const TransformerConfig& first, const TransformerConfig& second,
                            const std::filesystem::path& folder);
    /// The folder of an expert, 0 or 1.
    static const char* folder_of(int expert) { return expert == 0 ? "transformer" : "transformer_2"; }
    /// Whose turn it is at a timestep (noise level * 1000).
    int at(double timestep) const { return boundary_ratio && timestep < *boundary_ratio * 1000.0 ? 1 : 0; }
};

}  // namespace aerogel
