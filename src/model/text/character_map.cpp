// The layout of a unit is that of darts-clone (Yata): label, offset to the children, whether a rule ends
// here.
#include "model/text/character_map.h"

#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr std::size_t kClusterBytes = 6;
constexpr std::size_t kLongestReplacement = 1024;
constexpr std::size_t kMostRules = 32;  // of one text; SentencePiece has room for as many

std::uint32_t unit_label(std::uint32_t unit) {
    return unit & ((1U << 31U) | 0xFFU);
}
std::size_t unit_offset(std::uint32_t unit) {
    return std::size_t{unit >> 10U} << ((unit & (1U << 9U)) >> 6U);
}
bool unit_has_value(std::uint32_t unit) {
    return (unit >> 8U & 1U) != 0;
}

std::uint32_t read_unit(std::string_view bytes, std::size_t index) {
    std::uint32_t unit = 0;
    for (std::size_t i = 4; i-- > 0;) unit = unit << 8U | static_cast<unsigned char>(bytes[4 * index + i]);
    return unit;
}

}  // namespace

CharacterMap::CharacterMap(std::string_view bytes, const std::string& where) {
    const std::size_t size = bytes.size() < 4 ? 0 : read_unit(bytes, 0);
    if (bytes.size() < 8 || size < 4 || size % 4 != 0 || size > bytes.size() - 4) {
        throw InvalidArgument(fmt::format(
            "{}: the precompiled charsmap must begin with the bytes of its trie, a multiple of 4 within "
            "the rest, got {} of {} bytes",
            where, size, bytes.size()));
    }
    const std::string_view trie = bytes.substr(4, size);
    for (std::size_t i = 0; i < size / 4; ++i) units_.push_back(read_unit(trie, i));
    replacements_ = bytes.substr(4 + size);
    if (const std::size_t valid = valid_utf8(replacements_); valid != replacements_.size()) {
        throw InvalidArgument(fmt::format(
            "{}: the texts of the precompiled charsmap must be UTF-8, got something else at byte {}", where,
            valid));
    }
    for (std::size_t begin = 0; begin < replacements_.size();) {
        const std::size_t end = std::min(replacements_.find('\0', begin), replacements_.size());
        if (end - begin > kLongestReplacement) {
            throw InvalidArgument(
                fmt::format("{}: a text of the precompiled charsmap must be at most {} bytes long, got {}",
                            where, kLongestReplacement, end - begin));
        }
        begin = end + 1;
    }
}

template <typename Found>
void CharacterMap::for_each_rule(std::string_view text, Found found) const {
    if (units_.empty()) return;
    text = text.substr(0, kLongestRule);  // a wrong trie may lead in a circle
    std::size_t node = unit_offset(units_[0]);
    for (std::size_t i = 0; i < text.size(); ++i) {
        const auto byte = static_cast<unsigned char>(text[i]);
        node ^= byte;
        if (byte == 0 || node >= units_.size() || unit_label(units_[node]) != byte) return;
        const bool ends_here = unit_has_value(units_[node]);
        node ^= unit_offset(units_[node]);
        if (!ends_here || node >= units_.size()) continue;
        const std::size_t begin = units_[node] & ~(1U << 31U);
        // A wrong place is no rule.
        if (begin >= replacements_.size() ||
            (static_cast<unsigned char>(replacements_[begin]) & 0xC0U) == 0x80)
            continue;
        const std::size_t end = replacements_.find('\0', begin);
        const std::string_view replacement = std::string_view(replacements_).substr(begin, end - begin);
        if (!found(Rule{i + 1, replacement})) return;
    }
}

std::optional<CharacterMap::Rule> CharacterMap::longest(std::string_view text) const {
    std::optional<Rule> rule;
    std::size_t rules = 0;
    for_each_rule(text, [&](const Rule& longer) {
        rule = longer;
        return ++rules < kMostRules;
    });
    return rule;
}

std::optional<CharacterMap::Rule> CharacterMap::shortest(std::string_view text) const {
    std::optional<Rule> rule;
    for_each_rule(text, [&](const Rule& first) {
        rule = first;
        return false;
    });
    return rule;
}

std::string CharacterMap::replace_clusters(std::string_view text, std::size_t most) const {
    std::string out;
    out.reserve(text.size());
    for (std::size_t at = 0; at < text.size() && out.size() <= most;) {
        const std::size_t end = grapheme_end(text, at);
        if (end - at < kClusterBytes) {
            if (const auto rule = shortest(text.substr(at, end - at))) {
                out += rule->replacement;
                at = end;
                continue;
            }
        }
        while (at < end && out.size() <= most) {
            const std::size_t begin = at;
            next_character(text, at);
            const std::string_view character = text.substr(begin, at - begin);
            const auto rule = shortest(character);
            out += rule ? rule->replacement : character;
        }
    }
    return out;
}

}  // namespace aerogel
