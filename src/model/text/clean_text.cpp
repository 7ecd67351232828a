// html.unescape and white space as Python has them. The text is UTF-8, and what is looked for is ASCII.
#include "model/text/clean_text.h"

#include <algorithm>
#include <charconv>
#include <unordered_map>

#include "model/text/html_entities.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

struct Entity {
    std::string text;
    bool bare;  ///< known without its semicolon too
};
using Entities = std::unordered_map<std::string_view, Entity>;

std::string characters_of(std::string_view codes) {
    std::string text;
    while (!codes.empty()) {
        std::uint32_t code = 0;
        const char* end = std::from_chars(codes.data(), codes.data() + codes.size(), code, 16).ptr;
        append_character(code, text);
        codes.remove_prefix(
            std::min(codes.size(), static_cast<std::size_t>(end - codes.data()) + 1));  // with the +
    }
    return text;
}

Entities read_entities() {
    Entities entities;
    std::string_view rest = kHtmlEntities;
    while (!rest.empty()) {
        const std::string_view item = rest.substr(0, rest.find(' '));
        const std::size_t name = item.find_first_of("=*");
        entities[item.substr(0, name)] = {characters_of(item.substr(name + 1)), item[name] == '*'};
        rest.remove_prefix(item.size() + 1);
    }
    return entities;
}

const Entity* find_entity(std::string_view name) {
    static const Entities entities = read_entities();
    const auto found = entities.find(name);
    return found == entities.end() ? nullptr : &found->second;
}

/// The character of a number; HTML reads 128 to 159 as Windows-1252 and drops what is no text.
void append_number(std::uint32_t number, std::string& out) {
    static constexpr char32_t kWindows[32] = {0x20AC, 0x81,   0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021,
                                              0x2C6,  0x2030, 0x160,  0x2039, 0x152,  0x8D,   0x17D,  0x8F,
                                              0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014,
                                              0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0x9D,   0x17E,  0x178};
    if (number >= 0x80 && number < 0xA0) return append_character(kWindows[number - 0x80], out);
    if (number == 0 || (number >= 0xD800 && number < 0xE000) || number > 0x10FFFF)
        return append_character(0xFFFD, out);
    const bool control =
        (number < 0x20 && number != '\t' && number != '\n' && number != '\f' && number != '\r') ||
        number == 0x7F;
    const bool no_character = (number >= 0xFDD0 && number < 0xFDF0) || (number & 0xFFFE) == 0xFFFE;
    if (!control && !no_character) append_character(number, out);
}

/// Appends what "&" + `text` begins with, and returns how much of `text` that takes; 0: nothing known.
std::size_t append_numeric(std::string_view text, std::string& out) {
    const bool hex = text.size() > 1 && (text[1] == 'x' || text[1] == 'X');
    const std::string_view digits = hex ? "0123456789abcdefABCDEF" : "0123456789";
    const std::size_t first = hex ? 2 : 1;
    const std::size_t end = std::min(text.find_first_not_of(digits, first), text.size());
    if (end == first || end > text.size()) return 0;
    std::uint32_t number = 0;
    const auto read = std::from_chars(text.data() + first, text.data() + end, number, hex ? 16 : 10);
    append_number(read.ec == std::errc() ? number : 0x110000, out);
    return end < text.size() && text[end] == ';' ? end + 1 : end;
}

std::size_t append_named(std::string_view text, std::string& out) {
    constexpr int kLongest = 32;  // characters
    std::size_t end = 0;
    for (int i = 0; i < kLongest && end < text.size(); ++i) {
        if (std::string_view("\t\n\f <&#;").find(text[end]) != std::string_view::npos) break;
        next_character(text, end);
    }
    const std::string_view name = text.substr(0, end);
    if (end < text.size() && text[end] == ';') {
        if (const Entity* entity = find_entity(name)) {
            out += entity->text;
            return end + 1;
        }
    }
    for (std::size_t size = name.size(); size > 1; --size) {
        const Entity* entity = find_entity(name.substr(0, size));
        if (entity == nullptr || !entity->bare) continue;
        out += entity->text;
        return size;
    }
    return 0;
}

}  // namespace

std::string unescape_html(std::string_view text) {
    std::string out;
    for (std::size_t start = text.find('&'); start != std::string_view::npos; start = text.find('&')) {
        out += text.substr(0, start);
        text.remove_prefix(start + 1);
        const std::size_t used = text.starts_with('#') ? append_numeric(text, out) : append_named(text, out);
        if (used == 0) out += '&';
        text.remove_prefix(used);
    }
    out += text;
    return out;
}

std::string collapse_white_space(std::string_view text) {
    std::string out;
    bool space = false;
    for (std::size_t at = 0; at < text.size();) {
        const char32_t code = next_character(text, at);
        if (is_white_space(code) || (code >= 0x1C && code <= 0x1F)) {
            space = !out.empty();
            continue;
        }
        if (space) out += ' ';
        space = false;
        append_character(code, out);
    }
    return out;
}

std::string clean_prompt(std::string_view text) {
    return collapse_white_space(unescape_html(unescape_html(text)));
}

}  // namespace aerogel
