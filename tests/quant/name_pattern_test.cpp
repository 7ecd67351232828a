// Patterns with braces, compared with all the patterns that they stand for, written out and tried one by one;
// and those that would be too many to write out.
#include "quant/name_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>

#include "aerogel/error.h"

namespace aerogel {
namespace {

// Where the brace at `open` closes, and the commas between them at the same depth.
std::size_t closing_brace(const std::string& pattern, std::size_t open, std::vector<std::size_t>& commas) {
    int depth = 0;
    for (std::size_t i = open; i < pattern.size(); ++i) {
        if (pattern[i] == '{') ++depth;
        if (pattern[i] == ',' && depth == 1) commas.push_back(i);
        if (pattern[i] == '}' && --depth == 0) return i;
    }
    throw InvalidArgument("open");
}

void expand(const std::string& pattern, std::vector<std::string>& out) {
    const std::size_t open = pattern.find('{');
    if (open == std::string::npos) return out.push_back(pattern);
    std::vector<std::size_t> cuts = {open};
    const std::size_t close = closing_brace(pattern, open, cuts);
    cuts.push_back(close);
    for (std::size_t i = 0; i + 1 < cuts.size(); ++i) {
        expand(pattern.substr(0, open) + pattern.substr(cuts[i] + 1, cuts[i + 1] - cuts[i] - 1) +
                   pattern.substr(close + 1),
               out);
    }
}

// How long the set at pattern[at] is and whether it takes `c`; a '[' that is never closed stands for itself.
std::pair<std::size_t, bool> set_at(const std::string& pattern, std::size_t at, char c) {
    std::size_t i = at + 1;
    const bool negated = i < pattern.size() && (pattern[i] == '!' || pattern[i] == '^');
    if (negated) ++i;
    const std::size_t close = pattern.find(']', i + 1);
    if (close == std::string::npos) return {1, c == '['};
    bool found = false;
    for (; i < close; ++i) {
        if (i + 2 < close && pattern[i + 1] == '-') {
            found = found || (pattern[i] <= c && c <= pattern[i + 2]);
            i += 2;
        } else {
            found = found || pattern[i] == c;
        }
    }
    return {close + 1 - at, found != negated};
}

bool plain_matches(const std::string& pattern, std::size_t p, const std::string& name, std::size_t n) {
    if (p == pattern.size()) return n == name.size();
    if (pattern[p] == '*') {
        return plain_matches(pattern, p + 1, name, n) ||
               (n < name.size() && plain_matches(pattern, p, name, n + 1));
    }
    if (n == name.size()) return false;
    if (pattern[p] == '[') {
        const auto [length, taken] = set_at(pattern, p, name[n]);
        return taken && plain_matches(pattern, p + length, name, n + 1);
    }
    return (pattern[p] == '?' || pattern[p] == name[n]) && plain_matches(pattern, p + 1, name, n + 1);
}

// nullopt: the pattern is refused.
std::optional<bool> expected(const std::string& pattern, const std::string& name) {
    std::vector<std::string> plain;
    try {
        expand(pattern, plain);
    } catch (const InvalidArgument&) {
        return std::nullopt;
    }
    return std::any_of(plain.begin(), plain.end(),
                       [&](const std::string& one) { return plain_matches(one, 0, name, 0); });
}

std::optional<bool> found(const std::string& pattern, const std::string& name) {
    try {
        return NamePattern(pattern).matches(name);
    } catch (const InvalidArgument&) {
        return std::nullopt;
    }
}

std::string any_text(std::mt19937& random, std::string_view letters, std::size_t longest) {
    std::string text(random() % (longest + 1), ' ');
    for (char& c : text) c = letters[random() % letters.size()];
    return text;
}

TEST(NamePattern, TheSameAsAllPatternsWrittenOut) {
    std::mt19937 random(1);
    int matched = 0, refused = 0;
    for (int i = 0; i < 300'000; ++i) {
        const std::string pattern = any_text(random, "ab{},{},[]!-^*?ab", 12);
        const std::string name = any_text(random, "ab,]![-}", 4);
        const auto want = expected(pattern, name);
        ASSERT_EQ(found(pattern, name), want) << pattern << " and " << name;
        matched += want.value_or(false) ? 1 : 0;
        refused += want ? 0 : 1;
    }
    EXPECT_GT(matched, 5'000);
    EXPECT_GT(refused, 5'000);
}

TEST(NamePattern, SetsOfAllKinds) {
    std::mt19937 random(2);
    int matched = 0;
    for (int i = 0; i < 300'000; ++i) {
        const std::string pattern =
            "[" + any_text(random, "abc!^-]{,}", 8) + "]" + any_text(random, "ab]*", 3);
        const std::string name = any_text(random, "abcd]-!", 3);
        const auto want = expected(pattern, name);
        ASSERT_EQ(found(pattern, name), want) << pattern << " and " << name;
        matched += want.value_or(false) ? 1 : 0;
    }
    EXPECT_GT(matched, 5'000);
}

std::string repeated(const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
}

TEST(NamePattern, MoreCombinationsThanCouldBeWrittenOut) {
    const NamePattern letters(repeated("{a,b}", 60));
    EXPECT_TRUE(letters.matches(repeated("ab", 30)));
    EXPECT_FALSE(letters.matches(repeated("ab", 29)));
    EXPECT_FALSE(letters.matches(repeated("ab", 29) + "ac"));
    EXPECT_TRUE(NamePattern(repeated("{}", 10'000)).matches(""));
    EXPECT_FALSE(NamePattern(repeated("{}", 10'000)).matches("a"));
    EXPECT_TRUE(NamePattern(repeated("{", 9'000) + "a" + repeated("}", 9'000)).matches("a"));
    EXPECT_TRUE(NamePattern(repeated("{a,", 5'000) + repeated("}", 5'000)).matches("a"));
    EXPECT_TRUE(NamePattern(repeated("{,*}", 4'000) + "b").matches(std::string(200, 'a') + "b"));
    EXPECT_FALSE(NamePattern(repeated("{*a*,*}", 2'000) + "b").matches(std::string(200, 'a')));
    EXPECT_FALSE(NamePattern(repeated("[{a,b}", 3'000)).matches(std::string(100, 'a')));
}

TEST(NamePattern, LongerPatternsAreRefused) {
    EXPECT_TRUE(NamePattern(std::string(20'000, '*')).matches(""));
    try {
        NamePattern(repeated("{}", 30'000));
        FAIL();
    } catch (const InvalidArgument& error) {
        EXPECT_THAT(error.what(), testing::HasSubstr("at most 20000 characters, got 60000"));
        EXPECT_LT(std::string(error.what()).size(), 300U);
    }
}

}  // namespace
}  // namespace aerogel
