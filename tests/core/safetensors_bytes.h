// Handmade safetensors files: whatever header, followed by whatever data.
#pragma once

#include <cstdint>
#include <string>

namespace aerogel {

inline std::string safetensors_length(std::uint64_t length) {
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xFF);
    return bytes;
}

inline std::string safetensors_bytes(const std::string& header, const std::string& data = {}) {
    return safetensors_length(header.size()) + header + data;
}

/// `"NAME":{"dtype":"DTYPE","shape":SHAPE,"data_offsets":OFFSETS}`
inline std::string safetensors_item(const std::string& name, const std::string& dtype,
                                    const std::string& shape, const std::string& offsets) {
    return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}";
}

}  // namespace aerogel
