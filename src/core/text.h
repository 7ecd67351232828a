// Text for error messages: hostile names made printable, the nearest of several names, sizes for people.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

/// At most 120 bytes of `text`; what is neither ASCII nor UTF-8-like or is a control character becomes '?'.
std::string printable(std::string_view text);
/// printable() between single quotes.
std::string in_quotes(std::string_view text);
/// The element of `names` with the smallest edit distance to `name`, or an empty string when none is near
/// (more than half of the name would have to change).
std::string nearest_name(std::string_view name, const std::vector<std::string>& names);
/// ", did you mean 'x'?" or an empty string.
std::string suggestion(std::string_view name, const std::vector<std::string>& names);
/// "11.3 MB" (decimal units).
std::string show_bytes(double bytes);

}  // namespace aerogel
