// tokenizer.json: the steps that Qwen's and T5's files have. Others are refused by name, so that no text gets
// ids that its model was not trained with.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "aerogel/error.h"
#include "core/json.h"
#include "core/text.h"
#include "model/text/parts.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

using Parts = Tokenizer::Parts;

constexpr Bounds kIds = {0, kLargestId};
constexpr std::size_t kMostSteps = 100;  // a sensible tokenizer has five
constexpr std::size_t kMostNormalBytes = 100'000'000;
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::int32_t read_id(const JsonNode& node) {
    return static_cast<std::int32_t>(node.whole(kIds));
}

void check_token(const JsonNode& text) {
    if (text.text().size() > kLongestToken) text.fail(fmt::format("at most {} bytes long", kLongestToken));
}

bool flag_or(const JsonNode& node, std::string_view key, bool otherwise) {
    return node.has(key) ? node.at(key).flag() : otherwise;
}

[[noreturn]] void refuse_type(const JsonNode& node, std::string_view known) {
    try {
        node.at("type").text();
        node.at("type").fail(known);
    } catch (const InvalidArgument& error) {
        throw Unsupported(error.what());
    }
}

// A place must say this, or nothing.
void require_absent(const JsonNode& node, std::string_view key) {
    const nlohmann::json& value = node.at(key).json();
    const bool no_text = value.is_string() && node.at(key).text().empty();
    if (value.is_null() || no_text || value == false || value == 0) return;
    try {
        node.at(key).fail("null (others are not supported)");
    } catch (const InvalidArgument& error) {
        throw Unsupported(error.what());
    }
}

// The steps of a "Sequence", those of sequences in it included; JSON has at most 64 levels.
template <typename Read>
void for_each_step(const JsonNode& node, std::string_view list, const Read& read) {
    if (node.is_null()) return;
    if (node.at("type").text() != "Sequence") return read(node);
    for (const JsonNode& step : node.at(list).items("a list of objects")) for_each_step(step, list, read);
}

std::string escape_pattern(std::string_view text) {
    std::string escaped;
    for (const char c : text) {
        if (std::string_view("\\.+*?()|[]{}^$#&-~").find(c) != std::string_view::npos) escaped += '\\';
        escaped += c;
    }
    return escaped;
}

// {"Regex": "..."} or {"String": "..."}
Pattern read_pattern(const JsonNode& node) {
    const bool expression = node.has("Regex");
    const JsonNode text = node.at(expression ? "Regex" : "String");
    return {expression ? text.text() : escape_pattern(text.text()), text.where()};
}

std::string decode_base64(const JsonNode& node) {
    constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    std::string_view text = node.text();
    const bool whole = text.size() % 4 == 0;
    for (int i = 0; i < 2 && whole && text.ends_with('='); ++i) text.remove_suffix(1);
    std::string bytes;
    unsigned bits = 0;
    unsigned count = 0;
    for (const char c : text) {
        const std::size_t digit = kDigits.find(c);
        if (digit == std::string_view::npos || !whole) node.fail("base64");
        bits = (bits << 6U | static_cast<unsigned>(digit)) & 0xFFFFU;
        count += 6;
        if (count < 8) continue;
        count -= 8;
        bytes += static_cast<char>(bits >> count & 0xFFU);
    }
    return bytes;
}

Normalizer read_normalizer(const JsonNode& node) {
    const std::string& type = node.at("type").text();
    if (type == "NFC") return Nfc{};
    if (type == "Strip") return Strip{flag_or(node, "strip_left", true), flag_or(node, "strip_right", true)};
    if (type == "Replace") return Replace{read_pattern(node.at("pattern")), node.at("content").text()};
    if (type == "Precompiled") {
        const JsonNode map = node.at("precompiled_charsmap");
        return CharacterMap(decode_base64(map), map.where());
    }
    refuse_type(node, "one of Sequence, NFC, Strip, Replace, Precompiled");
}

std::string read_replacement(const JsonNode& node) {
    const std::string& text = node.at("replacement").text();
    if (text.empty() || first_character(text).bytes != text.size()) {
        node.at("replacement").fail("one character");
    }
    return text;
}

// Older files say add_prefix_space.
Metaspace::Prepend read_prepend(const JsonNode& node) {
    constexpr std::array<std::string_view, 3> kSchemes = {"always", "first", "never"};
    if (!flag_or(node, "add_prefix_space", true)) return Metaspace::Prepend::never;
    if (!node.has("prepend_scheme")) return Metaspace::Prepend::always;
    const std::string& scheme = node.at("prepend_scheme").word(kSchemes);
    return static_cast<Metaspace::Prepend>(std::find(kSchemes.begin(), kSchemes.end(), scheme) -
                                           kSchemes.begin());
}

PreTokenizer read_pre_tokenizer(const JsonNode& node) {
    const std::string& type = node.at("type").text();
    if (type == "Split") {
        constexpr std::array<std::string_view, 1> kBehaviors = {"Isolated"};
        node.at("behavior").word(kBehaviors);
        require_absent(node, "invert");
        return Split{read_pattern(node.at("pattern"))};
    }
    if (type == "ByteLevel") {
        ByteLevel step{flag_or(node, "add_prefix_space", true), std::nullopt};
        if (flag_or(node, "use_regex", true)) step.pattern.emplace(kGpt2Pattern, node.where());
        return step;
    }
    if (type == "Metaspace") {
        return Metaspace{read_replacement(node), read_prepend(node), flag_or(node, "split", true)};
    }
    if (type == "WhitespaceSplit") return WhitespaceSplit{};
    refuse_type(node, "one of Sequence, Split, ByteLevel, Metaspace, WhitespaceSplit");
}

void read_decoder(const JsonNode& node, Decoder& decoder) {
    if (node.is_null()) return;
    const std::string& type = node.at("type").text();
    if (type == "ByteLevel") {
        decoder.kind = Decoder::Kind::byte_level;
    } else if (type == "Metaspace") {
        decoder = {Decoder::Kind::metaspace, read_replacement(node),
                   read_prepend(node) != Metaspace::Prepend::never};
    } else {
        refuse_type(node, "one of ByteLevel, Metaspace");
    }
}

// Ids around a text: those of "SpecialToken" before and behind "Sequence" A.
void read_template(const JsonNode& node, Parts& parts) {
    bool text_seen = false;
    for (const JsonNode& piece : node.at("single").items("a list of objects")) {
        if (piece.has("Sequence")) {
            if (text_seen) node.at("single").fail("one Sequence between special tokens");
            text_seen = true;
            continue;
        }
        const JsonNode name = piece.at("SpecialToken").at("id");
        const JsonNode token = node.at("special_tokens").at(name.text());
        if (token.is_null()) name.fail("one of special_tokens");
        for (const JsonNode& id : token.at("ids").items("a list of ids")) {
            if (parts.text_of(read_id(id)) == nullptr) id.fail("the id of a token");
            (text_seen ? parts.after : parts.before).push_back(read_id(id));
        }
    }
    if (!text_seen) node.at("single").fail("one Sequence between special tokens");
}

void read_post_processor(const JsonNode& file, Parts& parts) {
    for_each_step(file.at("post_processor"), "processors", [&](const JsonNode& step) {
        const std::string& type = step.at("type").text();
        if (type == "TemplateProcessing") {
            if (!parts.before.empty() || !parts.after.empty()) step.fail("the only TemplateProcessing");
            read_template(step, parts);
        } else if (type != "ByteLevel") {  // which moves offsets only
            refuse_type(step, "one of Sequence, TemplateProcessing, ByteLevel");
        }
    });
}

void read_bpe(const JsonNode& model, Parts& parts) {
    for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
        require_absent(model, key);
    }
    read_bpe_vocabulary(model.at("vocab"), parts.vocabulary);
    Bpe::Options options;
    options.fuse_unknown = flag_or(model, "fuse_unk", false);
    options.byte_fallback = flag_or(model, "byte_fallback", false);
    options.ignore_merges = flag_or(model, "ignore_merges", false);
    if (model.has("unk_token")) {
        options.unknown = parts.vocabulary.id(model.at("unk_token").text());
        if (!options.unknown) model.at("unk_token").fail("a token of the vocabulary");
    }
    Bpe& bpe = parts.model.emplace<Bpe>(options);
    for (const JsonNode& merge : model.at("merges").items("a list of pairs of tokens")) {
        const auto fail = [&](const std::string& wanted) { merge.fail(wanted); };
        if (!merge.is_list()) {
            const std::string& text = merge.text();
            const std::size_t space = text.find(' ');
            if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
                merge.fail("two tokens with a space between them");
            }
            add_merge(std::string_view(text).substr(0, space), std::string_view(text).substr(space + 1),
                      parts.vocabulary, bpe, fail);
            continue;
        }
        const auto pair = merge.items();
        if (pair.size() != 2) merge.fail("two tokens");
        add_merge(pair[0].text(), pair[1].text(), parts.vocabulary, bpe, fail);
    }
}

void read_unigram(const JsonNode& model, Parts& parts) {
    constexpr double kLargestScore = 1e30;
    std::vector<Unigram::Piece> pieces;
    for (const JsonNode& item : model.at("vocab").items("a list of pieces with scores")) {
        const auto pair = item.items("a piece and its score");
        if (pair.size() != 2) item.fail("a piece and its score");
        const double score = pair[1].number(-kLargestScore, kLargestScore);
        check_token(pair[0]);
        if (parts.vocabulary.add(pair[0].text(), static_cast<std::int32_t>(pieces.size())) !=
            Vocabulary::Added::yes) {
            item.fail("a piece that is not there yet");
        }
        pieces.push_back({pair[0].text(), score});
    }
    if (pieces.empty()) model.at("vocab").fail("a list of pieces with scores");
    Unigram::Options options;
    options.unknown = static_cast<std::int32_t>(
        model.at("unk_id").whole({0, static_cast<std::int64_t>(pieces.size()) - 1}));
    options.byte_fallback = flag_or(model, "byte_fallback", false);
    parts.model.emplace<Unigram>(pieces, options);
}

// Older files do not say the type.
void read_model(const JsonNode& model, Parts& parts) {
    const bool merges = model.contains("merges");
    const std::string type = model.has("type") ? model.at("type").text() : merges ? "BPE" : "Unigram";
    if (type == "BPE") {
        read_bpe(model, parts);
    } else if (type == "Unigram") {
        read_unigram(model, parts);
    } else {
        refuse_type(model, "one of BPE, Unigram");
    }
}

bool is_left(const JsonNode& settings) {
    constexpr std::array<std::string_view, 2> kSides = {"Left", "Right"};
    return settings.has("direction") && settings.at("direction").word(kSides) == "Left";
}

}  // namespace

void read_bpe_vocabulary(const JsonNode& node, Vocabulary& vocabulary) {
    if (!node.is_object()) node.fail("an object of tokens and ids");
    for (const auto& [token, unused] : node.json().items()) {
        const JsonNode id = node.at(token);
        if (token.size() > kLongestToken)
            id.fail(fmt::format("the id of a token of at most {} bytes", kLongestToken));
        if (vocabulary.add(token, read_id(id)) != Vocabulary::Added::yes)
            id.fail("an id that no other token has");
    }
}

void add_merge(std::string_view left, std::string_view right, const Vocabulary& vocabulary, Bpe& bpe,
               FunctionRef<void(const std::string&)> fail) {
    const std::string joined = std::string(left) + std::string(right);
    std::array<std::int32_t, 3> ids{};
    const std::array<std::string_view, 3> tokens = {left, right, joined};
    for (std::size_t i = 0; i < 3; ++i) {
        const auto id = vocabulary.id(tokens[i]);
        if (!id)
            fail(fmt::format("two tokens that join to a third ({} is not in the vocabulary)",
                             in_quotes(tokens[i])));
        ids[i] = id.value_or(0);
    }
    bpe.add_merge(ids[0], ids[1], ids[2]);
}

void read_tokenizer_json(const JsonNode& file, Parts& parts) {
    read_model(file.at("model"), parts);
    for_each_step(file.at("normalizer"), "normalizers", [&](const JsonNode& step) {
        if (parts.normalizers.size() == kMostSteps)
            step.fail(fmt::format("one of {} steps at most", kMostSteps));
        parts.normalizers.push_back(read_normalizer(step));
    });
    for_each_step(file.at("pre_tokenizer"), "pretokenizers", [&](const JsonNode& step) {
        if (parts.pre_tokenizers.size() == kMostSteps)
            step.fail(fmt::format("one of {} steps at most", kMostSteps));
        parts.pre_tokenizers.push_back(read_pre_tokenizer(step));
        const auto* space = std::get_if<Metaspace>(&parts.pre_tokenizers.back());
        // Which words of a step before it are first depends on the characters they come from.
        if (space != nullptr && space->prepend == Metaspace::Prepend::first &&
            parts.pre_tokenizers.size() > 1) {
            throw Unsupported(step.where() +
                              ": prepend_scheme must be always or never behind another step, got first");
        }
    });
    read_decoder(file.at("decoder"), parts.decoder);
    if (file.has("added_tokens")) {
        for (const JsonNode& item : file.at("added_tokens").items("a list of objects")) {
            AddedToken token = read_added_token(item);
            token.id = read_id(item.at("id"));
            add_token(std::move(token), item.at("id"), parts);
        }
    }
    read_post_processor(file, parts);
    if (file.has("truncation")) parts.cut_left = is_left(file.at("truncation"));
    if (file.has("padding")) {
        parts.pad_left = is_left(file.at("padding"));
        const JsonNode id = file.at("padding").at("pad_id");
        parts.pad = read_id(id);
        if (parts.text_of(*parts.pad) == nullptr) id.fail("the id of a token");
    }
}

AddedToken read_added_token(const JsonNode& node) {
    AddedToken token;
    check_token(node.at("content"));
    token.content = node.at("content").text();
    token.single_word = flag_or(node, "single_word", false);
    token.lstrip = flag_or(node, "lstrip", false);
    token.rstrip = flag_or(node, "rstrip", false);
    token.special = flag_or(node, "special", false);
    token.normalized = flag_or(node, "normalized", !token.special);
    return token;
}

void add_token(AddedToken token, const JsonNode& place, Parts& parts) {
    if (token.content.empty()) return;
    if (const auto known = parts.id_of(token.content); known && *known != token.id) {
        place.fail(fmt::format("{}, the id of {}", *known, in_quotes(token.content)));
    }
    const std::string* holder = parts.text_of(token.id);
    if (holder != nullptr && *holder != token.content) {
        place.fail(fmt::format("an id that no other token has ({} is {})", token.id, in_quotes(*holder)));
    }
    parts.added_text[token.id] = token.content;
    const std::string content = token.content;
    parts.added.insert_or_assign(content, std::move(token));
}

void finish_added_tokens(const std::string& where, Parts& parts) {
    using Named = std::vector<std::pair<std::string, AddedToken>>;
    Named raw;
    std::size_t bytes = 0;  // of all normal forms
    std::map<std::string, AddedToken> normalized;
    for (const auto& [content, token] : parts.added) {
        if (!token.normalized) {
            raw.emplace_back(content, token);
            continue;
        }
        const std::string text = normalize(parts.normalizers, content, kLongestToken);
        bytes += text.size();
        if (bytes > kMostNormalBytes) {
            throw InvalidArgument(
                fmt::format("{}: the normal forms of the added tokens must have at most {} bytes", where,
                            kMostNormalBytes));
        }
        parts.added_text[token.id] = text;
        if (text.empty()) continue;
        const auto [other, is_new] = normalized.emplace(text, token);
        if (!is_new) {
            throw InvalidArgument(fmt::format("{}: the added tokens {} and {} have the same normal form {}",
                                              where, in_quotes(other->second.content), in_quotes(content),
                                              in_quotes(text)));
        }
    }
    parts.raw_finder = AddedTokenFinder(raw);
    parts.normalized_finder = AddedTokenFinder(Named(normalized.begin(), normalized.end()));
}

}  // namespace aerogel
