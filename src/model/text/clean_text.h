// What pipelines of diffusers do to a prompt before it is tokenized.
#pragma once

#include <string>
#include <string_view>

namespace aerogel {

/// Character references of HTML replaced, as Python's html.unescape. `text` is UTF-8; so is the result.
std::string unescape_html(std::string_view text);

/// Each run of white space becomes one space, none at the ends. What Python calls white space.
std::string collapse_white_space(std::string_view text);

/// diffusers' prompt_clean (without ftfy): references replaced twice, white space collapsed.
std::string clean_prompt(std::string_view text);

}  // namespace aerogel
