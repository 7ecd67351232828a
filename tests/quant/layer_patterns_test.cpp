// Patterns over layer names and what they select.
#include "quant/layer_patterns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aerogel/error.h"

namespace aerogel {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

TEST(LayerPatterns, Matches) {
    const std::string name = "blocks.10.ffn.net.0.proj";
    for (const char* pattern :
         {"*", "blocks.10.ffn.net.0.proj", "blocks.*", "*.proj", "*ffn*", "blocks.1?.*", "blocks.[0-9]0.*",
          "blocks.[!2]*", "blocks.{1,10}.ffn.*", "{a,blocks}.*", "blocks.10.{attn{1,2},ffn}.*",
          "blocks.10.ffn.net.0.pro{j,}", "**proj**", "blocks.10*.net.*.proj"}) {
        EXPECT_TRUE(matches(pattern, name)) << pattern;
    }
    for (const char* pattern : {"", "blocks", "blocks.1.*", "proj", "*.pro", "blocks.1??.*", "blocks.[!1]*",
                                "blocks.{1,2}.*", "BLOCKS.*", "blocks.10.ffn.net.0.proj?"}) {
        EXPECT_FALSE(matches(pattern, name)) << pattern;
    }
    EXPECT_TRUE(matches("a[b", "a[b"));
    EXPECT_TRUE(matches("a[]]b", "a]b"));
    EXPECT_TRUE(matches("", ""));
    EXPECT_THROW(matches("a{b,c", name), InvalidArgument);
}

TEST(LayerPatterns, ManyStarsEndSoon) {
    const std::string name(3000, 'a');
    EXPECT_FALSE(matches("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", name));
}

const std::vector<std::string> kNames = {"blocks.0.attn1.to_q", "blocks.0.ffn.net.2", "blocks.1.attn1.to_q",
                                         "blocks.1.ffn.net.2", "proj_out"};

std::string message_of(const std::vector<std::string>& include, const std::vector<std::string>& exclude) {
    try {
        select_layers(kNames, include, exclude);
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

TEST(LayerPatterns, ExcludeWins) {
    EXPECT_THAT(select_layers(kNames, {std::string(kDefaultLayers)}, {}),
                ElementsAre("blocks.0.attn1.to_q", "blocks.0.ffn.net.2", "blocks.1.attn1.to_q",
                            "blocks.1.ffn.net.2"));
    EXPECT_THAT(select_layers(kNames, {"*.to_q", "proj_out"}, {"blocks.0.*"}),
                ElementsAre("blocks.1.attn1.to_q", "proj_out"));
}

TEST(LayerPatterns, PatternsThatMatchNothing) {
    EXPECT_THAT(message_of({"blocks.0.ffn.net.1"}, {}),
                HasSubstr("pattern 'blocks.0.ffn.net.1' matches none of the 5 Linear layers "
                          "(blocks.0.attn1.to_q ... proj_out), did you mean 'blocks.0.ffn.net.2'?"));
    EXPECT_THAT(message_of({"*"}, {"block.*"}), HasSubstr("pattern 'block.*' matches none"));
    EXPECT_THAT(message_of({"blocks.*"}, {"*"}), HasSubstr("no layer is left to quantize"));
}

}  // namespace
}  // namespace aerogel
