// The first line as a pattern over the other lines: no crash and no long wait; a star around it matches more.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "aerogel/error.h"
#include "quant/name_pattern.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    std::string_view text(reinterpret_cast<const char*>(data), size);
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return 0;
    try {
        const std::string first(text.substr(0, end));
        const NamePattern pattern(first), wider("*" + first);
        for (text.remove_prefix(end + 1); !text.empty();) {
            const std::string name(text.substr(0, text.find('\n')));
            const bool matched = pattern.matches(name);
            if (matched && !wider.matches(name)) std::abort();
            if (matched && !wider.matches("front." + name)) std::abort();
            text.remove_prefix(std::min(text.size(), name.size() + 1));
        }
    } catch (const InvalidArgument&) {
        return 0;
    }
    return 0;
}
