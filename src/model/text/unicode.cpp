// The data is utf8proc's. Sorting marks by runs with a stable sort keeps a hostile text of nothing but marks
// fast.
#include "model/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "core/text.h"

namespace aerogel {
namespace {

// Combining marks and composed characters that came after Unicode 9 (up to 18).
constexpr CodeRange kAfterUnicode9[] = {
    {0x5C8, 0x5C9},     {0x7FD, 0x7FD},     {0x897, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},   {0x1ABF, 0x1AF0},
    {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x105C9, 0x105C9}, {0x105E4, 0x105E4}, {0x10D24, 0x10D27},
    {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10ECB, 0x10ECF}, {0x10EF0, 0x10EFB}, {0x10EFD, 0x10EFF},
    {0x10F46, 0x10F50}, {0x10F82, 0x10F85}, {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11383, 0x11383},
    {0x11385, 0x11385}, {0x1138E, 0x1138E}, {0x11391, 0x11391}, {0x113C5, 0x113C5}, {0x113C7, 0x113C8},
    {0x113CE, 0x113D0}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11938, 0x11938}, {0x1193D, 0x1193E},
    {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16121, 0x16128},
    {0x1612F, 0x1612F}, {0x16D68, 0x16D6A}, {0x16FF0, 0x16FF1}, {0x1D127, 0x1D128}, {0x1D250, 0x1D252},
    {0x1D25B, 0x1D25C}, {0x1D25F, 0x1D25F}, {0x1D280, 0x1D281}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136},
    {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3},
    {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5}};

constexpr CodeRange kNewLetters[] = {
    {0x1C89, 0x1C8A},   {0xA7CB, 0xA7CD},   {0xA7DA, 0xA7DC},   {0x105C0, 0x105F3}, {0x10D4A, 0x10D65},
    {0x10D6F, 0x10D85}, {0x10EC2, 0x10EC4}, {0x1123F, 0x11240}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113B7}, {0x113D1, 0x113D1}, {0x113D3, 0x113D3},
    {0x11BC0, 0x11BE0}, {0x11F02, 0x11F02}, {0x11F04, 0x11F10}, {0x11F12, 0x11F33}, {0x1342F, 0x1342F},
    {0x13441, 0x13446}, {0x13460, 0x143FA}, {0x16100, 0x1611D}, {0x16D40, 0x16D6C}, {0x18CFF, 0x18CFF},
    {0x1B132, 0x1B132}, {0x1B155, 0x1B155}, {0x1DF25, 0x1DF2A}, {0x1E030, 0x1E06D}, {0x1E4D0, 0x1E4EB},
    {0x1E5D0, 0x1E5ED}, {0x1E5F0, 0x1E5F0}, {0x2B739, 0x2B739}, {0x2EBF0, 0x2EE5D}, {0x31350, 0x323AF}};

constexpr CodeRange kNewNumbers[] = {
    {0x10D40, 0x10D49}, {0x116D0, 0x116E3}, {0x11BF0, 0x11BF9}, {0x11F50, 0x11F59}, {0x16130, 0x16139},
    {0x16D70, 0x16D79}, {0x1CCF0, 0x1CCF9}, {0x1D2C0, 0x1D2D3}, {0x1E4F0, 0x1E4F9}, {0x1E5F1, 0x1E5FA}};

// Marks that came with Unicode 16 and 17 and may end a grapheme cluster of less than six bytes.
constexpr CodeRange kNewMarks[] = {{0x897, 0x897}, {0x1ACF, 0x1ADD}, {0x1AE0, 0x1AEB}};

constexpr char32_t kReplacement = 0xFFFD;
constexpr char32_t kFirstMark =
    0x300;  // everything below is composed already and combines with nothing before it

bool is_in(std::span<const CodeRange> ranges, char32_t code) {
    const auto range = std::lower_bound(ranges.begin(), ranges.end(), code,
                                        [](CodeRange r, char32_t c) { return r.last < c; });
    return range != ranges.end() && range->first <= code;
}

bool is_after_unicode_9(char32_t code) {
    return is_in(kAfterUnicode9, code);
}

// As utf8proc knows it.
utf8proc_int32_t cluster_character(char32_t code) {
    return static_cast<utf8proc_int32_t>(is_in(kNewMarks, code) ? kFirstMark : code);
}

struct Decomposed {
    char32_t code;
    int combining_class;
};

void decompose(char32_t code, std::vector<Decomposed>& out) {
    if (code < 0x80 || is_after_unicode_9(code)) {
        out.push_back({code, 0});
        return;
    }
    std::array<utf8proc_int32_t, 32> parts{};  // the longest has 4
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), parts.data(),
                                               parts.size(), UTF8PROC_DECOMPOSE, &boundary);
    for (std::size_t i = 0; i < static_cast<std::size_t>(std::max<utf8proc_ssize_t>(count, 0)); ++i) {
        const auto part = static_cast<char32_t>(parts[i]);
        out.push_back({part, utf8proc_get_property(parts[i])->combining_class});
    }
}

// Both as one character.
std::optional<char32_t> compose(char32_t first, char32_t second) {
    std::array<utf8proc_int32_t, 3> pair = {static_cast<utf8proc_int32_t>(first),
                                            static_cast<utf8proc_int32_t>(second)};
    constexpr auto kOptions = static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    if (utf8proc_normalize_utf32(pair.data(), 2, kOptions) != 1) return std::nullopt;
    const auto composed = static_cast<char32_t>(pair[0]);
    return is_after_unicode_9(composed) ? std::nullopt : std::optional(composed);
}

void sort_marks(std::vector<Decomposed>& characters) {
    const auto is_starter = [](Decomposed c) { return c.combining_class == 0; };
    for (auto begin = characters.begin(); begin != characters.end();) {
        begin = std::find_if_not(begin, characters.end(), is_starter);
        const auto end = std::find_if(begin, characters.end(), is_starter);
        std::stable_sort(begin, end,
                         [](Decomposed a, Decomposed b) { return a.combining_class < b.combining_class; });
        begin = end;
    }
}

// A character joins the last starter unless one between them, of its own class or higher, blocks it.
void compose_all(const std::vector<Decomposed>& characters, std::string& out) {
    std::vector<char32_t> rest;  // what stays behind the starter
    std::optional<char32_t> starter;
    int last_class = 0;  // of `rest`
    const auto flush = [&] {
        if (starter) append_character(*starter, out);
        for (const char32_t code : rest) append_character(code, out);
        rest.clear();
    };
    for (const Decomposed& c : characters) {
        const bool blocked = !rest.empty() && (last_class == 0 || last_class >= c.combining_class);
        if (starter && !blocked) {
            if (const auto composed = compose(*starter, c.code)) {
                starter = composed;
                continue;
            }
        }
        if (c.combining_class == 0) {
            flush();
            starter = c.code;
        } else {
            rest.push_back(c.code);
            last_class = c.combining_class;
        }
    }
    flush();
}

}  // namespace

std::size_t valid_utf8(std::string_view text) {
    std::size_t at = 0;
    while (at < text.size()) {
        const std::size_t bytes = first_character(text.substr(at)).bytes;
        if (bytes == 0) break;
        at += bytes;
    }
    return at;
}

char32_t next_character(std::string_view text, std::size_t& at) {
    const Character character = first_character(text.substr(at));
    at += std::max<std::size_t>(character.bytes, 1);
    return character.code;
}

void append_character(char32_t code, std::string& text) {
    std::array<utf8proc_uint8_t, 4> bytes{};
    const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code), bytes.data());
    text.append(reinterpret_cast<const char*>(bytes.data()), static_cast<std::size_t>(count));
}

std::string replace_invalid_utf8(std::string_view bytes) {
    std::string text;
    while (!bytes.empty()) {
        const std::size_t valid = valid_utf8(bytes);
        text += bytes.substr(0, valid);
        bytes.remove_prefix(valid);
        if (bytes.empty()) break;
        append_character(kReplacement, text);
        // The longest part that some valid character begins with (Unicode 3.9, table 3-7).
        const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
        const unsigned lead = byte(0);
        const std::size_t length = lead >= 0xF0 && lead <= 0xF4 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC2 ? 2 : 1;
        std::size_t part = 1;
        while (lead <= 0xF4 && part < length && part < bytes.size()) {
            const unsigned low = part > 1 ? 0x80 : lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
            const unsigned high = part > 1 ? 0xBF : lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
            if (byte(part) < low || byte(part) > high) break;
            ++part;
        }
        bytes.remove_prefix(part);
    }
    return text;
}

bool is_white_space(char32_t code) {
    return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
           (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
           code == 0x205F || code == 0x3000;
}

std::size_t grapheme_end(std::string_view text, std::size_t at) {
    auto previous = cluster_character(next_character(text, at));
    utf8proc_int32_t state = 0;
    while (at < text.size()) {
        std::size_t end = at;
        const auto next = cluster_character(next_character(text, end));
        if (utf8proc_grapheme_break_stateful(previous, next, &state)) break;
        previous = next;
        at = end;
    }
    return at;
}

std::string to_nfc(std::string_view text) {
    std::vector<Decomposed> characters;
    bool plain = true;
    for (std::size_t at = 0; at < text.size() && plain;) plain = next_character(text, at) < kFirstMark;
    if (plain) return std::string(text);
    characters.reserve(text.size());
    for (std::size_t at = 0; at < text.size();) decompose(next_character(text, at), characters);
    sort_marks(characters);
    std::string composed;
    composed.reserve(text.size());
    compose_all(characters, composed);
    return composed;
}

std::span<const CodeRange> new_letters() {
    return kNewLetters;
}
std::span<const CodeRange> new_numbers() {
    return kNewNumbers;
}

}  // namespace aerogel
