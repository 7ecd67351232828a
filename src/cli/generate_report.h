// What one `aerogel generate` did, for people and as JSON.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/pipeline.h"
#include "aerogel/quantize.h"

namespace aerogel::cli {

struct GenerateReport {
    std::string model;
    std::string description;  ///< of the quantized files, or empty
    std::string online;       ///< the scheme quantized to in memory, or empty
    GenerateOptions options;  ///< with all defaults filled in
    GenerateResult result;
    std::optional<QuantizeReport> quantized;
    std::size_t float_bytes = 0;   ///< transformer weights as stored before quantizing
    std::size_t weight_bytes = 0;  ///< and as they ran
    std::int64_t peak_memory_bytes = 0;
    std::vector<std::string> outputs;
};

nlohmann::ordered_json to_json(const GenerateReport& report);
std::string to_text(const GenerateReport& report);

}  // namespace aerogel::cli
