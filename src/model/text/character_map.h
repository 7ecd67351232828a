// The "precompiled charsmap" of SentencePiece: rules that replace characters, as a double-array trie with
// texts behind it. Bytes from anywhere: every step is checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

class CharacterMap {
  public:
    /// Bytes at the front of a text that rules are looked up for.
    static constexpr std::size_t kLongestRule = 256;

    struct Rule {
        std::size_t bytes;  ///< of the text it replaces
        std::string_view replacement;
    };

    /// No rules.
    CharacterMap() = default;
    /// `where` begins the error: InvalidArgument when sizes do not fit or the texts are not UTF-8 or
    /// too long.
    CharacterMap(std::string_view bytes, const std::string& where);

    /// The rule for the longest part at the front of `text`, as SentencePiece chooses it.
    std::optional<Rule> longest(std::string_view text) const;
    /// `text` as Hugging Face's tokenizers replace it: by grapheme clusters of less than six bytes, else by
    /// characters, of which the shortest rule takes all. It ends early when the result is longer than `most`
    /// bytes.
    std::string replace_clusters(std::string_view text, std::size_t most) const;

  private:
    template <typename Found>
    void for_each_rule(std::string_view text, Found found) const;
    std::optional<Rule> shortest(std::string_view text) const;

    std::vector<std::uint32_t> units_;
    std::string replacements_;
};

}  // namespace aerogel
