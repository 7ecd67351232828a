// Text to the ids that a text encoder reads, and back: byte-level BPE (Qwen) and unigram (T5), with the ids
// that Hugging Face's tokenizers give for the same files.
// layer: model
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

struct EncodeOptions {
    /// What the files say belongs around a text, such as the </s> of T5. Special tokens that stand in the
    /// text itself are always found.
    bool add_special_tokens = true;
    /// The most ids, those around the text included; of a longer text the end (or what the files say) is cut
    /// off.
    std::optional<std::int64_t> max_length = std::nullopt;
    /// Fill up to max_length with pad_id(), on the side that the files say.
    bool pad = false;
};

struct Encoding {
    std::vector<std::int32_t> ids = {};
    std::vector<std::uint8_t> mask = {};  ///< 1 for each id of the text, 0 for padding
};

/// Copies share the vocabulary; one that is moved from keeps its share. Safe to use from several threads.
class Tokenizer {
  public:
    Tokenizer(const Tokenizer&) = default;
    Tokenizer& operator=(const Tokenizer&) = default;
    ~Tokenizer() = default;
    /// Of a folder: tokenizer.json, else vocab.json with merges.txt, else spiece.model; tokenizer_config.json
    /// adds tokens and padding where it is there. Or of one such file (a .json or .model), with the files
    /// beside it. InvalidArgument when a file is wrong, Unsupported when it asks for a step that is not
    /// there, IoError.
    static Tokenizer load(const std::filesystem::path& path);

    /// The ids of a text in UTF-8. InvalidArgument when it is not UTF-8 or longer than 16 MB, when the steps
    /// of the files make it longer than 64 MB or take too long; when max_length has no room for what belongs
    /// around it; when padding is asked for and there is no max_length or padding token. Cancelled.
    Encoding encode(std::string_view text, const EncodeOptions& options = {}) const;

    /// The text of ids, as the decoder of the files writes it; bytes that are not UTF-8 become U+FFFD.
    /// InvalidArgument for an id without a token.
    std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens = true) const;

    /// The id of a token by its text: special_id("<|im_end|>"). InvalidArgument when there is none.
    std::int32_t special_id(std::string_view token) const;
    /// The padding token of the files, where they name one.
    std::optional<std::int32_t> pad_id() const;
    /// One more than the largest id: what an embedding must have rows for.
    std::int64_t size() const;

    struct Parts;

  private:
    explicit Tokenizer(std::shared_ptr<const Parts> parts) : parts_(std::move(parts)) {}
    std::shared_ptr<const Parts> parts_;
};

}  // namespace aerogel
