// The header of a safetensors file: parsing with every check that a hostile file needs, and writing.
// Layout: 8 bytes little-endian length, that many bytes of JSON, then the data without holes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "aerogel/safetensors.h"

namespace aerogel {

/// A tensor and its bytes, counted from the beginning of the data.
struct SafetensorsEntry {
    TensorInfo info;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
};

struct SafetensorsHeader {
    std::vector<SafetensorsEntry> entries;  // in the order of the header
    std::map<std::string, std::string> metadata;
    std::uint64_t data_begin = 0;  // in the file
};

/// Largest header accepted, as in the reference implementation.
inline constexpr std::uint64_t kSafetensorsHeaderLimit = 100'000'000;

/// Parses and checks the header of the file whose bytes are `file`. `name` is for the errors.
/// InvalidArgument (file, what, expected, got) on anything that is not a well-formed safetensors file.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name);

/// "F32", "F8_E4M3" ...: the name of a dtype in the file.
std::string_view safetensors_name(DType dtype);

/// Where each tensor goes, in the announced order; `where` begins the errors. InvalidArgument on a name that
/// is reserved or announced twice and on sizes that overflow.
std::vector<SafetensorsEntry> place_safetensors(const std::vector<TensorInfo>& tensors,
                                                const std::string& where);

/// Length and JSON of a header, padded with spaces to a multiple of 8. Entries as given.
std::string encode_safetensors_header(const std::vector<SafetensorsEntry>& entries,
                                      const std::map<std::string, std::string>& metadata);

/// Bytes of all the data.
std::uint64_t data_size(const std::vector<SafetensorsEntry>& entries);

}  // namespace aerogel
