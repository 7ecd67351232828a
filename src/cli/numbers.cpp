// Strict parsing: the whole text must be a number.
#include "cli/numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <limits>
#include <string>

namespace aerogel::cli {
namespace {

template <typename T>
bool parse(const std::string& text, T& value) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    return error == std::errc{} && end == text.data() + text.size();
}

// Help shows `range`, errors what was expected and got.
template <typename T>
CLI::Validator in_range(const char* kind, T least, T most) {
    const std::string range = fmt::format("from {} to {}", least, most);
    return {[=](std::string& text) {
                T value{};
                if (parse(text, value) && value >= least && value <= most) return std::string();
                return fmt::format("must be {} {}, got '{}'", kind, range, text);
            },
            range};
}

}  // namespace

CLI::Validator whole_number(std::int64_t least, std::int64_t most) {
    return in_range("a whole number", least, most);
}

CLI::Validator real_number(double least, double most) {
    return in_range("a number", least, most);
}

CLI::Validator any_real_number() {
    return {[](std::string& text) {
                double value = 0.0;
                if (parse(text, value) && std::isfinite(value)) return std::string();
                return fmt::format("must be a finite number, got '{}'", text);
            },
            ""};
}

CLI::Validator seed_number() {
    return in_range<std::uint64_t>("a whole number", 0, std::numeric_limits<std::uint64_t>::max());
}

}  // namespace aerogel::cli
