// Safetensors files made to hurt or damaged on the way: each ends in one InvalidArgument that names the
// file, what is wrong, and what was expected and found.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "core/safetensors_bytes.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

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
