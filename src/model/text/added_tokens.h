// Tokens that are taken out of a text as a whole before anything else cuts it: <|im_start|>, </s>,
// <extra_id_0>. Some are looked for in the text as it is, others in its normal form.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/text/prefix_table.h"

namespace aerogel {

struct AddedToken {
    std::string content;
    std::int32_t id = 0;
    bool single_word = false;  ///< only where no letter touches it
    bool lstrip = false;       ///< takes the white space before it
    bool rstrip = false;       ///< and behind it
    bool normalized = true;    ///< looked for in the normal form, by its own normal form
    bool special = false;      ///< left out by decode
};

/// A token, or a piece of text without one.
struct TextPiece {
    std::string text;
    std::optional<std::int32_t> id = std::nullopt;
};

/// Where tokens of one kind are in a text.
class AddedTokenFinder {
  public:
    AddedTokenFinder() = default;
    /// Each token with the text it is looked for by; no text twice.
    explicit AddedTokenFinder(const std::vector<std::pair<std::string, AddedToken>>& tokens);
    /// The text cut at the tokens: leftmost, then longest.
    std::vector<TextPiece> split(std::string_view text) const;

  private:
    std::vector<AddedToken> tokens_;
    PrefixTable table_;  // numbers of tokens_
};

}  // namespace aerogel
