// PCRE2's search, with one limit for all searches in a text.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/text/pattern.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <array>
#include <cstdint>
#include <limits>
#include <new>

#include "aerogel/error.h"
#include "base/cancellation.h"
#include "core/text.h"
#include "model/text/translated_pattern.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr std::size_t kLongestPattern = 4096;
constexpr std::uint32_t kNesting = 100;
constexpr std::uint32_t kKibibytes = 200'000;  // of ways back, in one search
// What may be done on a text: a step is an item of the pattern that is tried, or a byte that one runs over.
// The patterns of known tokenizers take some ten steps a byte.
constexpr std::uint64_t kSteps = 10'000'000;
constexpr std::uint64_t kStepsPerByte = 100;
constexpr std::uint64_t kStepsBetweenQuestions = 4096;

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

// PCRE2's own limits begin anew at every place of the text, and do not see the characters that one item runs
// over. Callouts, which PCRE2 makes before every item, see both; and without its look ahead for a start,
// which may run over the whole text at every search, there is one at every place.
struct Budget {
    std::uint64_t steps = 0;
    std::uint64_t most = 0;
    std::uint64_t next_question = 0;
    std::size_t place = 0;
    bool stopped = false;  // by a request
};

int spend(pcre2_callout_block* now, void* data) {
    Budget& budget = *static_cast<Budget*>(data);
    const std::size_t place = now->current_position;
    budget.steps += 1 + (place > budget.place ? place - budget.place : 0);
    budget.place = place;
    if (budget.steps >= budget.next_question) {
        budget.next_question = budget.steps + kStepsBetweenQuestions;
        budget.stopped = cancelled();  // an exception must not pass through PCRE2
    }
    return budget.stopped || budget.steps > budget.most ? PCRE2_ERROR_CALLOUT : 0;
}

}  // namespace

struct Pattern::Program {
    Program() = default;
    Program(const Program&) = delete;
    Program& operator=(const Program&) = delete;
    ~Program() { pcre2_code_free(compiled); }

    std::string source;
    pcre2_code* compiled = nullptr;
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
    pcre2_set_newline(limits.get(), PCRE2_NEWLINE_LF);  // whatever the library was built for
    auto program = std::make_shared<Program>();
    const std::string words = translated_pattern(expression, where);
    int code = 0;
    PCRE2_SIZE place = 0;
    // Lines begin and end within the text, as with Oniguruma.
    constexpr std::uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C |
                                       PCRE2_AUTO_CALLOUT | PCRE2_NO_START_OPTIMIZE;
    program->compiled = pcre2_compile(bytes_of(words), words.size(), kOptions, &code, &place, limits.get());
    if (program->compiled == nullptr) {
        throw InvalidArgument(fmt::format("{}: the pattern {} is not valid: {}", where, in_quotes(expression),
                                          message_of(code)));
    }
    program->source = std::move(expression);
    program_ = std::move(program);
}

std::vector<Pattern::Part> Pattern::split(std::string_view text) const {
    const std::unique_ptr<pcre2_match_data, Freeing<pcre2_match_data_free>> found(
        pcre2_match_data_create(1, nullptr));
    const std::unique_ptr<pcre2_match_context, Freeing<pcre2_match_context_free>> limits(
        pcre2_match_context_create(nullptr));
    if (found == nullptr || limits == nullptr) throw std::bad_alloc();
    Budget budget;
    budget.most = kSteps + kStepsPerByte * text.size();
    pcre2_set_callout(limits.get(), spend, &budget);
    pcre2_set_match_limit(limits.get(), std::numeric_limits<std::uint32_t>::max());
    pcre2_set_heap_limit(limits.get(), kKibibytes);

    std::vector<Part> parts;
    std::size_t done = 0;
    std::size_t from = 0;
    while (from <= text.size()) {
        budget.place = from;
        const int code = pcre2_match(program_->compiled, bytes_of(text), text.size(), from,
                                     PCRE2_NO_UTF_CHECK, found.get(), limits.get());
        if (code == PCRE2_ERROR_NOMATCH) break;
        if (code == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
        if (budget.stopped) stop_if_cancelled();
        if (code < 0) {
            throw InvalidArgument(fmt::format(
                "[tokenizer] the pattern {} cannot be searched in this text: {}", in_quotes(program_->source),
                code == PCRE2_ERROR_CALLOUT ? "too many steps" : message_of(code)));
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
