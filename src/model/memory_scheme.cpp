// Weight-only schemes: activations keep their precision.
#include "model/memory_scheme.h"

#include <cstdint>
#include <system_error>

#include "base/memory.h"
#include "core/paths.h"

namespace aerogel {

std::optional<OnlineQuantConfig> scheme_for_memory(const std::filesystem::path& folder) {
    if (!is_folder(folder)) return std::nullopt;
    std::uintmax_t bytes = 0;  // two for each weight, as files have them
    for (const auto& path : folder_entries(folder)) {
        std::error_code error;
        const std::uintmax_t size = std::filesystem::file_size(path, error);
        if (path.extension() == ".safetensors" && !error) bytes += size;
    }
    const std::uintmax_t half = usable_memory_bytes() / 2;
    if (bytes <= half) return std::nullopt;
    OnlineQuantConfig config;
    config.quant_type = bytes / 2 <= half ? "W8A16" : "W4A16";
    if (config.quant_type == "W4A16") config.group_size = 64;
    return config;
}

}  // namespace aerogel
