// Words found at the front of a text: a sorted list that is narrowed byte by byte. No more memory than the
// words take, whatever they are; a search takes as many steps as the longest word has bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace aerogel {

/// Loops over a text that search at every place ask at multiples of it whether they should stop; a prime, so
/// that characters of every length come to one.
inline constexpr std::size_t kBytesBetweenQuestions = 61;

class PrefixTable {
  public:
    using Word = std::pair<std::string, std::int32_t>;

    PrefixTable() = default;
    /// Each word once, with the number that stands for it.
    explicit PrefixTable(std::vector<Word> words) : words_(std::move(words)) {
        std::sort(words_.begin(), words_.end());
    }

    /// Calls found(bytes, number) for every word that `text` begins with, the shortest first; never for an
    /// empty one.
    template <typename Found>
    void for_each_prefix(std::string_view text, Found found) const {
        auto begin = words_.begin();
        auto end = words_.end();
        for (std::size_t depth = 0; depth < text.size() && begin != end; ++depth) {
            const auto byte = static_cast<unsigned char>(text[depth]);
            // A word that ends here comes before all longer ones.
            const auto below = [&](const Word& word) {
                return word.first.size() == depth || static_cast<unsigned char>(word.first[depth]) < byte;
            };
            const auto same = [&](const Word& word) {
                return static_cast<unsigned char>(word.first[depth]) == byte;
            };
            begin = std::partition_point(begin, end, below);
            end = std::partition_point(begin, end, same);
            if (begin != end && begin->first.size() == depth + 1) found(depth + 1, begin->second);
        }
    }

    /// The longest of them: {bytes, number}; no bytes where there is none.
    Word::second_type longest(std::string_view text, std::size_t& bytes) const {
        Word::second_type number = 0;
        bytes = 0;
        for_each_prefix(text, [&](std::size_t length, std::int32_t value) {
            bytes = length;
            number = value;
        });
        return number;
    }

  private:
    std::vector<Word> words_;
};

}  // namespace aerogel
