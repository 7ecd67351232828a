// The files beside a tokenizer.json, or instead of it: vocab.json with merges.txt, and tokenizer_config.json.
#include <fmt/format.h>

#include <array>
#include <charconv>

#include "aerogel/error.h"
#include "core/input_file.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/text/parts.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

// The pattern of Qwen 2 to 3, which their vocab.json does not hold.
constexpr const char* kQwenPattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

std::string_view next_line(std::string_view& text) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    return line;
}

void read_merges(const std::filesystem::path& path, const Vocabulary& vocabulary, Bpe& bpe) {
    const std::string text = read_text_file(path, "tokenizer", kJsonSizeLimit);
    std::string_view rest = text;
    for (std::size_t number = 1; !rest.empty(); ++number) {
        const std::string_view line = next_line(rest);
        if (line.empty() || line.starts_with("#version")) continue;
        const auto fail = [&](const std::string& wanted) {
            throw InvalidArgument(fmt::format("[tokenizer] {}: line {} must be {}, got {}", path.string(),
                                              number, wanted, in_quotes(replace_invalid_utf8(line))));
        };
        const std::size_t space = line.find(' ');
        if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
            fail("two tokens with a space between them");
        }
        add_merge(line.substr(0, space), line.substr(space + 1), vocabulary, bpe, fail);
    }
}

// The content of a token, which is a string or an object; null when there is none.
std::optional<std::string> token_content(const JsonNode& node) {
    if (node.is_null()) return std::nullopt;
    return node.is_object() ? node.at("content").text() : node.text();
}

bool read_side(const JsonNode& file, std::string_view key, bool otherwise) {
    constexpr std::array<std::string_view, 2> kSides = {"left", "right"};
    return file.has(key) ? file.at(key).word(kSides) == "left" : otherwise;
}

// Only Qwen's classes say how their vocab.json is used; no class at all is taken for theirs.
bool wants_prefix_space(const std::filesystem::path& config) {
    if (!path_exists(config)) return false;
    const JsonNode file = JsonNode::read(config, "tokenizer");
    if (file.has("tokenizer_class")) {
        constexpr std::array<std::string_view, 2> kClasses = {"Qwen2Tokenizer", "Qwen2TokenizerFast"};
        try {
            file.at("tokenizer_class").word(kClasses);
        } catch (const InvalidArgument& error) {
            throw Unsupported(std::string(error.what()) + " (without a tokenizer.json)");
        }
    }
    return file.has("add_prefix_space") && file.at("add_prefix_space").flag();
}

}  // namespace

void read_vocabulary_and_merges(const std::filesystem::path& folder, Tokenizer::Parts& parts) {
    const bool prefix_space = wants_prefix_space(folder / "tokenizer_config.json");
    const std::filesystem::path vocabulary = folder / "vocab.json";
    read_bpe_vocabulary(JsonNode::read(vocabulary, "tokenizer"), parts.vocabulary);
    read_merges(folder / "merges.txt", parts.vocabulary, parts.model.emplace<Bpe>());
    const std::string where = "[tokenizer] " + vocabulary.string();
    parts.normalizers.emplace_back(Nfc{});
    parts.pre_tokenizers.emplace_back(Split{Pattern(kQwenPattern, where)});
    parts.pre_tokenizers.emplace_back(ByteLevel{prefix_space, std::nullopt});
    parts.decoder.kind = Decoder::Kind::byte_level;
}

void read_tokenizer_config(const JsonNode& file, Tokenizer::Parts& parts) {
    const JsonNode added = file.at("added_tokens_decoder");
    if (!added.is_null()) {
        if (!added.is_object()) added.fail("an object of ids and tokens");
        for (const auto& [key, unused] : added.json().items()) {
            const JsonNode node = added.at(key);
            AddedToken token = read_added_token(node);
            std::int64_t id = -1;
            const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
            if (error != std::errc() || end != key.data() + key.size() || id < 0 || id > kLargestId) {
                node.fail("under an id from 0 to " + std::to_string(kLargestId));
            }
            token.id = static_cast<std::int32_t>(id);
            add_token(std::move(token), node, parts);
        }
    }
    if (const auto pad = token_content(file.at("pad_token"))) {
        parts.pad = parts.id_of(*pad);
        if (!parts.pad) file.at("pad_token").fail("a token of the vocabulary");
    }
    parts.pad_left = read_side(file, "padding_side", parts.pad_left);
    parts.cut_left = read_side(file, "truncation_side", parts.cut_left);
}

}  // namespace aerogel
