// Safetensors files read and written, one by one and sharded: every dtype, order, names, what the writer
// refuses, how an index and its shards can disagree, and files made to hurt or damaged on the way.
#include "aerogel/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>

#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Handmade files: whatever header, followed by whatever data.
std::string safetensors_length(std::uint64_t length) {
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes += static_cast<char>(length >> (8 * i) & 0xFF);
    return bytes;
}

std::string safetensors_bytes(const std::string& header, const std::string& data = {}) {
    return safetensors_length(header.size()) + header + data;
}

/// `"NAME":{"dtype":"DTYPE","shape":SHAPE,"data_offsets":OFFSETS}`
std::string safetensors_item(const std::string& name, const std::string& dtype, const std::string& shape,
                             const std::string& offsets) {
    return "\"" + name + R"(":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" +
           offsets + "}";
}

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
        EXPECT_THAT(error_of([&] {
                        writer.write("b", TensorView{DType::i8, {1}});
                    }),
                    HasSubstr("'b' must be contiguous and in CPU memory, it has no data"));
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

TEST_F(Safetensors, AFileIsFinishedOnce) {
    SafetensorsWriter writer(at("a.safetensors"), {});
    writer.finish();
    EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("a.safetensors: is finished already"));
}

TEST_F(Safetensors, WhereNothingIsThereIsAnError) {
    SafetensorsFile file = SafetensorsFile::of_tensors("Net", {});
    const SafetensorsFile other = std::move(file);
    EXPECT_EQ(error_of([&] { file.names(); }),  // NOLINT(bugprone-use-after-move): that is the point
              "[safetensors] no file was opened");
    EXPECT_EQ(error_of([&] { file.contains("a"); }), "[safetensors] no file was opened");
    EXPECT_THAT(error_of([&] {
                    SafetensorsFile::of_tensors("Net", {{"a", Tensor()}});
                }),
                HasSubstr("Net: tensor 'a' has no values"));
    EXPECT_THAT(error_of([&] {
                    save_safetensors(at("a.safetensors"), {{"a", Tensor()}});
                }),
                HasSubstr("a.safetensors: tensor 'a' has no values"));
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

// --- sharded safetensors

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

// --- safetensors files made to hurt or damaged on the way

class HostileSafetensors : public TemporaryFolder {
  protected:
    std::string opening(const std::string& bytes) {
        const auto path = write("model.safetensors", bytes);
        const std::string message = error_of([&] { SafetensorsFile::open(path); });
        EXPECT_THAT(message, ::testing::StartsWith("[safetensors] " + path.string() + ": "));
        EXPECT_EQ(message.find('\n'), std::string::npos);
        EXPECT_LT(message.size(), 1000U);
        return message;
    }
    std::string header(const std::string& json, const std::string& data = {}) {
        return opening(safetensors_bytes(json, data));
    }
    // One f32 tensor "x" with those fields.
    std::string one(const std::string& shape, const std::string& offsets, const std::string& data,
                    const std::string& dtype = "F32") {
        return header("{" + safetensors_item("x", dtype, shape, offsets) + "}", data);
    }
};

TEST_F(HostileSafetensors, Frame) {
    EXPECT_THAT(opening(""), HasSubstr("must have at least 8 bytes, got 0"));
    EXPECT_THAT(opening("\x10"), HasSubstr("must have at least 8 bytes, got 1"));
    EXPECT_THAT(opening(safetensors_length(~0ULL) + "{}"),
                HasSubstr("must be at most 100000000 bytes long, its length says 18446744073709551615"));
    EXPECT_THAT(opening(safetensors_length(100'000'001) + "{}"), HasSubstr("its length says 100000001"));
    EXPECT_THAT(opening(safetensors_length(100'000'000) + "{}"),
                HasSubstr("truncated, or not a safetensors file: the header should have 100000000 bytes"));
    EXPECT_THAT(opening(safetensors_length(3) + "{}"), HasSubstr("the whole file has 10"));
    EXPECT_THAT(opening(safetensors_length(0)), HasSubstr("must begin with '{', got nothing"));
    EXPECT_THAT(opening("version https://git-lfs.github.com/spec/v1\n"), HasSubstr("not a safetensors file"));
    EXPECT_THAT(opening(std::string("PK\3\4\0\0\0\0\0\0\0\0", 12)), HasSubstr("not a safetensors file"));
}

TEST_F(HostileSafetensors, NotAnObject) {
    EXPECT_THAT(header("[]"), HasSubstr("must begin with '{', got '['"));
    EXPECT_THAT(header("7"), HasSubstr("must begin with '{'"));
    EXPECT_THAT(header("{"), HasSubstr("not valid JSON at byte 2"));
    EXPECT_THAT(header("{} x"), HasSubstr("not valid JSON"));
    EXPECT_THAT(header("{\"x\":}"), HasSubstr("not valid JSON"));
    EXPECT_THAT(header(R"({"x":1})"), HasSubstr("tensor 'x': must be an object, got 1"));
    EXPECT_THAT(header(R"({"x":"y"})"), HasSubstr("must be an object, got the string 'y'"));
    EXPECT_THAT(header(R"({"x":null})"), HasSubstr("must be an object, got null"));
    EXPECT_THAT(header(R"({"x":[1]})"), HasSubstr("must be an object, got an array"));
}

TEST_F(HostileSafetensors, Metadata) {
    EXPECT_THAT(header(R"({"__metadata__":{"a":1}})"),
                HasSubstr("__metadata__ must hold strings, got 1 under 'a'"));
    EXPECT_THAT(header(R"({"__metadata__":{"a":{}}})"), HasSubstr("got an object under 'a'"));
    EXPECT_THAT(header(R"({"__metadata__":"a"})"), HasSubstr("'__metadata__': must be an object"));
    EXPECT_THAT(header(R"({"__metadata__":{"a":"b","a":"c"}})"), HasSubstr("the key 'a' appears twice"));
}

TEST_F(HostileSafetensors, DuplicateKeys) {
    const std::string x = safetensors_item("x", "I8", "[0]", "[0,0]");
    EXPECT_THAT(header("{" + x + "," + x + "}"), HasSubstr("the name 'x' appears twice"));
    EXPECT_THAT(header(R"({"__metadata__":{},"__metadata__":{}})"),
                HasSubstr("the name '__metadata__' appears twice"));
    EXPECT_THAT(header(R"({"x":{"dtype":"I8","dtype":"I8"}})"), HasSubstr("the key 'dtype' appears twice"));
    // The same name, once written with an escape.
    EXPECT_THAT(header("{" + x + ",\"\\u0078\":{}}"), HasSubstr("the name 'x' appears twice"));
}

TEST_F(HostileSafetensors, DeepNesting) {
    const std::string deep(200'000, '[');
    EXPECT_THAT(header("{\"x\":" + deep), HasSubstr("must be an object, got an array"));
    EXPECT_THAT(header(R"({"x":{"dtype":"I8","shape":)" + deep), HasSubstr("shape must hold whole numbers"));
    std::string objects;
    for (int i = 0; i < 100'000; ++i) objects += "{\"x\":";
    EXPECT_THAT(header(objects), HasSubstr("unknown key 'x'"));
}

TEST_F(HostileSafetensors, Fields) {
    EXPECT_THAT(header(R"({"x":{}})"), HasSubstr("tensor 'x': has no dtype"));
    EXPECT_THAT(header(R"({"x":{"dtype":"I8","data_offsets":[0,0]}})"), HasSubstr("has no shape"));
    EXPECT_THAT(header(R"({"x":{"dtype":"I8","shape":[0]}})"), HasSubstr("has no data_offsets"));
    EXPECT_THAT(header(R"({"x":{"dtype":7}})"), HasSubstr("dtype must be a string, got 7"));
    EXPECT_THAT(header(R"({"x":{"shape":"2"}})"),
                HasSubstr("shape must be an array of numbers >= 0, got the string"));
    EXPECT_THAT(header(R"({"x":{"stride":[1]}})"), HasSubstr("unknown key 'stride'"));
    EXPECT_THAT(one("[1]", "[0]", "abcd"), HasSubstr("data_offsets must hold 2 numbers, got 1"));
    EXPECT_THAT(one("[1]", "[0,4,8]", "abcd"), HasSubstr("data_offsets must hold 2 numbers, got 3"));
    std::string ones = "[1";
    for (int i = 0; i < 1000; ++i) ones += ",1";
    EXPECT_THAT(one(ones + "]", "[0,4]", "abcd"), HasSubstr("more than 64 numbers in shape"));
}

TEST_F(HostileSafetensors, DtypesAreListed) {
    const std::string message = one("[1]", "[0,4]", "abcd", "F8_E3M4");
    EXPECT_THAT(message, HasSubstr("got 'F8_E3M4'"));
    for (const char* known : {"BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "I16", "U16", "F16",
                              "BF16", "I32", "U32", "F32", "F64", "I64", "U64"}) {
        EXPECT_THAT(message, HasSubstr(known));
    }
    EXPECT_THAT(one("[1]", "[0,4]", "abcd", "f32"), HasSubstr("got 'f32'"));
}

TEST_F(HostileSafetensors, Shapes) {
    EXPECT_THAT(one("[-1]", "[0,4]", "abcd"), HasSubstr("got the negative number -1"));
    EXPECT_THAT(one("[1.5]", "[0,4]", "abcd"), HasSubstr("got the number 1.5"));
    EXPECT_THAT(one("[1e400]", "[0,4]", "abcd"), HasSubstr("not valid JSON"));
    EXPECT_THAT(one("[9223372036854775808]", "[0,4]", "abcd"), HasSubstr("more than 2^63 - 1"));
    EXPECT_THAT(one("[18446744073709551616]", "[0,4]", "abcd"), HasSubstr("whole numbers >= 0 and < 2^64"));
    EXPECT_THAT(one("[9223372036854775807]", "[0,4]", "abcd"), HasSubstr("overflows"));
    // 2^32 * 2^32 * 4 bytes is 0 when cut to 64 bits.
    EXPECT_THAT(one("[4294967296,4294967296]", "[0,0]", ""), HasSubstr("overflows"));
    EXPECT_THAT(one("[2]", "[0,4]", "abcd"),
                HasSubstr("data_offsets must span 8 bytes (f32[2]), got 0 to 4"));
    EXPECT_THAT(one("[]", "[0,8]", "abcdefgh"), HasSubstr("must span 4 bytes (f32[])"));
}

TEST_F(HostileSafetensors, Offsets) {
    EXPECT_THAT(one("[1]", "[-4,0]", "abcd"), HasSubstr("data_offsets must hold whole numbers"));
    EXPECT_THAT(one("[1]", "[4,0]", "abcd"), HasSubstr("got 4 to 0"));
    EXPECT_THAT(one("[1]", "[18446744073709551612,0]", "abcd"), HasSubstr("must span 4 bytes"));
    EXPECT_THAT(one("[1]", "[4,8]", "abcd"), HasSubstr("ends at byte 8 of the data, which has 4"));
    EXPECT_THAT(one("[2]", "[0,8]", "abcd"), HasSubstr("truncated"));
    EXPECT_THAT(one("[1]", "[0,4]", "abcde"),
                HasSubstr("the tensors end at byte 4 of the data, which has 5 bytes"));
    EXPECT_THAT(header("{}", "a"), HasSubstr("the tensors end at byte 0 of the data, which has 1 bytes"));
    const auto two = [&](const std::string& a, const std::string& b, const std::string& data) {
        return header(
            "{" + safetensors_item("a", "I8", "[4]", a) + "," + safetensors_item("b", "I8", "[4]", b) + "}",
            data);
    };
    EXPECT_THAT(two("[0,4]", "[2,6]", "abcdef"), HasSubstr("tensor 'b' must begin at byte 4"));
    EXPECT_THAT(two("[0,4]", "[2,6]", "abcdef"), HasSubstr("(they overlap)"));
    EXPECT_THAT(two("[0,4]", "[0,4]", "abcd"), HasSubstr("(they overlap)"));
    EXPECT_THAT(two("[0,4]", "[5,9]", "abcdefghi"), HasSubstr("(a hole)"));
    EXPECT_THAT(two("[1,5]", "[5,9]", "abcdefghi"), HasSubstr("must begin at byte 0"));
}

TEST_F(HostileSafetensors, Text) {
    EXPECT_THAT(header("{\"\xff\xfe\":{}}"), HasSubstr("not valid JSON"));
    EXPECT_THAT(header("{\"a\xc3\":{}}"), HasSubstr("not valid JSON"));
    EXPECT_THAT(header("{\"\\ud800\":{}}"), HasSubstr("not valid JSON"));
    EXPECT_THAT(header("{\"a\nb\":{}}"), HasSubstr("not valid JSON"));
    // A long or odd name does not flood the terminal.
    EXPECT_THAT(header("{\"" + std::string(100'000, 'n') + "\":{}}"), HasSubstr("nnn...'"));
    EXPECT_THAT(header(R"({"a\u001b[31m":{}})"), HasSubstr("'a?[31m'"));
}

}  // namespace
}  // namespace aerogel
