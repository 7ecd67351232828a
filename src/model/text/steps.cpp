// One overload per step.
#include "model/text/steps.h"

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "aerogel/error.h"
#include "base/cancellation.h"
#include "model/text/unicode.h"

namespace aerogel {
namespace {

constexpr std::string_view kVisibleSpace = "\xE2\x96\x81";  // U+2581

// Steps that write more than they read could go on for ever: a becomes aa, and again.
void check_size(std::size_t bytes, std::size_t most) {
    if (bytes > most) {
        throw InvalidArgument(fmt::format(
            "[tokenizer] the steps of the tokenizer must not make a text longer than {} bytes", most));
    }
}

std::string run_step(const Nfc&, const std::string& text, std::size_t) {
    return to_nfc(text);
}

std::string run_step(const CharacterMap& map, const std::string& text, std::size_t most) {
    return map.replace_clusters(text, most);
}

std::string run_step(const Strip& strip, const std::string& text, std::size_t) {
    std::size_t begin = 0;
    std::size_t end = 0;  // behind the last character that is no space
    bool at_front = true;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t here = at;
        if (is_white_space(next_character(text, at))) continue;
        if (std::exchange(at_front, false)) begin = here;
        end = at;
    }
    if (at_front) begin = text.size();  // nothing but spaces
    if (!strip.left) begin = 0;
    if (!strip.right) end = text.size();
    return begin < end ? text.substr(begin, end - begin) : "";
}

std::string run_step(const Replace& replace, const std::string& text, std::size_t most) {
    std::string out;
    for (const Pattern::Part& part : replace.pattern.split(text)) {
        out += part.matches ? replace.content : text.substr(part.begin, part.end - part.begin);
        check_size(out.size(), most);
    }
    return out;
}

// The next characters of a text and what they become.
CharacterMap::Rule first_rule(const SentencePieceNormalizer& step, std::string_view text) {
    std::size_t untouched = 0;
    step.untouched.longest(text, untouched);
    if (untouched > 0) return {untouched, text.substr(0, untouched)};
    if (const auto rule = step.map.longest(text)) return *rule;
    std::size_t bytes = 0;
    next_character(text, bytes);
    return {bytes, text.substr(0, bytes)};
}

// SentencePiece's Normalizer::Normalize.
std::string run_step(const SentencePieceNormalizer& step, const std::string& whole, std::size_t most) {
    const std::string_view space = step.escape_whitespaces ? kVisibleSpace : " ";
    std::string_view text = whole;
    while (step.remove_extra_whitespaces && !text.empty()) {
        const auto rule = first_rule(step, text);
        if (rule.replacement != " ") break;
        text.remove_prefix(rule.bytes);
    }
    if (text.empty()) return "";
    std::string out;
    if (step.add_dummy_prefix && !step.suffix) out += space;
    bool after_space = step.remove_extra_whitespaces;
    while (!text.empty()) {
        if (text.size() % kBytesBetweenQuestions == 0) stop_if_cancelled();
        const auto rule = first_rule(step, text);
        std::string_view added = rule.replacement;
        while (after_space && added.starts_with(' ')) added.remove_prefix(1);
        for (const char c : added) {
            if (c == ' ') {
                out += space;
            } else {
                out += c;
            }
        }
        if (!added.empty()) after_space = added.ends_with(' ');
        if (!step.remove_extra_whitespaces) after_space = false;
        text.remove_prefix(rule.bytes);
        check_size(out.size(), most);
    }
    while (step.remove_extra_whitespaces && out.ends_with(space)) out.resize(out.size() - space.size());
    if (step.add_dummy_prefix && step.suffix) out += space;
    return out;
}

// A pre-tokenizer appends the words of a word; `at_start` becomes false when the text no longer begins with
// the first.
using Words = std::vector<std::string>;

void add_word(std::string_view word, Words& words) {
    if (!word.empty()) words.emplace_back(word);
}

void cut(const Pattern& pattern, std::string_view text, Words& words) {
    for (const Pattern::Part& part : pattern.split(text)) {
        add_word(text.substr(part.begin, part.end - part.begin), words);
    }
}

void run_step(const Split& split, const std::string& text, bool, Words& words) {
    cut(split.pattern, text, words);
}

void run_step(const ByteLevel& level, std::string text, bool, Words& words) {
    if (level.add_prefix_space && !text.starts_with(' ')) text.insert(0, 1, ' ');
    Words cut_words;
    if (level.pattern) {
        cut(*level.pattern, text, cut_words);
    } else {
        cut_words.push_back(std::move(text));
    }
    for (const std::string& word : cut_words) {
        std::string& out = words.emplace_back();
        out.reserve(2 * word.size());
        for (const char byte : word) out += byte_characters()[static_cast<unsigned char>(byte)];
    }
}

void run_step(const Metaspace& step, const std::string& text, bool at_start, Words& words) {
    std::string out;
    for (const char c : text) {
        if (c == ' ') {
            out += step.replacement;
        } else {
            out += c;
        }
    }
    const bool prepend =
        step.prepend == Metaspace::Prepend::always || (step.prepend == Metaspace::Prepend::first && at_start);
    if (prepend && !out.starts_with(step.replacement)) out.insert(0, step.replacement);
    if (!step.split) return add_word(out, words);
    std::size_t begin = 0;
    while (begin < out.size()) {
        const std::size_t end = std::min(out.find(step.replacement, begin + 1), out.size());
        words.push_back(out.substr(begin, end - begin));
        begin = end;
    }
}

void run_step(const WhitespaceSplit&, const std::string& text, bool, Words& words) {
    std::size_t begin = 0;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t here = at;
        if (!is_white_space(next_character(text, at))) continue;
        add_word(std::string_view(text).substr(begin, here - begin), words);
        begin = at;
    }
    add_word(std::string_view(text).substr(begin), words);
}

// GPT-2's bytes_to_unicode: printable bytes are themselves, the others follow from U+0100.
std::array<std::string, 256> make_byte_characters() {
    std::array<std::string, 256> characters;
    char32_t next = 0x100;
    for (char32_t byte = 0; byte < 256; ++byte) {
        const bool printable =
            (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
        append_character(printable ? byte : next++, characters[byte]);
    }
    return characters;
}

}  // namespace

std::string normalize(const std::vector<Normalizer>& steps, std::string text, std::size_t most) {
    for (const Normalizer& step : steps) {
        stop_if_cancelled();
        text = std::visit([&](const auto& known) { return run_step(known, text, most); }, step);
        check_size(text.size(), most);
    }
    return text;
}

std::vector<std::string> pre_tokenize(const std::vector<PreTokenizer>& steps, const std::string& text,
                                      bool at_start, std::size_t most) {
    Words words;
    add_word(text, words);
    for (const PreTokenizer& step : steps) {
        Words next;
        std::size_t bytes = 0;
        for (std::string& word : words) {
            std::size_t known_words = next.size();
            std::visit([&](const auto& known) { run_step(known, std::move(word), at_start, next); }, step);
            for (; known_words < next.size(); ++known_words) bytes += next[known_words].size();
            check_size(bytes, most);
        }
        at_start = false;  // not known any more
        words = std::move(next);
    }
    return words;
}

const std::array<std::string, 256>& byte_characters() {
    static const std::array<std::string, 256> kCharacters = make_byte_characters();
    return kCharacters;
}

std::string bytes_of_token(std::string_view token) {
    static const std::unordered_map<std::string_view, char> kBytes = [] {
        std::unordered_map<std::string_view, char> bytes;
        for (std::size_t i = 0; i < 256; ++i) bytes.emplace(byte_characters()[i], static_cast<char>(i));
        return bytes;
    }();
    std::string bytes;
    for (std::size_t at = 0; at < token.size();) {
        const std::size_t begin = at;
        next_character(token, at);
        const auto found = kBytes.find(token.substr(begin, at - begin));
        if (found == kBytes.end()) return std::string(token);
        bytes += found->second;
    }
    return bytes;
}

}  // namespace aerogel
