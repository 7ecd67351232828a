// The regular expressions of tokenizer files in PCRE2's words.
#pragma once

#include <string>
#include <string_view>

namespace aerogel {

/// What Oniguruma (with Ruby's syntax, as Hugging Face's tokenizers use it) and PCRE2 both know and match
/// alike; the characters behind \s, \p{L} and \p{N} are written out, since they belong to a version of
/// Unicode. Unsupported for all the rest. `where` begins the error.
std::string translated_pattern(std::string_view expression, const std::string& where);

}  // namespace aerogel
