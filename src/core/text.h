// Text for error messages: hostile names made printable, the nearest of several names, sizes for people; and
// letters in one case.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

/// A character of UTF-8 text; no bytes where there is none.
struct Character {
    std::uint32_t code = 0;
    std::size_t bytes = 0;
};
/// Letters of ASCII in one case; the locale changes nothing.
std::string lower_case(std::string_view text);
std::string upper_case(std::string_view text);
/// The character at the front of `text`, which is not empty.
Character first_character(std::string_view text);
/// At most 120 bytes of `text`; what is neither ASCII nor UTF-8-like or is a control character becomes '?'.
std::string printable(std::string_view text);
/// printable() between single quotes.
std::string in_quotes(std::string_view text);
/// The element of `names` with the smallest edit distance to `name`, or an empty string when none is near
/// (more than half of the name would have to change).
std::string nearest_name(std::string_view name, const std::vector<std::string>& names);
/// ", did you mean 'x'?" or an empty string.
std::string suggestion(std::string_view name, const std::vector<std::string>& names);
/// "1 layer", "2 layers".
std::string counted(std::int64_t count, std::string_view what);
/// "11.3 MB" (decimal units).
std::string show_bytes(double bytes);

}  // namespace aerogel
