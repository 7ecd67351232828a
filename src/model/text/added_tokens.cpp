// The order of steps is that of Hugging Face's AddedVocabulary, odd cases included.
#include "model/text/added_tokens.h"

#include <utf8proc.h>

#include <utility>

#include "base/cancellation.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

// \w: letters, marks, decimal numbers, connecting punctuation and joiners.
bool is_word_character(char32_t code) {
    switch (utf8proc_category(static_cast<utf8proc_int32_t>(code))) {
        case UTF8PROC_CATEGORY_LU:
        case UTF8PROC_CATEGORY_LL:
        case UTF8PROC_CATEGORY_LT:
        case UTF8PROC_CATEGORY_LM:
        case UTF8PROC_CATEGORY_LO:
        case UTF8PROC_CATEGORY_MN:
        case UTF8PROC_CATEGORY_MC:
        case UTF8PROC_CATEGORY_ME:
        case UTF8PROC_CATEGORY_ND:
        case UTF8PROC_CATEGORY_NL:
        case UTF8PROC_CATEGORY_PC:
            return true;
        default:
            return code == 0x200C || code == 0x200D || (code >= 0x24B6 && code <= 0x24E9) ||
                   (code >= 0x1F130 && code <= 0x1F149) || (code >= 0x1F150 && code <= 0x1F169) ||
                   (code >= 0x1F170 && code <= 0x1F189);
    }
}

// The last character of a text that has one.
char32_t last_character(std::string_view text) {
    std::size_t at = text.size() - 1;
    while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80) --at;
    return next_character(text, at);
}

std::size_t space_at_end(std::string_view text) {
    std::size_t bytes = 0;
    while (bytes < text.size()) {
        const std::string_view rest = text.substr(0, text.size() - bytes);
        const char32_t last = last_character(rest);
        if (!is_white_space(last)) break;
        bytes += last < 0x80 ? 1 : last < 0x800 ? 2 : 3;
    }
    return bytes;
}

std::size_t space_at_start(std::string_view text) {
    std::size_t at = 0;
    while (at < text.size()) {
        std::size_t next = at;
        if (!is_white_space(next_character(text, next))) break;
        at = next;
    }
    return at;
}

bool touches_word(std::string_view text, std::size_t begin, std::size_t end) {
    if (begin > 0 && is_word_character(last_character(text.substr(0, begin)))) return true;
    return end < text.size() && is_word_character(next_character(text, end));
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(const std::vector<std::pair<std::string, AddedToken>>& tokens) {
    std::vector<PrefixTable::Word> words;
    for (const auto& [text, token] : tokens) {
        words.emplace_back(text, static_cast<std::int32_t>(tokens_.size()));
        tokens_.push_back(token);
    }
    table_ = PrefixTable(std::move(words));
}

std::vector<TextPiece> AddedTokenFinder::split(std::string_view text) const {
    std::vector<TextPiece> pieces;
    std::size_t done = 0;
    std::size_t space_end = 0;  // of the last white space behind a token
    const auto add_text = [&](std::size_t end) {
        if (done < end) pieces.push_back({std::string(text.substr(done, end - done))});
    };
    for (std::size_t at = 0; at < text.size() && !tokens_.empty();) {
        if (at % kBytesBetweenQuestions == 0) stop_if_cancelled();
        std::size_t bytes = 0;
        const auto number = static_cast<std::size_t>(table_.longest(text.substr(at), bytes));
        if (bytes == 0) {
            ++at;
            continue;
        }
        const AddedToken& token = tokens_[number];
        std::size_t begin = at;
        std::size_t end = at + bytes;
        at = end;
        if (token.single_word && touches_word(text, begin, end)) continue;
        // What is done stays done, and no white space is looked at twice.
        if (token.lstrip && begin > done) begin -= space_at_end(text.substr(done, begin - done));
        if (token.rstrip) {
            if (end > space_end) space_end = end + space_at_start(text.substr(end));
            end = space_end;
        }
        add_text(begin);
        pieces.push_back({"", token.id});
        done = end;
    }
    add_text(text.size());
    return pieces;
}

}  // namespace aerogel
