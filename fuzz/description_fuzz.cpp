// Any bytes as a quantization description: either an InvalidArgument, or a description whose weight file
// lies in the same folder.
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "aerogel/description.h"
#include "aerogel/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const std::string_view text(reinterpret_cast<const char*>(data), size);
        const QuantDescription description = QuantDescription::parse(text, "[description] fuzz");
        const std::filesystem::path weights = weight_path_of("folder/description_3.json", description);
        if (weights.parent_path() != "folder" || description.model_quant_type.empty()) std::abort();
        for (const auto& [name, type] : description.entries) {
            if (description.type_of(name).size() != type.size()) std::abort();
        }
    } catch (const InvalidArgument&) {
        return 0;
    }
    return 0;
}
