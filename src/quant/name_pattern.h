// One shell pattern over names, compiled once. Alternatives in braces stand for as many patterns as there are
// combinations; none of them is written out, so time grows with pattern times name however they nest.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

/// Longest pattern accepted.
inline constexpr std::size_t kPatternLimit = 20'000;

class NamePattern {
  public:
    /// * any characters (dots too), ? one, [ab] [a-z] [!a] sets, {a,b} alternatives. InvalidArgument on a
    /// brace that is not closed and on more than kPatternLimit characters.
    explicit NamePattern(std::string_view pattern);

    bool matches(std::string_view name) const;

  private:
    class Walk;
    void read_braces();

    std::string text_;
    std::vector<std::uint32_t> jump_;         // where a structural character leads; its own place elsewhere
    std::vector<std::uint32_t> starts_;       // of the alternatives of all braces, brace after brace
    std::vector<std::uint32_t> first_start_;  // of the brace at a place: its first element in starts_
    std::vector<std::uint32_t> start_count_;  // 0 where there is no opening brace
};

}  // namespace aerogel
