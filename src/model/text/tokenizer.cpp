// Tokenizer: which files a folder has, and the way of a text through the parts.
#include "aerogel/tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "aerogel/error.h"
#include "base/cancellation.h"
#include "core/paths.h"
#include "core/text.h"
#include "model/text/parts.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

using Ids = std::vector<std::int32_t>;

constexpr std::size_t kLongestText = 16'000'000;
constexpr std::size_t kLongestNormal = 4 * kLongestText;  // of a piece of a text, whatever the steps do

void check_text(std::string_view text) {
    if (text.size() > kLongestText) {
        throw InvalidArgument(fmt::format("[tokenizer] a text must be at most {} bytes long, got {}",
                                          kLongestText, text.size()));
    }
    const std::size_t valid = valid_utf8(text);
    if (valid != text.size()) {
        throw InvalidArgument(fmt::format("[tokenizer] a text must be UTF-8, got the byte 0x{:02X} at {}",
                                          static_cast<unsigned char>(text[valid]), valid));
    }
}

void encode_words(const Tokenizer::Parts& parts, const std::string& text, bool at_start, Ids& ids) {
    for (const std::string& word : pre_tokenize(parts.pre_tokenizers, text, at_start, kLongestNormal)) {
        stop_if_cancelled();
        std::visit([&](const auto& model) { model.encode(parts.vocabulary, word, ids); }, parts.model);
    }
}

Ids encode_text(const Tokenizer::Parts& parts, std::string_view text) {
    Ids ids;
    bool at_start = true;
    for (TextPiece& piece : parts.raw_finder.split(text)) {
        if (piece.id) {
            ids.push_back(*piece.id);
            at_start = false;
            continue;
        }
        for (const TextPiece& part : parts.normalized_finder.split(
                 normalize(parts.normalizers, std::move(piece.text), kLongestNormal))) {
            if (part.id) {
                ids.push_back(*part.id);
            } else {
                encode_words(parts, part.text, at_start, ids);
            }
            at_start = false;
        }
        at_start = false;
    }
    return ids;
}

void cut_to(std::int64_t max_length, std::size_t around, bool left, Ids& ids) {
    if (max_length < static_cast<std::int64_t>(around)) {
        throw InvalidArgument(fmt::format(
            "[tokenizer] max_length must be at least {} (special tokens), got {}", around, max_length));
    }
    const std::size_t room = static_cast<std::size_t>(max_length) - around;
    if (ids.size() <= room) return;
    if (left) {
        ids.erase(ids.begin(), ids.end() - static_cast<std::ptrdiff_t>(room));
    } else {
        ids.resize(room);
    }
}

void pad_to(std::int64_t length, const Tokenizer::Parts& parts, Encoding& encoding) {
    constexpr std::int64_t kLongestPadding = 1 << 24;
    if (!parts.pad) throw InvalidArgument("[tokenizer] pad needs a padding token, the files name none");
    if (length > kLongestPadding) {
        throw InvalidArgument(fmt::format("[tokenizer] max_length must be at most {} for padding, got {}",
                                          kLongestPadding, length));
    }
    const std::size_t missing = static_cast<std::size_t>(length) - encoding.ids.size();
    encoding.ids.insert(parts.pad_left ? encoding.ids.begin() : encoding.ids.end(), missing, *parts.pad);
    encoding.mask.insert(parts.pad_left ? encoding.mask.begin() : encoding.mask.end(), missing,
                         std::uint8_t{0});
}

// A token as Hugging Face's Metaspace writes it.
std::string visible_text(const Decoder& decoder, std::string_view text, bool first) {
    std::string out;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find(decoder.replacement), text.size());
        out += text.substr(0, end);
        if (end == text.size()) break;
        if (!first || !decoder.prepend) out += ' ';
        text.remove_prefix(end + decoder.replacement.size());
    }
    return out;
}

// Which of the three kinds of files there are.
std::filesystem::path find_file(const std::filesystem::path& path) {
    if (!path_exists(path)) throw IoError(fmt::format("[tokenizer] {} does not exist", path.string()));
    if (!is_folder(path)) return path;
    for (const char* name : {"tokenizer.json", "vocab.json", "spiece.model"}) {
        if (path_exists(path / name)) return path / name;
    }
    throw InvalidArgument(
        fmt::format("[tokenizer] {} must hold tokenizer.json, vocab.json with merges.txt, or spiece.model, "
                    "got none of them",
                    path.string()));
}

}  // namespace

std::optional<std::int32_t> Tokenizer::Parts::id_of(std::string_view token) const {
    const auto found = added.find(token);
    return found != added.end() ? std::optional(found->second.id) : vocabulary.id(token);
}

const std::string* Tokenizer::Parts::text_of(std::int32_t id) const {
    const auto found = added_text.find(id);
    return found != added_text.end() ? &found->second : vocabulary.token(id);
}

Tokenizer Tokenizer::load(const std::filesystem::path& path) {
    const std::filesystem::path file = find_file(path);
    auto parts = std::make_shared<Parts>();
    if (file.extension() == ".model") {
        read_sentencepiece(file, *parts);
    } else if (file.filename() == "vocab.json") {
        read_vocabulary_and_merges(file.parent_path(), *parts);
    } else {
        read_tokenizer_json(JsonNode::read(file, "tokenizer"), *parts);
    }
    const std::filesystem::path config = file.parent_path() / "tokenizer_config.json";
    if (path_exists(config)) read_tokenizer_config(JsonNode::read(config, "tokenizer"), *parts);
    finish_added_tokens("[tokenizer] " + file.string(), *parts);
    return Tokenizer(std::move(parts));
}

Encoding Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
    check_text(text);
    if (options.pad && !options.max_length) throw InvalidArgument("[tokenizer] pad needs max_length");
    const bool around = options.add_special_tokens;
    Encoding encoding;
    Ids ids = encode_text(*parts_, text);
    if (options.max_length) {
        cut_to(*options.max_length, around ? parts_->before.size() + parts_->after.size() : 0,
               parts_->cut_left, ids);
    }
    if (around) {
        encoding.ids = parts_->before;
        ids.insert(ids.end(), parts_->after.begin(), parts_->after.end());
    }
    encoding.ids.insert(encoding.ids.end(), ids.begin(), ids.end());
    encoding.mask.assign(encoding.ids.size(), 1);
    if (options.pad) pad_to(*options.max_length, *parts_, encoding);
    return encoding;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
    const Decoder& decoder = parts_->decoder;
    std::string text;
    bool first = true;
    for (const std::int32_t id : ids) {
        const std::string* token = parts_->text_of(id);
        if (token == nullptr)
            throw InvalidArgument(fmt::format("[tokenizer] {} is not the id of a token", id));
        const auto added = parts_->added.find(*token);
        if (skip_special_tokens && added != parts_->added.end() && added->second.special) continue;
        switch (decoder.kind) {
            case Decoder::Kind::byte_level:
                text += bytes_of_token(*token);
                break;
            case Decoder::Kind::metaspace:
                text += visible_text(decoder, *token, first);
                break;
            case Decoder::Kind::spaced:
                text += first ? *token : " " + *token;
                break;
        }
        first = false;
    }
    return decoder.kind == Decoder::Kind::byte_level ? replace_invalid_utf8(text) : text;
}

std::int32_t Tokenizer::special_id(std::string_view token) const {
    const auto id = parts_->id_of(token);
    if (!id) throw InvalidArgument(fmt::format("[tokenizer] {} is not a token", in_quotes(token)));
    return *id;
}

std::optional<std::int32_t> Tokenizer::pad_id() const {
    return parts_->pad;
}

std::int64_t Tokenizer::size() const {
    const std::int64_t added =
        parts_->added_text.empty() ? 0 : std::int64_t{parts_->added_text.rbegin()->first} + 1;
    return std::max(parts_->vocabulary.size(), added);
}

}  // namespace aerogel
