// What `aerogel generate` tells about its work.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/pipeline.h"
#include "cli/timings_report.h"

namespace aerogel::cli {

/// Of one call, which may have made several videos of one caption.
struct GenerateReport {
    std::string model;
    LoadOptions load, load_2, load_text;  ///< of the transformer, the second expert and the text encoder
    std::string prompt_embeds;            ///< the file, or empty
    std::string first_frame;              ///< the file, or empty
    std::optional<QuantizeReport> text_encoder;
    GenerateOptions options;  ///< with all defaults filled in
    std::vector<GenerateResult> results;
    std::vector<QuantizeReport> quantized;  ///< of each transformer that was
    std::int64_t peak_memory_bytes = 0;
    std::vector<std::string> outputs;
    std::optional<TimingsReport> timings;
};

nlohmann::ordered_json to_json(const GenerateReport& report);
std::string to_text(const GenerateReport& report);

/// How video `index` was made, for people, in the words that tools look for in the text "parameters" of a PNG
/// file: the prompt, a line of the negative prompt, then "Steps: 9, Sampler: euler, ...".
std::string parameters_text(const GenerateReport& report, int index);

}  // namespace aerogel::cli
