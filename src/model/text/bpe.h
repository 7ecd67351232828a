// Byte pair encoding (Sennrich, Haddow, Birch 2016): a word is cut into characters, and of all neighbours
// that may be joined the pair of the lowest rank is joined first, until none is left.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/text/vocabulary.h"

namespace aerogel {

class Bpe {
  public:
    struct Options {
        std::optional<std::int32_t> unknown = std::nullopt;  ///< without it, unknown characters are left out
        bool fuse_unknown = false;                           ///< neighbouring ones are one
        bool byte_fallback = false;                          ///< <0xAB> for the bytes of an unknown character
        bool ignore_merges = false;                          ///< a word of the vocabulary is not cut
    };

    Bpe() = default;
    explicit Bpe(Options options) : options_(options) {}

    /// The next pair in order of rank; a pair given twice has its last rank.
    void add_merge(std::int32_t left, std::int32_t right, std::int32_t joined);
    /// Appends the ids of a word.
    void encode(const Vocabulary& vocabulary, std::string_view word, std::vector<std::int32_t>& ids) const;

  private:
    struct Merge {
        std::uint32_t rank;
        std::int32_t joined;
    };
    struct Merging;
    const Merge* find(std::int32_t left, std::int32_t right) const;
    std::vector<std::int32_t> split(const Vocabulary& vocabulary, std::string_view word) const;
    bool add_bytes(const Vocabulary& vocabulary, std::string_view character,
                   std::vector<std::int32_t>& ids) const;

    Options options_;
    std::unordered_map<std::uint64_t, Merge> merges_;  // by both ids
    std::uint32_t next_rank_ = 0;
};

}  // namespace aerogel
