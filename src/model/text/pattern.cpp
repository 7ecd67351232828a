// Oniguruma's search, with limits of a search's own; its global settings are set once.
#include "model/text/pattern.h"

#include <fmt/format.h>
#include <oniguruma.h>

#include <array>
#include <span>

#include "aerogel/error.h"
#include "core/text.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr std::size_t kLongestPattern = 4096;
constexpr unsigned kNesting = 100;
constexpr unsigned long kSteps = 20'000'000;   // going back, in one search
constexpr unsigned kStackEntries = 4'000'000;  // of some 50 bytes

const UChar* bytes_of(std::string_view text) {
    return reinterpret_cast<const UChar*>(text.data());
}

// Everything of the default syntax but callouts, which are programs.
OnigSyntaxType make_syntax() {
    OnigEncoding encodings[] = {ONIG_ENCODING_UTF8};
    onig_initialize(encodings, 1);
    onig_set_parse_depth_limit(kNesting);
    OnigSyntaxType syntax;
    onig_copy_syntax(&syntax, ONIG_SYNTAX_DEFAULT);
    constexpr unsigned kCallouts =
        ONIG_SYN_OP2_QMARK_BRACE_CALLOUT_CONTENTS | ONIG_SYN_OP2_ASTERISK_CALLOUT_NAME;
    onig_set_syntax_op2(&syntax, onig_get_syntax_op2(&syntax) & ~kCallouts);
    return syntax;
}

std::string message_of(int code, OnigErrorInfo* info) {
    std::array<UChar, ONIG_MAX_ERROR_MESSAGE_LEN> text{};
    const int length = info != nullptr ? onig_error_code_to_str(text.data(), code, info)
                                       : onig_error_code_to_str(text.data(), code);
    return printable({reinterpret_cast<const char*>(text.data()), static_cast<std::size_t>(length)});
}

void append_ranges(std::span<const CodeRange> ranges, std::string& expression) {
    for (const CodeRange range : ranges) {
        expression += fmt::format("\\x{{{:X}}}-\\x{{{:X}}}", static_cast<unsigned>(range.first),
                                  static_cast<unsigned>(range.last));
    }
}

// \p{L} becomes [\p{L}...] with the letters that this version of Oniguruma may not know, so that the ids do
// not depend on it; a class may stand inside a class.
std::string with_new_characters(std::string_view expression) {
    std::string out;
    for (std::size_t i = 0; i < expression.size(); ++i) {
        const std::string_view rest = expression.substr(i);
        const bool letters = rest.starts_with("\\p{L}");
        if (letters || rest.starts_with("\\p{N}")) {
            out += letters ? "[\\p{L}" : "[\\p{N}";
            append_ranges(letters ? new_letters() : new_numbers(), out);
            out += ']';
            i += 4;
            continue;
        }
        out += expression[i];
        if (expression[i] == '\\' && i + 1 < expression.size()) out += expression[++i];
    }
    return out;
}

}  // namespace

struct Pattern::Program {
    Program() = default;
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    ~Program() {
        if (compiled != nullptr) onig_free(compiled);
    }
    std::string source;
    regex_t* compiled = nullptr;
};

Pattern::Pattern(std::string expression, const std::string& where) {
    static OnigSyntaxType syntax = make_syntax();
    if (expression.size() > kLongestPattern) {
        throw InvalidArgument(fmt::format("{}: a pattern must be at most {} bytes long, got {}", where,
                                          kLongestPattern, expression.size()));
    }
    auto program = std::make_shared<Program>();
    const std::string known = with_new_characters(expression);
    OnigErrorInfo info{};
    const int code = onig_new(&program->compiled, bytes_of(known), bytes_of(known) + known.size(),
                              ONIG_OPTION_NONE, ONIG_ENCODING_UTF8, &syntax, &info);
    if (code != ONIG_NORMAL) {
        throw InvalidArgument(fmt::format("{}: the pattern {} is not valid: {}", where, in_quotes(expression),
                                          message_of(code, &info)));
    }
    program->source = std::move(expression);
    program_ = std::move(program);
}

std::vector<Pattern::Part> Pattern::split(std::string_view text) const {
    const auto free_region = [](OnigRegion* region) { onig_region_free(region, 1); };
    const std::unique_ptr<OnigRegion, decltype(free_region)> region(onig_region_new(), free_region);
    const std::unique_ptr<OnigMatchParam, decltype(&onig_free_match_param)> limits(onig_new_match_param(),
                                                                                   &onig_free_match_param);
    if (region == nullptr || limits == nullptr) throw std::bad_alloc();
    onig_initialize_match_param(limits.get());
    onig_set_match_stack_limit_size_of_match_param(limits.get(), kStackEntries);
    onig_set_retry_limit_in_match_of_match_param(limits.get(), kSteps);
    onig_set_retry_limit_in_search_of_match_param(limits.get(), kSteps);

    const UChar* const begin = bytes_of(text);
    const UChar* const end = begin + text.size();
    std::vector<Part> parts;
    std::size_t done = 0;
    std::size_t from = 0;
    while (from <= text.size()) {
        const int found = onig_search_with_param(program_->compiled, begin, end, begin + from, end,
                                                 region.get(), ONIG_OPTION_NONE, limits.get());
        if (found == ONIG_MISMATCH) break;
        if (found < 0) {
            throw InvalidArgument(
                fmt::format("[tokenizer] the pattern {} cannot be searched in this text: {}",
                            in_quotes(program_->source), message_of(found, nullptr)));
        }
        const auto first = static_cast<std::size_t>(region->beg[0]);
        const auto last = static_cast<std::size_t>(region->end[0]);
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
