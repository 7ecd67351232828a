// Sharded safetensors: the joined view, and every way an index and its shards can disagree.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "aerogel/safetensors.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SafetensorsIndex : public TemporaryFolder {
  protected:
    void SetUp() override {
        TemporaryFolder::SetUp();
        save_safetensors(at("m-1.safetensors"),
                         {{"z", Tensor::zeros(DType::i8, {1})}, {"b", Tensor::zeros(DType::f32, {2})}},
                         {{"format", "pt"}});
        save_safetensors(at("m-2.safetensors"), {{"a", Tensor::zeros(DType::bf16, {3})}}, {{"part", "2"}});
    }
    std::filesystem::path index(const std::string& text) { return write("m.safetensors.index.json", text); }
    std::string opening(const std::string& text) {
        const auto path = index(text);
        return error_of([&] { SafetensorsFile::open(path); });
    }
};

TEST_F(SafetensorsIndex, JoinsItsShards) {
    const auto path = index(R"({"metadata":{"total_size":15},"weight_map":
        {"a":"m-2.safetensors","b":"m-1.safetensors","z":"m-1.safetensors"}})");
    const SafetensorsFile file = SafetensorsFile::open(path);
    EXPECT_THAT(file.names(), ElementsAre("b", "z", "a"));
    EXPECT_EQ(file.tensor("a").describe(), "bf16[3]");
    EXPECT_EQ(file.tensor("b").describe(), "f32[2]");
    EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"part", "2"}}));
    EXPECT_EQ(file.path(), path);
}

TEST_F(SafetensorsIndex, MissingShard) {
    const auto path =
        index(R"({"weight_map":{"a":"m-2.safetensors","q":"m-3.safetensors","r":"m-3.safetensors"}})");
    EXPECT_THAT(error_of<IoError>([&] { SafetensorsFile::open(path); }),
                HasSubstr("the shard 'm-3.safetensors' does not exist, it should hold 2 tensors, 'q' first"));
}

TEST_F(SafetensorsIndex, MissingTensor) {
    EXPECT_THAT(opening(R"({"weight_map":{"a":"m-2.safetensors","z":"m-2.safetensors"}})"),
                HasSubstr("tensor 'z' should be in the shard 'm-2.safetensors', it is not there"));
}

TEST_F(SafetensorsIndex, ATensorInTwoShards) {
    save_safetensors(at("m-2.safetensors"),
                     {{"a", Tensor::zeros(DType::i8, {1})}, {"b", Tensor::zeros(DType::i8, {1})}});
    EXPECT_THAT(opening(R"({"weight_map":{"a":"m-2.safetensors","b":"m-1.safetensors"}})"),
                HasSubstr("tensor 'b' is in another shard too"));
}

TEST_F(SafetensorsIndex, PathsOutOfTheFolder) {
    for (const char* path :
         {"../m-2.safetensors", "/etc/passwd", "sub/m.safetensors", "..", ".", "", "a\\u0000b"}) {
        EXPECT_THAT(opening(R"({"weight_map":{"a":")" + std::string(path) + R"("}})"),
                    HasSubstr("tensor 'a': the shard must be a file name in the folder of the index"));
    }
}

TEST_F(SafetensorsIndex, NotAnIndex) {
    EXPECT_THAT(opening("{}"), HasSubstr("must have an object 'weight_map'"));
    EXPECT_THAT(opening(R"({"weight_map":[]})"), HasSubstr("must have an object 'weight_map'"));
    EXPECT_THAT(opening("[]"), HasSubstr("must be a JSON object, got an array"));
    EXPECT_THAT(opening(""), HasSubstr("not valid JSON"));
    EXPECT_THAT(opening(R"({"weight_map":{"a":"m-2.safetensors","a":"m-1.safetensors"}})"),
                HasSubstr("the key 'a' appears twice"));
    EXPECT_THAT(opening(R"({"weight_map":)" + std::string(100'000, '[')),
                HasSubstr("nested deeper than 64 levels"));
}

}  // namespace
}  // namespace aerogel
