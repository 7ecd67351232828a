// What tokenizers ask of Unicode: characters of UTF-8 text, white space, user-perceived characters, and the
// composed normal form NFC as Hugging Face's tokenizers compute it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace aerogel {

/// A character range, first and last.
struct CodeRange {
    char32_t first;
    char32_t last;
};

/// Bytes of valid UTF-8 at the front of a text.
std::size_t valid_utf8(std::string_view text);
/// The character at `at`, which is moved behind it. `text` is valid UTF-8.
char32_t next_character(std::string_view text, std::size_t& at);
void append_character(char32_t code, std::string& text);
/// Each longest invalid part as one U+FFFD.
std::string replace_invalid_utf8(std::string_view bytes);
/// Unicode's White_Space, which is \s of a pattern.
bool is_white_space(char32_t code);
/// The end of the extended grapheme cluster (UAX #29) that begins at `at`.
std::size_t grapheme_end(std::string_view text, std::size_t at);

/// Canonical composition (UAX #15) of Unicode 9: characters that came later stay as they are, since Hugging
/// Face's tokenizers do not know them either.
std::string to_nfc(std::string_view text);

/// \p{L} and \p{N} that came with Unicode 15 to 17, which an older PCRE2 does not know.
std::span<const CodeRange> new_letters();
std::span<const CodeRange> new_numbers();

}  // namespace aerogel
