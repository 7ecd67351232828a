// The JSON walk behind parse_safetensors: collects entries, checks their form but not their place.
#pragma once

#include <string>
#include <string_view>

#include "core/safetensors_header.h"

namespace aerogel {

/// Parses the JSON of a header into entries and metadata. `where` ("[safetensors] FILE") begins every error.
/// InvalidArgument on anything but an object of tensors and one "__metadata__" of strings.
void parse_safetensors_json(std::string_view json, const std::string& where, SafetensorsHeader& header);

/// The dtype with that name in a file. InvalidArgument listing the known ones.
DType safetensors_dtype(std::string_view name, const std::string& where);

}  // namespace aerogel
