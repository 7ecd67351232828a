// Prints nothing; writes conversion tables for a comparison with another implementation.
//   number_types_dump decode FOLDER        FOLDER/NAME.f32: the float of every code, in order
//   number_types_dump encode IN FOLDER     FOLDER/NAME.code: the code of every float in the file IN
// Codes are little-endian, 2 bytes for bf16 and f16, else 1. NAME_saturated is the saturating form.
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "aerogel/number_types.h"

namespace {

using namespace aerogel;

template <typename T>
void write(const std::filesystem::path& path, const std::vector<T>& values) {
    std::ofstream stream(path, std::ios::binary);
    stream.write(reinterpret_cast<const char*>(values.data()),
                 static_cast<std::streamsize>(values.size() * sizeof(T)));
    if (!stream) throw std::runtime_error("cannot write " + path.string());
}

template <typename Code>
void decode(const std::filesystem::path& folder, const char* name, int codes) {
    std::vector<float> floats;
    for (int code = 0; code < codes; ++code) {
        floats.push_back(to_float(Code{static_cast<decltype(Code::bits)>(code)}));
    }
    write(folder / (std::string(name) + ".f32"), floats);
}

template <typename Convert>
void encode(const std::filesystem::path& path, const std::vector<float>& floats, Convert convert) {
    std::vector<decltype(convert(0.0F).bits)> codes;
    codes.reserve(floats.size());
    for (const float x : floats) codes.push_back(convert(x).bits);
    write(path, codes);
}

void decode_all(const std::filesystem::path& folder) {
    decode<BFloat16>(folder, "bf16", 65536);
    decode<Float16>(folder, "f16", 65536);
    decode<Float8E4M3>(folder, "f8_e4m3", 256);
    decode<Float8E5M2>(folder, "f8_e5m2", 256);
    decode<Float8E8M0>(folder, "f8_e8m0", 256);
    decode<Float4E2M1>(folder, "f4_e2m1", 16);
    std::vector<float> integers;
    for (std::uint8_t code = 0; code < 16; ++code) integers.push_back(static_cast<float>(to_int(Int4{code})));
    write(folder / "int4.f32", integers);
}

void encode_all(const std::filesystem::path& input, const std::filesystem::path& folder) {
    std::vector<float> floats(std::filesystem::file_size(input) / sizeof(float));
    std::ifstream stream(input, std::ios::binary);
    stream.read(reinterpret_cast<char*>(floats.data()),
                static_cast<std::streamsize>(floats.size() * sizeof(float)));
    if (!stream) throw std::runtime_error("cannot read " + input.string());
    encode(folder / "bf16.code", floats, to_bfloat16);
    encode(folder / "f16.code", floats, to_float16);
    encode(folder / "f8_e4m3.code", floats, [](float x) { return to_float8_e4m3(x); });
    encode(folder / "f8_e5m2.code", floats, [](float x) { return to_float8_e5m2(x); });
    encode(folder / "f8_e4m3_saturated.code", floats, [](float x) { return to_float8_e4m3(x, true); });
    encode(folder / "f8_e5m2_saturated.code", floats, [](float x) { return to_float8_e5m2(x, true); });
    encode(folder / "f4_e2m1.code", floats, to_float4_e2m1);
    encode(folder / "int4.code", floats, to_int4);
}

}  // namespace

int main(int argc, char** argv) {
    try {
        const std::vector<std::string> arguments(argv + 1, argv + argc);
        if (arguments.size() == 2 && arguments[0] == "decode") {
            decode_all(arguments[1]);
        } else if (arguments.size() == 3 && arguments[0] == "encode") {
            encode_all(arguments[1], arguments[2]);
        } else {
            throw std::runtime_error("usage: number_types_dump decode FOLDER | encode IN FOLDER");
        }
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return 0;
}
