// The steps before a model cuts a text: normalizers change it, pre-tokenizers cut it into words. Each is what
// the tokenizer.json of Hugging Face calls by the same name.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "model/text/character_map.h"
#include "model/text/pattern.h"
#include "model/text/prefix_table.h"

namespace aerogel {

struct Nfc {};
struct Strip {
    bool left = true;
    bool right = true;
};
struct Replace {
    Pattern pattern;
    std::string content;
};
/// The rules of a spiece.model: characters, then white space.
struct SentencePieceNormalizer {
    CharacterMap map;
    bool add_dummy_prefix = true;
    bool remove_extra_whitespaces = true;
    bool escape_whitespaces = true;
    bool suffix = false;      ///< the dummy comes last
    PrefixTable untouched{};  ///< user-defined pieces
};
/// A CharacterMap as a step is Hugging Face's "Precompiled".
using Normalizer = std::variant<Nfc, Strip, Replace, CharacterMap, SentencePieceNormalizer>;

/// Cuts at matches, which are words of their own.
struct Split {
    Pattern pattern;
};
/// Bytes as printable characters (GPT-2).
struct ByteLevel {
    bool add_prefix_space = false;
    std::optional<Pattern> pattern;
};
/// Spaces as a visible character, with which each word begins.
struct Metaspace {
    enum class Prepend { always, first, never };  ///< first: only where the text begins
    std::string replacement;
    Prepend prepend = Prepend::always;
    bool split = true;
};
struct WhitespaceSplit {};
using PreTokenizer = std::variant<Split, ByteLevel, Metaspace, WhitespaceSplit>;

/// InvalidArgument when a step makes the text longer than `most` bytes.
std::string normalize(const std::vector<Normalizer>& steps, std::string text, std::size_t most);
/// The words of a piece of text; none is empty. `at_start`: the text begins with this piece. InvalidArgument
/// when a step makes them longer than `most` bytes together.
std::vector<std::string> pre_tokenize(const std::vector<PreTokenizer>& steps, const std::string& text,
                                      bool at_start, std::size_t most);

/// The character that stands for each byte in a byte-level vocabulary.
const std::array<std::string, 256>& byte_characters();
/// The bytes that a token of such a vocabulary stands for; its own when one of its characters stands for
/// none.
std::string bytes_of_token(std::string_view token);

}  // namespace aerogel
