// Viterbi's search over the ends of pieces: the best way to each position, found from left to right. Sums are
// rounded as in the two originals, so that ties fall the same way.
#include "model/text/unigram.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/cancellation.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr double kUnknownPenalty = 10.0;
constexpr std::size_t kNowhere = static_cast<std::size_t>(-1);

}  // namespace

// The last piece of the best way to a position.
struct Unigram::Node {
    double score = 0.0;
    std::size_t begin = kNowhere;
    std::int32_t id = 0;
};

Unigram::Unigram(const std::vector<Piece>& pieces, Options options) : options_(options) {
    std::vector<PrefixTable::Word> words;
    for (std::size_t id = 0; id < pieces.size(); ++id) {
        const Piece& piece = pieces[id];
        scores_.push_back(piece.score);
        user_defined_.push_back(piece.kind == Kind::user_defined);
        if (piece.kind == Kind::normal) least_ = std::min(least_, piece.score);
        if (piece.kind != Kind::absent) words.emplace_back(piece.text, static_cast<std::int32_t>(id));
    }
    table_ = PrefixTable(std::move(words));
}

// SentencePiece's score of a user-defined piece (0.2.3): above all others, which are logarithms of
// probabilities.
double Unigram::score_of(std::int32_t id, std::size_t bytes) const {
    const auto index = static_cast<std::size_t>(id);
    return user_defined_[index] ? 0.1 * static_cast<double>(bytes - 1) : scores_[index];
}

std::vector<Unigram::Node> Unigram::best_nodes(std::string_view text) const {
    const bool single = options_.single;
    const auto rounded = [single](double x) { return single ? double{static_cast<float>(x)} : x; };
    const double unknown_score = rounded(least_ - kUnknownPenalty);
    std::vector<Node> nodes(text.size() + 1);
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t begin = at;
        const double so_far = nodes[begin].score;
        if (begin % kBytesBetweenQuestions == 0) stop_if_cancelled();
        next_character(text, at);
        const auto offer = [&](std::size_t end, double score, std::int32_t id) {
            Node& node = nodes[end];
            if (node.begin == kNowhere || score > node.score) node = {score, begin, id};
        };
        bool has_single = false;
        table_.for_each_prefix(text.substr(begin), [&](std::size_t bytes, std::int32_t id) {
            offer(begin + bytes, rounded(rounded(score_of(id, bytes)) + so_far), id);
            has_single = has_single || begin + bytes == at;
        });
        if (!has_single) offer(at, rounded(unknown_score + so_far), options_.unknown);
    }
    return nodes;
}

void Unigram::add_unknown(const Vocabulary& vocabulary, std::string_view text,
                          std::vector<std::int32_t>& ids) const {
    // Hugging Face looks the joined text up again.
    const auto whole = options_.single ? std::nullopt : vocabulary.id(text);
    std::vector<std::int32_t> found;
    bool in_bytes = options_.byte_fallback && !whole;
    for (std::size_t i = 0; i < text.size() && in_bytes; ++i) {
        const auto id = vocabulary.id(fmt::format("<0x{:02X}>", static_cast<unsigned char>(text[i])));
        in_bytes = id.has_value();
        if (in_bytes) found.push_back(*id);
    }
    if (in_bytes) {
        ids.insert(ids.end(), found.begin(), found.end());
    } else {
        ids.push_back(whole.value_or(options_.unknown));
    }
}

void Unigram::encode(const Vocabulary& vocabulary, std::string_view text,
                     std::vector<std::int32_t>& ids) const {
    const std::vector<Node> nodes = best_nodes(text);
    std::vector<std::size_t> ends;
    for (std::size_t end = text.size(); end > 0; end = nodes[end].begin) ends.push_back(end);
    std::size_t unknown_begin = kNowhere;  // neighbouring unknown pieces are one
    const auto flush = [&](std::size_t end) {
        if (unknown_begin != kNowhere) {
            add_unknown(vocabulary, text.substr(unknown_begin, end - unknown_begin), ids);
        }
        unknown_begin = kNowhere;
    };
    for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
        const Node& node = nodes[*end];
        if (node.id == options_.unknown) {
            if (unknown_begin == kNowhere) unknown_begin = node.begin;
            continue;
        }
        flush(node.begin);
        ids.push_back(node.id);
    }
    flush(text.size());
}

}  // namespace aerogel
