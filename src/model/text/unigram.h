// The unigram language model of SentencePiece (Kudo 2018): of all ways to cut a text into pieces, the one
// with the highest sum of scores.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "model/text/prefix_table.h"
#include "model/text/vocabulary.h"

namespace aerogel {

class Unigram {
  public:
    enum class Kind {
        normal,
        user_defined,  ///< always taken where it fits
        absent         ///< has an id, but text is not cut into it
    };
    struct Piece {
        std::string text;
        double score;
        Kind kind = Kind::normal;
    };
    struct Options {
        std::int32_t unknown = 0;
        bool byte_fallback = false;  ///< <0xAB> for the bytes of what is unknown
        bool single = false;         ///< sums in float32 as SentencePiece, else float64 as Hugging Face
    };

    Unigram() = default;
    /// The pieces by their ids, each text once.
    Unigram(const std::vector<Piece>& pieces, Options options);

    /// Appends the ids of a text.
    void encode(const Vocabulary& vocabulary, std::string_view text, std::vector<std::int32_t>& ids) const;

  private:
    struct Node;
    std::vector<Node> best_nodes(std::string_view text) const;
    void add_unknown(const Vocabulary& vocabulary, std::string_view text,
                     std::vector<std::int32_t>& ids) const;
    double score_of(std::int32_t id, std::size_t bytes) const;

    Options options_;
    std::vector<double> scores_;
    std::vector<bool> user_defined_;
    PrefixTable table_;
    double least_ = std::numeric_limits<double>::infinity();
};

}  // namespace aerogel
