// PCRE2's search, with limits of a search's own. An expression is first said in PCRE2's words: what both
// engines know means the same, but for the characters behind \s, \p{L} and \p{N}, which belong to a version
// of Unicode.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/text/pattern.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <new>
#include <span>

#include "aerogel/error.h"
#include "core/text.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr std::size_t kLongestPattern = 4096;
constexpr std::uint32_t kNesting = 100;
constexpr std::uint32_t kSteps = 20'000'000;  // of going back, in one search
constexpr std::uint32_t kKibibytes = 200'000;

// White_Space of Unicode. To PCRE2 the Mongolian vowel separator U+180E is one, too.
constexpr std::string_view kSpaces =
    "\\x{9}-\\x{D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{"
    "3000}";

template <auto kFree>
struct Freeing {
    template <typename T>
    void operator()(T* object) const {
        kFree(object);
    }
};

PCRE2_SPTR bytes_of(std::string_view text) {
    return reinterpret_cast<PCRE2_SPTR>(text.data());
}

std::string message_of(int code) {
    std::array<PCRE2_UCHAR, 256> text{};
    const int length = pcre2_get_error_message(code, text.data(), text.size());
    return length < 0
               ? fmt::format("error {}", code)
               : printable({reinterpret_cast<const char*>(text.data()), static_cast<std::size_t>(length)});
}

std::string ranges_of(std::span<const CodeRange> ranges) {
    std::string text;
    for (const CodeRange range : ranges) {
        text += fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", static_cast<unsigned>(range.first),
                            static_cast<unsigned>(range.last));
    }
    return text;
}

// The expression in PCRE2's words.
class Translation {
  public:
    Translation(std::string_view expression, const std::string& where) : from_(expression), where_(where) {
        while (at_ < from_.size()) step();
    }
    std::string text() && { return std::move(to_); }

  private:
    [[noreturn]] void refuse(const std::string& what) const {
        throw Unsupported(
            fmt::format("{}: {} in the pattern {} is not supported", where_, what, in_quotes(from_)));
    }

    void step() {
        const std::string_view rest = from_.substr(at_);
        if (rest[0] == '\\') return escape(rest);
        if (class_ != 0 && rest[0] == '[' && !rest.starts_with("[:")) refuse("a class in a class");
        if (class_ != 0 && rest.starts_with("&&")) refuse("&&");
        if (class_ == 0 && rest.starts_with("(*")) refuse("(*");
        if (class_ == 0 && rest.starts_with("(?")) flags(rest.substr(2));
        if (rest[0] == '[') {
            if (class_ == 0) {
                class_ = 1;
                // A bracket that comes first stands for itself.
                std::size_t end = rest.starts_with("[^") ? 2 : 1;
                if (rest.size() > end && rest[end] == ']') ++end;
                return take(end);
            }
            const std::size_t end = rest.find(":]");  // [:alpha:]
            if (end != rest.npos) return take(end + 2);
        }
        if (rest[0] == ']') class_ = 0;
        take(1);
    }

    // (?i:...) and its like; m means another thing to either side.
    void flags(std::string_view rest) const {
        const std::size_t end = rest.find_first_not_of("imsxnJUadu-^");
        if (end == rest.npos || end == 0 || (rest[end] != ':' && rest[end] != ')')) return;
        for (const char flag : rest.substr(0, end))
            if (flag != 'i' && flag != 'x' && flag != '-') refuse(fmt::format("the flag {}", flag));
    }

    void take(std::size_t count) {
        to_ += from_.substr(at_, count);
        at_ += count;
    }

    void put(std::size_t length, std::string_view inside) {
        to_ += class_ != 0 ? std::string(inside) : fmt::format("[{}]", inside);
        at_ += length;
    }

    void escape(std::string_view rest) {
        if (rest.starts_with("\\p{L}")) return put(5, "\\p{L}" + ranges_of(new_letters()));
        if (rest.starts_with("\\p{N}")) return put(5, "\\p{N}" + ranges_of(new_numbers()));
        if (rest.starts_with("\\s")) return put(2, kSpaces);
        if (rest.starts_with("\\S") && class_ == 0) {
            to_ += fmt::format("[^{}]", kSpaces);
            at_ += 2;
            return;
        }
        // Hexadecimal digits to the one, blanks to the other; the rest is PCRE2's alone or differs in detail.
        if (rest.size() > 1 && std::string_view("hHRXCKGgkNOyYQE").find(rest[1]) != std::string_view::npos)
            refuse(std::string(rest.substr(0, 2)));
        if (rest.starts_with("\\S")) refuse("\\S in a class");
        take(rest.size() > 1 ? 2 : 1);
    }

    std::string_view from_;
    const std::string& where_;
    std::size_t at_ = 0;
    int class_ = 0;  // 1 inside of [...]
    std::string to_;
};

}  // namespace

struct Pattern::Program {
    std::string source;
    std::shared_ptr<const pcre2_code> compiled;
};

Pattern::Pattern(std::string expression, const std::string& where) {
    if (expression.size() > kLongestPattern) {
        throw InvalidArgument(fmt::format("{}: a pattern must be at most {} bytes long, got {}", where,
                                          kLongestPattern, expression.size()));
    }
    const std::unique_ptr<pcre2_compile_context, Freeing<pcre2_compile_context_free>> limits(
        pcre2_compile_context_create(nullptr));
    if (limits == nullptr) throw std::bad_alloc();
    pcre2_set_parens_nest_limit(limits.get(), kNesting);
    auto program = std::make_shared<Program>();
    const std::string words = Translation(expression, where).text();
    int code = 0;
    PCRE2_SIZE place = 0;
    // Lines begin and end within the text, as with Oniguruma.
    pcre2_code* const compiled = pcre2_compile(
        bytes_of(words), words.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C,
        &code, &place, limits.get());
    if (compiled == nullptr) {
        throw InvalidArgument(fmt::format("{}: the pattern {} is not valid: {}", where, in_quotes(expression),
                                          message_of(code)));
    }
    program->compiled = std::shared_ptr<const pcre2_code>(compiled, pcre2_code_free);
    program->source = std::move(expression);
    program_ = std::move(program);
}

std::vector<Pattern::Part> Pattern::split(std::string_view text) const {
    const std::unique_ptr<pcre2_match_data, Freeing<pcre2_match_data_free>> found(
        pcre2_match_data_create(1, nullptr));
    const std::unique_ptr<pcre2_match_context, Freeing<pcre2_match_context_free>> limits(
        pcre2_match_context_create(nullptr));
    if (found == nullptr || limits == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit(limits.get(), kSteps);
    pcre2_set_heap_limit(limits.get(), kKibibytes);

    std::vector<Part> parts;
    std::size_t done = 0;
    std::size_t from = 0;
    while (from <= text.size()) {
        const int code = pcre2_match(program_->compiled.get(), bytes_of(text), text.size(), from,
                                     PCRE2_NO_UTF_CHECK, found.get(), limits.get());
        if (code == PCRE2_ERROR_NOMATCH) break;
        if (code == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
        if (code < 0) {
            throw InvalidArgument(
                fmt::format("[tokenizer] the pattern {} cannot be searched in this text: {}",
                            in_quotes(program_->source), message_of(code)));
        }
        const PCRE2_SIZE* place = pcre2_get_ovector_pointer(found.get());
        const std::size_t first = place[0], last = place[1];
        if (first == last && !parts.empty() && first == done) {  // nothing, right behind a match: no match
            if (from == text.size()) break;
            next_character(text, from);
            continue;
        }
        if (done != first) parts.push_back({done, first, false});
        parts.push_back({first, last, true});
        done = last;
        from = last;
    }
    if (done != text.size()) parts.push_back({done, text.size(), false});
    return parts;
}

}  // namespace aerogel
