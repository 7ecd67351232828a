// The one JSON reader: its limits, and the checked getters with their errors.
#include "core/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

std::string repeated(const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
}

std::string parsing(const std::string& text) {
    const std::string message = error_of([&] { parse_json_object(text, "[op] FILE"); });
    EXPECT_THAT(message, ::testing::StartsWith("[op] FILE: "));
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_LT(message.size(), 500U);
    return message;
}

JsonNode node_of(const std::string& text) {
    return JsonNode::parse(text, "FILE", "op");
}

TEST(Json, DepthHasALimit) {
    EXPECT_THAT(parsing(repeated("[", 100'000)), HasSubstr("must be a JSON object, got an array"));
    EXPECT_THAT(parsing("{\"a\":" + repeated("[", 100'000)), HasSubstr("nested deeper than 64 levels"));
    EXPECT_THAT(parsing(repeated("{\"a\":", 100'000)), HasSubstr("nested deeper than 64 levels"));
    const std::string deepest = "{\"a\":" + repeated("[", 63) + repeated("]", 63) + "}";
    EXPECT_TRUE(parse_json_object(deepest, "x")["a"].is_array());
    parsing("{\"a\":" + repeated("[", 64) + repeated("]", 64) + "}");
}

TEST(Json, NumbersThatAreNone) {
    for (const char* number : {"1e999", "-1e999", "NaN", "Infinity", "-Infinity", "0x10", "1.", "01", "+1"}) {
        EXPECT_THAT(parsing(std::string("{\"a\":") + number + "}"), HasSubstr("not valid JSON")) << number;
    }
}

TEST(Json, TreesHaveALimitAndNoKeyTwice) {
    EXPECT_THAT(parsing("{\"a\":[" + repeated("0,", 2'000'000) + "0]}"),
                HasSubstr("holds more than 2000000 values"));
    EXPECT_THAT(parsing(R"({"a":1,"b":{"c":1,"c":2}})"), HasSubstr("the key 'c' appears twice"));
    EXPECT_THAT(parsing(""), HasSubstr("not valid JSON"));
    EXPECT_THAT(parsing("{} {}"), HasSubstr("not valid JSON"));
    EXPECT_THAT(parsing("{\"a\":\"\xff\"}"), HasSubstr("not valid JSON"));
}

TEST(Json, TreesAreThoseOfTheParser) {
    const std::string text =
        R"({"a":[1,-2,3.5,true,null,"x",[],{}],"b":{"c":{"d":[[1],[2,[3]]]}},"z":18446744073709551615})";
    EXPECT_EQ(parse_json_object(text, "x"), nlohmann::json::parse(text));
}

TEST(Json, WritingNeverFails) {
    EXPECT_EQ(dump_json(nlohmann::json{{"a", "x\xff"}}), "{\"a\":\"x\xEF\xBF\xBD\"}");
    EXPECT_EQ(dump_json(nlohmann::ordered_json{{"\xff", 1.0}}), "{\"\xEF\xBF\xBD\":1.0}");
    EXPECT_EQ(show_json(nlohmann::json::parse(R"({"a":[1,"b"]})")), R"({"a":[1,"b"]})");
    EXPECT_LT(show_json(nlohmann::json(std::vector<int>(1'000'000))).size(), 100U);
    EXPECT_LT(show_json(nlohmann::json(std::string(1'000'000, 'x'))).size(), 100U);
    EXPECT_EQ(show_json("\xff\n"), "\"\xEF\xBF\xBD\\n\"");
}

TEST(JsonNode, WholeNumbers) {
    const JsonNode node = node_of(
        R"({"a":7,"b":-1,"c":1e3,"d":18446744073709551615,"e":"7","f":9223372036854775807,"g":true,"h":[1]})");
    EXPECT_EQ(node.at("a").whole({0, 7}), 7);
    EXPECT_EQ(node.at("f").whole({}), 9223372036854775807);
    for (const char* key : {"a", "b", "c", "d", "e", "f", "g", "h", "none"}) {
        const std::string message = error_of([&] { node.at(key).whole({0, 6}); });
        EXPECT_THAT(message, HasSubstr("[op] FILE: " + std::string(key) +
                                       " must be a whole number from 0 to 6, got "));
    }
    EXPECT_THAT(error_of([&] { node.at("d").whole({}); }), HasSubstr("got 18446744073709551615"));
    EXPECT_THAT(error_of([&] { node.at("none").whole({}); }), HasSubstr("got nothing"));
}

TEST(JsonNode, OtherKinds) {
    const JsonNode node = node_of(R"({"n":0.5,"b":false,"s":"word","l":[{"x":1},2],"null":null})");
    EXPECT_EQ(node.at("n").number(0, 1), 0.5);
    EXPECT_FALSE(node.at("b").flag());
    EXPECT_EQ(node.at("s").text(), "word");
    EXPECT_EQ(node.at("l").items().size(), 2U);
    EXPECT_TRUE(node.has("n") && !node.has("null") && node.contains("null") && !node.contains("none"));
    EXPECT_THAT(error_of([&] { node.at("n").number(1, 2); }),
                HasSubstr("n must be a number from 1 to 2, got 0.5"));
    EXPECT_THAT(error_of([&] { node.at("s").flag(); }), HasSubstr("s must be true or false, got \"word\""));
    EXPECT_THAT(error_of([&] { node.at("b").text(); }), HasSubstr("b must be a string, got false"));
    EXPECT_THAT(error_of([&] { node.at("s").items(); }), HasSubstr("s must be a list, got"));
    EXPECT_THAT(error_of([&] { node.at("l").items()[0].at("x").text(); }),
                HasSubstr("l[0].x must be a string, got 1"));
    EXPECT_THAT(error_of([&] { node.at("l").items()[1].at("x"); }),
                HasSubstr("l[1] must be an object, got 2"));
    static constexpr std::array<std::string_view, 2> kKnown = {"n", "b"};
    EXPECT_THAT(error_of([&] { node.check_keys(kKnown); }), HasSubstr("unknown key 'l', there are: n, b"));
    EXPECT_THAT(error_of([&] { node.at("s").word(kKnown); }),
                HasSubstr("s must be one of n, b, got \"word\""));
}

}  // namespace
}  // namespace aerogel
