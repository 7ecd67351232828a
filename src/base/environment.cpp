// Reading and checking environment variables.
#include "base/environment.h"

#include <charconv>
#include <cstdlib>

#include "aerogel/error.h"

namespace aerogel {

std::optional<std::string> environment(const char* name) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') return std::nullopt;
    return std::string(value);
}

std::optional<std::string> environment_choice(const char* name,
                                              const std::vector<std::string_view>& choices) {
    auto value = environment(name);
    if (!value) return std::nullopt;
    std::string listed;
    for (const auto choice : choices) {
        if (*value == choice) return value;
        listed += (listed.empty() ? "" : ", ") + std::string(choice);
    }
    throw InvalidArgument(std::string("[environment] ") + name + " must be one of " + listed + ", got '" +
                          *value + "'");
}

std::optional<int> environment_count(const char* name) {
    const auto value = environment(name);
    if (!value) return std::nullopt;
    int count = 0;
    const char* end = value->data() + value->size();
    const auto [stop, error] = std::from_chars(value->data(), end, count);
    if (error != std::errc() || stop != end || count < 1) {
        throw InvalidArgument(std::string("[environment] ") + name + " must be a whole number >= 1, got '" +
                              *value + "'");
    }
    return count;
}

}  // namespace aerogel
