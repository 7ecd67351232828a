// Printable excerpts, edit distance.
#include "core/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <numeric>

namespace aerogel {
namespace {

// Levenshtein's distance, given up (limit + 1) as soon as it must exceed `limit`.
std::size_t edit_distance(std::string_view a, std::string_view b, std::size_t limit) {
    const std::size_t difference = a.size() > b.size() ? a.size() - b.size() : b.size() - a.size();
    if (difference > limit) return limit + 1;
    std::vector<std::size_t> row(b.size() + 1);
    std::iota(row.begin(), row.end(), std::size_t{0});
    for (std::size_t i = 1; i <= a.size(); ++i) {
        std::size_t diagonal = row[0];
        row[0] = i;
        std::size_t least = i;
        for (std::size_t j = 1; j <= b.size(); ++j) {
            const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
            diagonal = row[j];
            row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
            least = std::min(least, row[j]);
        }
        if (least > limit) return limit + 1;
    }
    return row[b.size()];
}

std::string moved_letters(std::string_view text, char first, char last, int by) {
    std::string moved(text);
    for (char& c : moved) {
        if (c >= first && c <= last) c = static_cast<char>(c + by);
    }
    return moved;
}

}  // namespace

std::string lower_case(std::string_view text) {
    return moved_letters(text, 'A', 'Z', 'a' - 'A');
}

std::string upper_case(std::string_view text) {
    return moved_letters(text, 'a', 'z', 'A' - 'a');
}

Character first_character(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned char lead = byte(0);
    if (lead < 0x80) return {lead, 1};
    const std::size_t bytes = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || text.size() < bytes) return {};
    std::uint32_t code = lead & (0x7FU >> bytes);
    for (std::size_t i = 1; i < bytes; ++i) {
        if ((byte(i) & 0xC0U) != 0x80) return {};
        code = code << 6U | (byte(i) & 0x3FU);
    }
    const bool too_long = (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    if (too_long || surrogate || code > 0x10FFFF) return {};
    return {code, bytes};
}

std::string printable(std::string_view text) {
    constexpr std::size_t kLongest = 120;
    std::string shown(text.substr(0, kLongest));
    for (char& c : shown) {
        const auto byte = static_cast<unsigned char>(c);
        if (byte < 0x20 || byte == 0x7F || byte >= 0xF5) c = '?';
    }
    if (text.size() > kLongest) shown += "...";
    return shown;
}

std::string in_quotes(std::string_view text) {
    return "'" + printable(text) + "'";
}

std::string nearest_name(std::string_view name, const std::vector<std::string>& names) {
    constexpr std::size_t kLongest = 512;  // the distance is quadratic
    if (name.size() > kLongest) return {};
    std::string nearest;
    std::size_t limit = name.size() / 2;
    for (const std::string& candidate : names) {
        if (candidate.size() > kLongest) continue;
        const std::size_t distance = edit_distance(name, candidate, limit);
        if (distance > limit) continue;
        nearest = candidate;
        if (distance == 0) break;
        limit = distance - 1;
    }
    return nearest;
}

std::string suggestion(std::string_view name, const std::vector<std::string>& names) {
    const std::string nearest = nearest_name(name, names);
    return nearest.empty() ? "" : ", did you mean " + in_quotes(nearest) + "?";
}

std::string counted(std::int64_t count, std::string_view what) {
    return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

std::string show_bytes(double bytes) {
    constexpr std::array<const char*, 5> kUnits = {"B", "kB", "MB", "GB", "TB"};
    std::size_t unit = 0;
    while (bytes >= 1000.0 && unit + 1 < kUnits.size()) {
        bytes /= 1000.0;
        ++unit;
    }
    return unit == 0 ? fmt::format("{:.0f} B", bytes) : fmt::format("{:.1f} {}", bytes, kUnits.at(unit));
}

}  // namespace aerogel
