// Values of a diffusers config.json. A missing key and null leave the default; a value of the wrong type or
// range is an InvalidArgument that names the key (JsonNode).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "core/json.h"

namespace aerogel {

/// Large enough for any real model, small enough that products of three sizes cannot overflow.
inline constexpr std::int64_t kLargestSize = 1 << 20;
inline constexpr Bounds kSizes = {1, kLargestSize};

void read_size(const JsonNode& json, const char* key, std::int64_t& value);
/// Null means that there is none.
void read_optional_size(const JsonNode& json, const char* key, std::optional<std::int64_t>& value);
void read_flag(const JsonNode& json, const char* key, bool& value);
/// As many sizes as `value` has.
void read_sizes(const JsonNode& json, const char* key, std::vector<std::int64_t>& value);
/// Between 0 and 1, without them.
void read_eps(const JsonNode& json, const char* key, float& value);

}  // namespace aerogel
