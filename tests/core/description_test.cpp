// Quantization descriptions: both exporters' forms, exact writing, file names, damaged files.
#include "aerogel/description.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;

class Description : public TemporaryFolder {
  protected:
    QuantDescription reading(const std::string& text) {
        return QuantDescription::read(write("d.json", text));
    }
    std::string failing(const std::string& text) {
        const auto path = write("d.json", text);
        const std::string message = error_of([&] { QuantDescription::read(path); });
        EXPECT_THAT(message, ::testing::StartsWith("[description] " + path.string() + ": "));
        return message;
    }
};

TEST_F(Description, EntriesKeepTheirOrderAndNamesTheirSpelling) {
    const auto first = reading(R"({"model_quant_type":"W8A8","z.weight":"W8A8","a.bias":"FLOAT"})");
    EXPECT_EQ(first.model_quant_type, "W8A8");
    EXPECT_THAT(first.entries, ElementsAre(Pair("z.weight", "W8A8"), Pair("a.bias", "FLOAT")));
    const auto last =
        reading("{\n    \"z.weight\": \"w8a8_Dynamic\",\n    \"model_quant_type\": \"W8A8_DYNAMIC\"\n}\n");
    EXPECT_THAT(last.entries, ElementsAre(Pair("z.weight", "W8A8_DYNAMIC")));
    EXPECT_EQ(last.type_of("z.weight"), "W8A8_DYNAMIC");
    EXPECT_EQ(last.type_of("z.bias"), "");
    EXPECT_EQ(last.type_of("Z.weight"), "") << "names are compared as they are";
}

TEST_F(Description, OtherValuesAreIgnored) {
    const auto description =
        reading(R"({"metadata":{"model_quant_type":"X","deep":[[{"a":"b"}]]},"optional":null,
        "group_size":128,"flag":true,"list":["a"],"ratio":1.5,"model_quant_type":"W8A16","a.weight":"W8A16"})");
    EXPECT_EQ(description.model_quant_type, "W8A16");
    EXPECT_THAT(description.entries, ElementsAre(Pair("a.weight", "W8A16")));
}

TEST_F(Description, ControlCharactersInStringsAreRead) {
    const auto description = reading(
        "{\"model_quant_type\":\"W8A8\",\"a\tb\":\"FLOAT\n\",\"q\\\"\x01\":\"X\",\"back\\\\\":\"Y\"}");
    EXPECT_THAT(description.entries,
                ElementsAre(Pair("a\tb", "FLOAT\n"), Pair("q\"\x01", "X"), Pair("back\\", "Y")));
}

TEST_F(Description, DamagedFiles) {
    EXPECT_THAT(failing(""), HasSubstr("not valid JSON"));
    EXPECT_THAT(failing("[]"), HasSubstr("must be a JSON object, got an array"));
    EXPECT_THAT(failing("\"W8A8\""), HasSubstr("must be a JSON object, got a string"));
    EXPECT_THAT(failing("{"), HasSubstr("not valid JSON at byte"));
    EXPECT_THAT(failing("{\"model_quant_type\":\"W8A8\",\"a\\\t\":\"X\"}"), HasSubstr("not valid JSON"));
    EXPECT_THAT(failing("{} {}"), HasSubstr("not valid JSON"));
    EXPECT_THAT(failing("{\"a\":\"\xff\"}"), HasSubstr("not valid JSON"));
    EXPECT_THAT(failing(R"({"a.weight":"W8A8"})"),
                HasSubstr("must have a string under the key 'model_quant_type'"));
    EXPECT_THAT(failing(R"({"model_quant_type":7})"), HasSubstr("must have a string"));
    EXPECT_THAT(failing(R"({"model_quant_type":""})"), HasSubstr("letters, digits"));
    EXPECT_THAT(failing(R"({"model_quant_type":"../../x"})"), HasSubstr("got '../../x'"));
    EXPECT_THAT(failing(R"({"model_quant_type":"W8A8","a":"b","a":"c"})"),
                HasSubstr("the key 'a' appears twice"));
    EXPECT_THAT(failing("{\"a\":" + std::string(100'000, '[')), HasSubstr("nested deeper than 64 levels"));
    EXPECT_THAT(error_of<IoError>([&] { QuantDescription::read(at("none.json")); }),
                HasSubstr("cannot open"));
    EXPECT_THAT(error_of<IoError>([&] { QuantDescription::read(folder_); }), HasSubstr("is a folder"));
}

TEST_F(Description, IsWrittenExactly) {
    const QuantDescription description{"W8A8_DYNAMIC",
                                       {{"b.weight", "W8A8_DYNAMIC"}, {"a.\"\xc3\xa4\"", "FLOAT"}}};
    description.write(at("d.json"));
    EXPECT_EQ(read(at("d.json")),
              "{\n  \"model_quant_type\": \"W8A8_DYNAMIC\",\n  \"b.weight\": \"W8A8_DYNAMIC\",\n"
              "  \"a.\\\"\xc3\xa4\\\"\": \"FLOAT\"\n}");
    const auto again = QuantDescription::read(at("d.json"));
    EXPECT_EQ(again.model_quant_type, description.model_quant_type);
    EXPECT_EQ(again.entries, description.entries);
    EXPECT_EQ(files(), 1);
}

TEST_F(Description, WhatCouldNotBeReadIsNotWritten) {
    write("d.json", "old");
    const auto writing = [&](QuantDescription description) {
        return error_of([&] { description.write(at("d.json")); });
    };
    EXPECT_THAT(writing({"W8A8", {{"a", "X"}, {"a", "Y"}}}), HasSubstr("appears twice"));
    EXPECT_THAT(writing({"W8A8", {{"model_quant_type", "Y"}}}), HasSubstr("appears twice"));
    EXPECT_THAT(writing({"a/b", {}}), HasSubstr("letters, digits"));
    EXPECT_THAT(writing({"W8A8", {{"\xff", "X"}}}), HasSubstr("UTF-8"));
    EXPECT_THAT(error_of([&] {
                    QuantDescription{"W8A8", {}}.write(at("d.json"), PairLayout::comfy);
                }),
                HasSubstr("layout v0 or v1"));
    EXPECT_EQ(read(at("d.json")), "old");
    EXPECT_EQ(files(), 1);
}

TEST(DescriptionNames, FollowTypeAndRank) {
    EXPECT_EQ(description_file_name("W8A8_DYNAMIC"), "quant_model_description_w8a8_dynamic.json");
    EXPECT_EQ(description_file_name("W8A8", 3), "quant_model_description_w8a8_3.json");
    EXPECT_EQ(weight_file_name("W8A16"), "quant_model_weight_w8a16.safetensors");
    EXPECT_EQ(weight_file_name("W8A8_TIMESTEP", 0), "quant_model_weight_w8a8_timestep_0.safetensors");
}

TEST(DescriptionNames, TheWeightFileIsNamedByTheTypeInside) {
    const QuantDescription description{"W8A8_DYNAMIC", {}};
    const auto weights = [&](const char* path) { return weight_path_of(path, description).string(); };
    EXPECT_EQ(weights("m/foo.json"), "m/quant_model_weight_w8a8_dynamic.safetensors");
    EXPECT_EQ(weights("foo.json"), "quant_model_weight_w8a8_dynamic.safetensors");
    EXPECT_EQ(weights("/m/quant_model_description_w8a8_dynamic_12.json"),
              "/m/quant_model_weight_w8a8_dynamic_12.safetensors");
    EXPECT_EQ(weights("quant_model_description_w8a8.json"), "quant_model_weight_w8a8_dynamic.safetensors");
    EXPECT_EQ(weights("a_.json"), "quant_model_weight_w8a8_dynamic.safetensors");
    EXPECT_EQ(weights("12.json"), "quant_model_weight_w8a8_dynamic.safetensors");
    EXPECT_EQ(weights("a_1x.json"), "quant_model_weight_w8a8_dynamic.safetensors");
}

}  // namespace
}  // namespace aerogel
