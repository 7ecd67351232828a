// One pass over the expression that lets through what is known to mean the same to both engines. Nothing is
// taken for granted: a letter behind a backslash, a group or a repetition that is not listed here is refused.
#include "model/text/translated_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "core/text.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr unsigned kMostRepeats =
    1000;  // a repetition that fails early is not seen by the budget of a search

// White_Space of Unicode. To PCRE2 the Mongolian vowel separator U+180E is one, too.
constexpr std::string_view kSpaces =
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{"
    "3000}";

// General categories. Scripts and other properties have other members in PCRE2.
constexpr std::array<std::string_view, 35> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N", "Nd",
    "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "S", "Sm",
    "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Cc", "Cf", "Co", "C"};

constexpr char32_t kFirstKaktovik = 0x1D2C0;  // the new numbers that are no decimal digits

std::string ranges_of(std::span<const CodeRange> ranges, bool decimal = false) {
    std::string text;
    for (const CodeRange range : ranges) {
        if (decimal && range.first == kFirstKaktovik) continue;
        text += fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", static_cast<unsigned>(range.first),
                            static_cast<unsigned>(range.last));
    }
    return text;
}

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_hexadecimal(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

class Translation {
  public:
    Translation(std::string_view expression, const std::string& where) : from_(expression), where_(where) {
        while (at_ < from_.size()) step(from_.substr(at_));
    }
    std::string text() && { return std::move(to_); }

  private:
    // What may follow: a repetition only behind what can be repeated.
    enum class Before { nothing, item };

    [[noreturn]] void refuse(std::string_view what) const {
        throw Unsupported(fmt::format("{}: {} in the pattern {} is not supported", where_, in_quotes(what),
                                      in_quotes(from_)));
    }

    void take(std::size_t bytes, Before next = Before::item) { put(from_.substr(at_, bytes), bytes, next); }
    void put(std::string_view words, std::size_t bytes, Before next = Before::item) {
        to_ += words;
        at_ += bytes;
        before_ = next;
    }

    void step(std::string_view rest) {
        switch (rest[0]) {
            case '(':
                return open_group(rest);
            case ')': {
                const bool repeatable = groups_.empty() || groups_.back();
                if (!groups_.empty()) groups_.pop_back();
                return take(1, repeatable ? Before::item : Before::nothing);
            }
            case '[':
                return character_class(rest);
            case '\\':
                return escape(rest, false);
            case '*':
            case '+':
            case '?':
            case '{':
                return repetition(rest);
            case '|':
            case '^':
            case '$':
                return take(1, Before::nothing);
            default:
                return take(first_character(rest).bytes);
        }
    }

    void open_group(std::string_view rest) {
        for (const std::string_view look : {"(?=", "(?!", "(?<=", "(?<!"}) {
            if (!rest.starts_with(look)) continue;
            groups_.push_back(false);
            return take(look.size(), Before::nothing);
        }
        if (rest.starts_with("(?i:")) return any_case(rest);
        std::size_t bytes = 1;
        if (rest.starts_with("(?:") || rest.starts_with("(?>")) bytes = 3;
        if (bytes == 1 && rest.starts_with("(?")) refuse(rest.substr(0, 3));
        groups_.push_back(true);
        take(bytes, Before::nothing);
    }

    // Upper and lower case alike, for letters of ASCII alone; two letters in a row may be one character to
    // Oniguruma (ss and U+00DF).
    void any_case(std::string_view rest) {
        const std::string_view group = rest.substr(0, std::min(rest.find(')'), rest.size() - 1) + 1);
        std::string lower;
        bool in_class = false;
        for (const char c : group.substr(4, group.size() - 5)) {
            if (!is_letter(c) && !is_digit(c) && std::string_view("'|[] ").find(c) == std::string_view::npos)
                refuse(group);
            if (c == '[' && std::exchange(in_class, true)) refuse(group);
            if (c == ']') in_class = false;
            lower += static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
        }
        for (const char* pair : {"ss", "st", "ff", "fi", "fl"})
            if (lower.find(pair) != std::string::npos) refuse(group);
        take(group.size());
    }

    // * + ? {n} {n,} {,m} {n,m}; behind the first three and the last ? for few, behind the first three + for
    // no way back.
    void repetition(std::string_view rest) {
        if (before_ == Before::nothing) refuse(rest.substr(0, 1));
        std::string words(1, rest[0]);
        std::size_t bytes = 1;
        std::string_view suffixes = "?+";
        if (rest[0] == '{') {
            const std::size_t comma = number_end(rest, 1);
            const bool range = comma < rest.size() && rest[comma] == ',';
            const std::size_t end = range ? number_end(rest, comma + 1) : comma;
            if (end >= rest.size() || rest[end] != '}' || end - 1 <= (range ? 1U : 0U)) refuse("{");
            bytes = end + 1;
            words = rest[1] == ',' ? fmt::format("{{0{}", rest.substr(1, end)) : rest.substr(0, bytes);
            suffixes = range ? "?" : "";
        }
        const auto follows = [&](std::string_view some) {
            return bytes < rest.size() && some.find(rest[bytes]) != std::string_view::npos;
        };
        if (follows(suffixes)) words += rest[bytes++];
        if (follows("*+?{")) refuse(rest.substr(0, bytes + 1));
        put(words, bytes, Before::nothing);
    }

    std::size_t number_end(std::string_view rest, std::size_t at) const {
        unsigned number = 0;
        for (; at < rest.size() && is_digit(rest[at]); ++at) {
            number = number * 10 + static_cast<unsigned>(rest[at] - '0');
            if (number > kMostRepeats) refuse(rest.substr(0, at + 1));
        }
        return at;
    }

    void character_class(std::string_view rest) {
        take(rest.starts_with("[^") ? 2 : 1);
        if (at_ < from_.size() && from_[at_] == ']') refuse("[]");
        while (at_ < from_.size()) {
            rest = from_.substr(at_);
            if (rest[0] == ']') return take(1);
            const bool one = class_character(rest);
            const bool range = at_ + 1 < from_.size() && from_[at_] == '-' && from_[at_ + 1] != ']';
            if (!range) continue;
            if (!one || rest[0] == '-') refuse("-");
            take(1);
            if (from_[at_] == '-' || !class_character(from_.substr(at_))) refuse("-");
            // [a-c-e] is read in different ways.
            if (at_ + 1 < from_.size() && from_[at_] == '-' && from_[at_ + 1] != ']') refuse("-");
        }
        throw InvalidArgument(
            fmt::format("{}: the pattern {} is not valid: a class does not end", where_, in_quotes(from_)));
    }

    // Takes a member of a class; true when it is a single character.
    bool class_character(std::string_view rest) {
        if (rest[0] == '[') refuse("[ in a class");
        if (rest.starts_with("&&")) refuse("&&");
        if (rest[0] != '\\') {
            take(first_character(rest).bytes);
            return true;
        }
        escape(rest, true);
        return std::string_view("sdp").find(rest[1]) == std::string_view::npos;
    }

    void set_of(std::string_view members, std::size_t bytes, bool in_class) {
        in_class ? put(members, bytes) : put(fmt::format("[{}]", members), bytes);
    }

    void escape(std::string_view rest, bool in_class) {
        if (rest.size() < 2) {
            throw InvalidArgument(fmt::format("{}: the pattern {} is not valid: it ends with a backslash",
                                              where_, in_quotes(from_)));
        }
        const char c = rest[1];
        if (c == 's') return set_of(kSpaces, 2, in_class);
        if (c == 'd') return set_of(decimal_digits(), 2, in_class);
        if (c == 'D' && !in_class) return put(fmt::format("[^{}]", decimal_digits()), 2);
        if (c == 'S' && !in_class) return put(fmt::format("[^{}]", kSpaces), 2);
        if (c == 'p' || c == 'P') return category(rest, in_class);
        if (c == 'x' || c == 'u') return code(rest);
        if (c == 'v') return put("\\x{B}", 2);
        if (std::string_view("rntfae").find(c) != std::string_view::npos) return take(2);
        if (!in_class && std::string_view("AzZ").find(c) != std::string_view::npos)
            return take(2, Before::nothing);
        if (is_letter(c) || is_digit(c)) refuse(rest.substr(0, 2));
        take(1 + first_character(rest.substr(1)).bytes);
    }

    static std::string decimal_digits() { return "\\p{Nd}" + ranges_of(new_numbers(), true); }

    void category(std::string_view rest, bool in_class) {
        const std::size_t end = rest.find('}');
        const std::string_view name = rest.substr(0, end == rest.npos ? rest.size() : end + 1);
        if (end == rest.npos || rest[2] != '{') refuse(name);
        if (std::find(kCategories.begin(), kCategories.end(), rest.substr(3, end - 3)) == kCategories.end())
            refuse(name);
        std::string members = fmt::format("\\p{}", rest.substr(2, end - 1));
        if (rest.substr(3, end - 3) == "L") members += ranges_of(new_letters());
        if (rest.substr(3, end - 3) == "Nd") members = decimal_digits();
        if (rest.substr(3, end - 3) == "N") members += ranges_of(new_numbers());
        if (rest[1] == 'p') return set_of(members, end + 1, in_class);
        if (in_class) refuse(name);
        put(fmt::format("[^{}]", members), end + 1);
    }

    // \xHH (of ASCII), \x{H...}, \uHHHH
    void code(std::string_view rest) {
        const bool braces = rest.starts_with("\\x{");
        const std::size_t begin = braces ? 3 : 2;
        std::size_t end = begin;
        while (end < rest.size() &&
               end - begin < (rest[1] == 'u' ? 4U
                              : braces       ? 6U
                                             : 2U) &&
               is_hexadecimal(rest[end]))
            ++end;
        const std::string_view digits = rest.substr(begin, end - begin);
        const bool whole =
            braces ? !digits.empty() && end < rest.size() && rest[end] == '}'
                   : digits.size() == (rest[1] == 'u' ? 4U : 2U) && (rest[1] == 'u' || digits[0] < '8');
        if (!whole) refuse(rest.substr(0, end));
        put(fmt::format("\\x{{{}}}", digits), end + (braces ? 1 : 0));
    }

    std::string_view from_;
    const std::string& where_;
    std::size_t at_ = 0;
    Before before_ = Before::nothing;
    std::vector<bool> groups_;  // those that are open; false for a look to either side
    std::string to_;
};

}  // namespace

std::string translated_pattern(std::string_view expression, const std::string& where) {
    return Translation(expression, where).text();
}

}  // namespace aerogel
