// Environment variables the library listens to. A wrong value is an error that lists the right ones.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

/// The value of `name`, or nothing when unset or empty.
std::optional<std::string> environment(const char* name);

/// The value of `name` if it is one of `choices`, or nothing when unset.
/// Throws InvalidArgument listing the choices otherwise.
std::optional<std::string> environment_choice(const char* name, const std::vector<std::string_view>& choices);

/// A whole number >= 1, or nothing when unset. Throws InvalidArgument otherwise.
std::optional<int> environment_count(const char* name);

}  // namespace aerogel
