// What the files of a tokenizer come to, and their readers. Errors are InvalidArgument and Unsupported that
// name the file and the place.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "aerogel/tokenizer.h"
#include "base/function_ref.h"
#include "core/json.h"
#include "model/text/added_tokens.h"
#include "model/text/bpe.h"
#include "model/text/steps.h"
#include "model/text/unigram.h"
#include "model/text/vocabulary.h"

namespace aerogel {

/// How tokens become text again.
struct Decoder {
    enum class Kind { spaced, byte_level, metaspace };
    Kind kind = Kind::spaced;
    std::string replacement{};  ///< of a space; the first token loses its own when `prepend`
    bool prepend = true;
};

struct Tokenizer::Parts {
    Vocabulary vocabulary;  // of the model alone
    std::variant<Bpe, Unigram> model;
    std::vector<Normalizer> normalizers;
    std::vector<PreTokenizer> pre_tokenizers;
    Decoder decoder;
    std::map<std::string, AddedToken, std::less<>> added;
    std::map<std::int32_t, std::string> added_text;  // what decode writes for them
    AddedTokenFinder raw_finder;
    AddedTokenFinder normalized_finder;
    std::vector<std::int32_t> before;  // around a text
    std::vector<std::int32_t> after;
    std::optional<std::int32_t> pad;
    bool pad_left = false;
    bool cut_left = false;

    std::optional<std::int32_t> id_of(std::string_view token) const;
    /// The text of an id, or nullptr.
    const std::string* text_of(std::int32_t id) const;
};

/// All of a tokenizer.json.
void read_tokenizer_json(const JsonNode& file, Tokenizer::Parts& parts);
/// A vocab.json with a merges.txt, as Qwen's tokenizers use them.
void read_vocabulary_and_merges(const std::filesystem::path& folder, Tokenizer::Parts& parts);
/// All of a spiece.model (SentencePiece, unigram).
void read_sentencepiece(const std::filesystem::path& path, Tokenizer::Parts& parts);
/// Tokens and padding of a tokenizer_config.json, after one of the above.
void read_tokenizer_config(const JsonNode& file, Tokenizer::Parts& parts);

/// Tokens and ids of an object.
void read_bpe_vocabulary(const JsonNode& node, Vocabulary& vocabulary);
/// Joins two tokens of the vocabulary to a third one; `fail` is called with what was wanted when they do not,
/// and throws.
void add_merge(std::string_view left, std::string_view right, const Vocabulary& vocabulary, Bpe& bpe,
               FunctionRef<void(const std::string&)> fail);
/// The object {content, lstrip, ...} of an added token; its id apart.
AddedToken read_added_token(const JsonNode& node);
/// Adds a token or replaces the one of the same text; `place` is where its id comes from.
void add_token(AddedToken token, const JsonNode& place, Tokenizer::Parts& parts);
/// Prepares the search for added tokens, when all are there. `where` begins an error.
void finish_added_tokens(const std::string& where, Tokenizer::Parts& parts);

}  // namespace aerogel
