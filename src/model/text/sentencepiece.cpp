// spiece.model, a protocol buffer (sentencepiece_model.proto of google/sentencepiece). Read here and not by
// that project's library, which ends the process or reads out of bounds when a file is wrong.
#include <fmt/format.h>

#include <bit>
#include <cmath>

#include "aerogel/error.h"
#include "core/input_file.h"
#include "core/text.h"
#include "model/text/parts.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr std::size_t kModelSizeLimit = 100'000'000;

// A field of a message: a number, or bytes.
struct Field {
    std::uint64_t number = 0;
    std::uint64_t value = 0;
    std::string_view bytes;
};

// The fields of a message in order. Of the wire format only groups are missing, which nobody writes.
class Message {
  public:
    Message(std::string_view bytes, const std::string& where) : bytes_(bytes), where_(where) {}

    bool next(Field& field) {
        if (bytes_.empty()) return false;
        const std::uint64_t key = varint();
        field = {key >> 3U, 0, {}};
        switch (key & 7U) {
            case 0:
                field.value = varint();
                break;
            case 1:
                take(8);
                break;
            case 2:
                field.bytes = take(varint());
                break;
            case 5: {
                const std::string_view four = take(4);
                for (std::size_t i = 4; i-- > 0;)
                    field.value = field.value << 8U | static_cast<unsigned char>(four[i]);
                break;
            }
            default:
                fail();
        }
        return true;
    }

  private:
    [[noreturn]] void fail() const {
        throw InvalidArgument(where_ +
                              ": must be a SentencePiece model, got a message that ends too early or has a "
                              "field of an unknown kind");
    }
    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<unsigned char>(take(1)[0]);
            value |= std::uint64_t{byte & 0x7FU} << shift;
            if (byte < 0x80) return value;
        }
        fail();
    }
    std::string_view take(std::uint64_t count) {
        if (count > bytes_.size()) fail();
        const std::string_view taken = bytes_.substr(0, count);
        bytes_.remove_prefix(count);
        return taken;
    }

    std::string_view bytes_;
    const std::string& where_;
};

enum class PieceType : std::uint64_t { normal = 1, unknown, control, user_defined, unused, byte };

struct Piece {
    std::string_view text;
    float score = 0.0F;
    PieceType type = PieceType::normal;
};

struct TrainerSpec {
    std::uint64_t model_type = 1;  // unigram
    bool suffix = false;
    bool byte_fallback = false;
    std::string_view eos = "</s>";
    std::string_view pad = "<pad>";
};

Piece read_piece(std::string_view bytes, const std::string& where) {
    Piece piece;
    Message message(bytes, where);
    for (Field field; message.next(field);) {
        if (field.number == 1) piece.text = field.bytes;
        if (field.number == 2) piece.score = std::bit_cast<float>(static_cast<std::uint32_t>(field.value));
        if (field.number == 3) piece.type = static_cast<PieceType>(field.value);
    }
    return piece;
}

TrainerSpec read_trainer_spec(std::string_view bytes, const std::string& where) {
    TrainerSpec spec;
    Message message(bytes, where);
    for (Field field; message.next(field);) {
        if (field.number == 3) spec.model_type = field.value;
        if (field.number == 24) spec.suffix = field.value != 0;
        if (field.number == 35) spec.byte_fallback = field.value != 0;
        if (field.number == 47) spec.eos = field.bytes;
        if (field.number == 48) spec.pad = field.bytes;
    }
    return spec;
}

SentencePieceNormalizer read_normalizer_spec(std::string_view bytes, const std::string& where) {
    SentencePieceNormalizer step;
    Message message(bytes, where);
    for (Field field; message.next(field);) {
        if (field.number == 2 && !field.bytes.empty()) step.map = CharacterMap(field.bytes, where);
        if (field.number == 3) step.add_dummy_prefix = field.value != 0;
        if (field.number == 4) step.remove_extra_whitespaces = field.value != 0;
        if (field.number == 5) step.escape_whitespaces = field.value != 0;
    }
    return step;
}

class Reader {
  public:
    Reader(std::string where, Tokenizer::Parts& parts) : where_(std::move(where)), parts_(parts) {}

    void read(std::string_view bytes) {
        Message message(bytes, where_);
        for (Field field; message.next(field);) {
            if (field.number == 1) add(read_piece(field.bytes, where_));
            if (field.number == 2) trainer_ = read_trainer_spec(field.bytes, where_);
            if (field.number == 3) normalizer_ = read_normalizer_spec(field.bytes, where_);
        }
        finish();
    }

  private:
    void add(const Piece& piece) {
        const auto id = static_cast<std::int32_t>(pieces_.size());
        const auto fail = [&](std::string_view what) {
            throw InvalidArgument(fmt::format("{}: piece {} ({}) {}", where_, id,
                                              in_quotes(replace_invalid_utf8(piece.text)), what));
        };
        if (piece.text.empty() || valid_utf8(piece.text) != piece.text.size())
            fail("must be a text in UTF-8");
        if (piece.text.size() > kLongestToken)
            fail(fmt::format("must be at most {} bytes long", kLongestToken));
        if (!std::isfinite(piece.score)) fail(fmt::format("must have a finite score, got {}", piece.score));
        if (piece.type < PieceType::normal || piece.type > PieceType::byte) fail("has an unknown type");
        if (piece.type == PieceType::unknown && unknown_ >= 0) fail("must be the only unknown piece");
        if (parts_.vocabulary.add(piece.text, id) != Vocabulary::Added::yes) fail("must not be there twice");
        if (piece.type == PieceType::unknown) unknown_ = id;
        if (piece.type == PieceType::byte) ++bytes_;
        if (piece.type == PieceType::user_defined) user_defined_.emplace_back(piece.text, id);
        const auto kind = piece.type == PieceType::normal         ? Unigram::Kind::normal
                          : piece.type == PieceType::user_defined ? Unigram::Kind::user_defined
                                                                  : Unigram::Kind::absent;
        pieces_.push_back({std::string(piece.text), double{piece.score}, kind});
    }

    void finish() {
        if (trainer_.model_type != 1) {
            throw Unsupported(
                fmt::format("{}: model_type must be 1 (unigram), got {}", where_, trainer_.model_type));
        }
        if (unknown_ < 0) throw InvalidArgument(where_ + ": must have an unknown piece, got none");
        if (trainer_.byte_fallback && bytes_ != 256) {
            throw InvalidArgument(
                fmt::format("{}: must have 256 pieces of bytes for byte_fallback, got {}", where_, bytes_));
        }
        normalizer_.suffix = trainer_.suffix;
        normalizer_.untouched = PrefixTable(std::move(user_defined_));
        parts_.normalizers.emplace_back(std::move(normalizer_));
        parts_.model.emplace<Unigram>(pieces_, Unigram::Options{unknown_, trainer_.byte_fallback, true});
        parts_.decoder = {Decoder::Kind::metaspace, "\xE2\x96\x81", true};
        if (const auto eos = parts_.vocabulary.id(trainer_.eos)) parts_.after.push_back(*eos);
        parts_.pad = parts_.vocabulary.id(trainer_.pad);
    }

    std::string where_;
    Tokenizer::Parts& parts_;
    TrainerSpec trainer_;
    SentencePieceNormalizer normalizer_;
    std::vector<Unigram::Piece> pieces_;
    std::vector<PrefixTable::Word> user_defined_;
    std::int32_t unknown_ = -1;
    int bytes_ = 0;
};

}  // namespace

void read_sentencepiece(const std::filesystem::path& path, Tokenizer::Parts& parts) {
    const std::string bytes = read_text_file(path, "tokenizer", kModelSizeLimit);
    Reader("[tokenizer] " + path.string(), parts).read(bytes);
}

}  // namespace aerogel
