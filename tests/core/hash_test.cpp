// XXH64 against values of the reference implementation: every length class of its algorithm.
#include "core/hash.h"

#include <gtest/gtest.h>

#include <string>

namespace aerogel {
namespace {

TEST(Hash, ValuesOfTheReferenceImplementation) {
    EXPECT_EQ(hash_text(""), 0xEF46DB3751D8E999U);
    EXPECT_EQ(hash_text("a"), 0xD24EC4F1A98C6E5BU);
    EXPECT_EQ(hash_text("abc"), 0x44BC2CF5AD770999U);
    EXPECT_EQ(hash_text("xxhash"), 0x32DD38952C4BC720U);
    EXPECT_EQ(hash_text("xxhash", 20141025), 0xB559B98D844E0635U);
    EXPECT_EQ(hash_text("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1U);
}

TEST(Hash, EveryByteCounts) {
    const std::string text(77, 'x');
    for (std::size_t i = 0; i < text.size(); ++i) {
        std::string other = text;
        other[i] = 'y';
        EXPECT_NE(hash_text(other), hash_text(text)) << i;
        EXPECT_NE(hash_text(text.substr(0, i)), hash_text(text)) << i;
    }
}

}  // namespace
}  // namespace aerogel
