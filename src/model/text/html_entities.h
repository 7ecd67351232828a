// The names of HTML's character references.
#pragma once

#include <string_view>

namespace aerogel {

/// "NAME=HEX " for each, or "NAME=HEX+HEX " for two characters; "NAME*HEX " where the semicolon may be
/// missing.
extern const std::string_view kHtmlEntities;

}  // namespace aerogel
