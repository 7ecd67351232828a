// The description parser without the file, for tests that feed it bytes.
#pragma once

#include <string>
#include <string_view>

#include "aerogel/description.h"

namespace aerogel {

/// As QuantDescription::read; `where` ("[description] FILE") begins every error.
QuantDescription parse_description(std::string_view text, const std::string& where);

}  // namespace aerogel
