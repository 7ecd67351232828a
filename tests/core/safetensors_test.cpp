// Safetensors files read and written: every dtype, order, shards, names, and what the writer refuses.
#include "aerogel/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cstring>
#include <numeric>

#include "core/safetensors_bytes.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Safetensors : public TemporaryFolder {};

Tensor filled(DType dtype, Shape shape, unsigned char first = 1) {
    Tensor tensor(dtype, std::move(shape));
    auto* bytes = static_cast<unsigned char*>(tensor.mutable_data());
    std::iota(bytes, bytes + tensor.bytes(), first);
    return tensor;
}

void expect_equal(const Tensor& a, const Tensor& b) {
    EXPECT_EQ(a.describe(), b.describe());
    ASSERT_EQ(a.bytes(), b.bytes());
    EXPECT_EQ(std::memcmp(a.data(), b.data(), a.bytes()), 0);
}

TEST_F(Safetensors, EveryDtypeAndShapeComesBack) {
    std::map<std::string, Tensor> tensors;
    for (int i = 0; i <= static_cast<int>(DType::f64); ++i) {
        const auto dtype = static_cast<DType>(i);
        tensors[std::string(to_string(dtype))] = filled(dtype, {3, 5}, static_cast<unsigned char>(i));
    }
    tensors["scalar"] = filled(DType::f32, {});
    tensors["empty"] = Tensor(DType::f32, {0, 4});
    tensors["name with \"quotes\", \xc3\xa4 and \\"] = filled(DType::i8, {1});
    save_safetensors(at("a.safetensors"), tensors, {{"format", "pt"}, {"key", "value"}});
    const SafetensorsFile file = SafetensorsFile::open(at("a.safetensors"));
    EXPECT_EQ(file.names().size(), tensors.size());
    EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"key", "value"}}));
    EXPECT_EQ(file.path(), at("a.safetensors"));
    for (const auto& [name, tensor] : tensors) {
        ASSERT_TRUE(file.contains(name));
        const Tensor read = file.tensor(name);
        EXPECT_TRUE(read.defined());
        expect_equal(read, tensor);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(read.data()) % size_of(tensor.dtype()), 0U) << name;
    }
    EXPECT_EQ(files(), 1);
}

TEST_F(Safetensors, AFileWithoutTensorsIsAFile) {
    save_safetensors(at("a.safetensors"), {});
    EXPECT_TRUE(SafetensorsFile::open(at("a.safetensors")).names().empty());
    EXPECT_THAT(error_of([&] { SafetensorsFile::open(at("a.safetensors")).info("x"); }),
                HasSubstr("the file holds none"));
}

TEST_F(Safetensors, TheHeaderIsPaddedAndInTheAnnouncedOrder) {
    SafetensorsWriter writer(at("a.safetensors"),
                             {{"z", DType::i8, {3}}, {"a", DType::f32, {1}}, {"m", DType::i8, {1}}});
    writer.write("z", filled(DType::i8, {3}));
    writer.write("a", filled(DType::f32, {1}, 100));
    writer.write("m", filled(DType::i8, {1}, 50));
    writer.finish();
    const std::string bytes = read(at("a.safetensors"));
    const auto length = static_cast<std::size_t>(static_cast<unsigned char>(bytes[0]));
    EXPECT_EQ(length % 8, 0U);
    EXPECT_EQ(bytes.size(), 8 + length + 8);
    std::string header = bytes.substr(8, length);
    header.erase(header.find_last_not_of(' ') + 1);
    EXPECT_EQ(header, R"({"z":{"dtype":"I8","shape":[3],"data_offsets":[4,7]},)"
                      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("m":{"dtype":"I8","shape":[1],"data_offsets":[7,8]}})");
    EXPECT_EQ(bytes.substr(8 + length), "\x64\x65\x66\x67\x01\x02\x03\x32");
    EXPECT_THAT(SafetensorsFile::open(at("a.safetensors")).names(), ElementsAre("z", "a", "m"));
}

TEST_F(Safetensors, OffsetsNeedNotFollowTheHeader) {
    const std::string json = "{" + safetensors_item("b", "I8", "[2]", "[4,6]") + "," +
                             safetensors_item("e", "F32", "[0]", "[4,4]") + "," +
                             safetensors_item("a", "F32", "[]", "[0,4]") + "}  \n";
    const auto path = write("a.safetensors", safetensors_bytes(json, std::string("\0\0\x80\x3f\x07\x08", 6)));
    const SafetensorsFile file = SafetensorsFile::open(path);
    EXPECT_THAT(file.names(), ElementsAre("b", "e", "a"));
    EXPECT_EQ(*file.tensor("a").as<float>(), 1.0F);
    EXPECT_EQ(file.tensor("b").as<std::int8_t>()[1], 8);
}

TEST_F(Safetensors, AnElementOffItsBoundaryIsCopied) {
    const std::string json = "{" + safetensors_item("b", "I8", "[1]", "[0,1]") + "," +
                             safetensors_item("a", "F32", "[1]", "[1,5]") + "}";
    const auto path = write("a.safetensors", safetensors_bytes(json, std::string("\x07\0\0\x80\x3f", 5)));
    const Tensor a = SafetensorsFile::open(path).tensor("a");
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 4, 0U);
    EXPECT_EQ(*a.as<float>(), 1.0F);
}

TEST_F(Safetensors, ATensorKeepsTheMappingAlive) {
    save_safetensors(at("a.safetensors"), {{"x", filled(DType::i8, {100})}});
    Tensor tensor;
    {
        const SafetensorsFile file = SafetensorsFile::open(at("a.safetensors"));
        tensor = file.tensor("x");
        EXPECT_EQ(tensor.data(), file.tensor("x").data()) << "no copy";
    }
    save_safetensors(at("a.safetensors"),
                     {{"x", filled(DType::i8, {100}, 9)}});  // a new file under the old name
    expect_equal(tensor, filled(DType::i8, {100}));
}

TEST_F(Safetensors, TheNearestNameIsSuggested) {
    save_safetensors(at("a.safetensors"), {{"blocks.0.attn.q.weight", filled(DType::i8, {1})},
                                           {"blocks.0.attn.k.weight", filled(DType::i8, {1})},
                                           {"head.bias", filled(DType::i8, {1})}});
    const SafetensorsFile file = SafetensorsFile::open(at("a.safetensors"));
    EXPECT_EQ(error_of([&] { file.info("block.0.attn.k.weight"); }),
              "[safetensors] " + at("a.safetensors").string() +
                  ": no tensor 'block.0.attn.k.weight', did you mean 'blocks.0.attn.k.weight'?");
    EXPECT_THAT(error_of([&] { file.tensor("xyz"); }), ::testing::EndsWith("no tensor 'xyz'"));
    EXPECT_FALSE(file.contains("xyz"));
}

TEST_F(Safetensors, FilesThatCannotBeRead) {
    EXPECT_THAT(error_of<IoError>([&] { SafetensorsFile::open(at("none.safetensors")); }),
                HasSubstr("none.safetensors: cannot open: No such file"));
    EXPECT_THAT(error_of<IoError>([&] { SafetensorsFile::open(folder_); }), HasSubstr("is a folder"));
    EXPECT_THAT(error_of<IoError>([&] { SafetensorsFile::open("/dev/null"); }),
                HasSubstr("not a regular file"));
}

TEST_F(Safetensors, TheWriterTakesWhatWasAnnounced) {
    const std::vector<TensorInfo> announced = {{"a", DType::f32, {2}}, {"b", DType::i8, {1}}};
    {
        SafetensorsWriter writer(at("a.safetensors"), announced);
        EXPECT_EQ(files(), 1);  // the temporary one
        EXPECT_FALSE(std::filesystem::exists(at("a.safetensors")));
        EXPECT_THAT(error_of([&] { writer.write("b", filled(DType::i8, {1})); }),
                    HasSubstr("the next tensor must be 'a' f32[2], got 'b' i8[1]"));
        EXPECT_THAT(error_of([&] { writer.write("a", filled(DType::bf16, {2})); }),
                    HasSubstr("got 'a' bf16[2]"));
        EXPECT_THAT(error_of([&] {
                        writer.write("a", filled(DType::f32, {1, 2}));
                    }),
                    HasSubstr("got 'a' f32[1,2]"));
        float values[4] = {};
        const TensorView strided{DType::f32, {2}, values, {2}, Device::cpu};
        EXPECT_THAT(error_of([&] { writer.write("a", strided); }), HasSubstr("contiguous"));
        writer.write("a", filled(DType::f32, {2}));
        EXPECT_THAT(error_of([&] { writer.finish(); }),
                    HasSubstr("2 tensors were announced, got 1; 'b' is missing"));
        writer.write("b", filled(DType::i8, {1}));
        EXPECT_THAT(error_of([&] { writer.write("c", filled(DType::i8, {1})); }),
                    HasSubstr("all 2 announced"));
    }
    EXPECT_EQ(files(), 0) << "without finish() nothing remains";
    EXPECT_THAT(error_of([&] {
                    SafetensorsWriter(at("a"), {announced[0], announced[0]});
                }),
                HasSubstr("announced twice"));
    EXPECT_THAT(error_of([&] {
                    SafetensorsWriter(at("a"), {{"__metadata__", DType::i8, {1}}});
                }),
                HasSubstr("reserved"));
    EXPECT_THAT(error_of([&] {
                    SafetensorsWriter(at("a"), {{"\xff", DType::i8, {1}}});
                }),
                HasSubstr("UTF-8"));
    EXPECT_THAT(error_of<IoError>([&] { SafetensorsWriter(at("no/a"), announced); }),
                HasSubstr("No such file"));
    EXPECT_EQ(files(), 0);
}

TEST_F(Safetensors, TensorsInMemoryAreSharedUnderTheirNames) {
    const Tensor x = Tensor::zeros(DType::f32, {2, 3}), empty(DType::i8, {0, 4});
    const SafetensorsFile file = SafetensorsFile::of_tensors("Net", {{"z", x}, {"a", empty}});
    EXPECT_THAT(file.names(), testing::ElementsAre("z", "a"));
    EXPECT_EQ(file.tensor("z").data(), x.data());
    EXPECT_EQ(file.info("a").shape, (Shape{0, 4}));
    EXPECT_EQ(file.info("a").dtype, DType::i8);
    EXPECT_EQ(file.path(), "Net");
    EXPECT_THAT(error_of([&] { file.tensor("y"); }), HasSubstr("Net: no tensor 'y'"));
    EXPECT_THAT(error_of([&] {
                    SafetensorsFile::of_tensors("Net", {{"z", x}, {"z", x}});
                }),
                HasSubstr("'z' is given twice"));
}

TEST_F(Safetensors, AFullDiskIsAnIoErrorAndLeavesTheOldFile) {
    write("a.safetensors", "old");
    struct rlimit before = {};
    ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
    auto* handler = ::signal(SIGXFSZ, SIG_IGN);
    const struct rlimit small = {1 << 16, before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
    const std::string message = error_of<IoError>([&] {
        save_safetensors(at("a.safetensors"), {{"x", Tensor::zeros(DType::f32, {1 << 20})}});
    });
    ::setrlimit(RLIMIT_FSIZE, &before);
    ::signal(SIGXFSZ, handler);
    EXPECT_THAT(message, HasSubstr("a.safetensors: cannot "));
    EXPECT_EQ(read(at("a.safetensors")), "old");
    EXPECT_EQ(files(), 1);
}

}  // namespace
}  // namespace aerogel
