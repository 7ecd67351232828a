// Files of weights: GGUF's shapes and blocks, and files that are shortened between loading and reading.
#include "quant/weight_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <fstream>
#include <string>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/transformer.h"
#include "model/tiny_model.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kF32 = 0, kQ8 = 8;

struct Stored {
    std::string name;
    Shape shape;
    std::uint32_t type;
    std::string bytes;
};

template <typename T>
void put(std::string& out, T value) {
    out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void write_gguf(const std::filesystem::path& path, const std::vector<Stored>& tensors) {
    std::string head = "GGUF", data;
    put(head, std::uint32_t{3});
    put(head, static_cast<std::uint64_t>(tensors.size()));
    put(head, std::uint64_t{0});
    for (const Stored& tensor : tensors) {
        put(head, static_cast<std::uint64_t>(tensor.name.size()));
        head += tensor.name;
        put(head, static_cast<std::uint32_t>(tensor.shape.size()));
        for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size)
            put(head, static_cast<std::uint64_t>(*size));
        put(head, tensor.type);
        put(head, static_cast<std::uint64_t>(data.size()));
        data += tensor.bytes;
        data.resize((data.size() + 31) / 32 * 32);
    }
    head.resize((head.size() + 31) / 32 * 32);
    std::ofstream(path, std::ios::binary) << head << data;
}

std::string bytes_of(const Tensor& tensor) {
    return {static_cast<const char*>(tensor.data()), tensor.bytes()};
}

Stored zeros(const std::string& name, const Shape& shape) {
    return {name, shape, kF32,
            std::string(static_cast<std::size_t>(element_count(shape)) * sizeof(float), '\0')};
}

class WeightFileTest : public ::testing::Test {
  protected:
    static TransformerInput input() {
        TransformerInput input;
        input.hidden_states = Tensor::zeros(DType::f32, {1, 3, 1, 4, 4});
        input.timestep = Tensor::of(std::vector<float>{500.0F}, {1});
        input.encoder_hidden_states = Tensor::zeros(DType::f32, {1, 2, 8});
        return input;
    }

    // The weights as F32 of a GGUF file; five axes become four.
    std::filesystem::path as_gguf() const {
        const auto file = SafetensorsFile::open(weights_);
        std::vector<Stored> tensors;
        for (const std::string& name : file.names()) {
            const Tensor tensor = file.tensor(name);
            Shape shape = tensor.shape();
            if (shape.size() > 4) shape = {shape[0] * shape[1], shape[2], shape[3], shape[4]};
            tensors.push_back({name, shape, kF32, bytes_of(tensor)});
        }
        write_gguf(files_.folder() / "model.gguf", tensors);
        return files_.folder() / "model.gguf";
    }

    static std::string error_of_forward(const Transformer& model) {
        try {
            model.forward(input());
        } catch (const IoError& error) {
            return error.what();
        }
        return "no error";
    }

    const testing::TinyModel files_{"aerogel_weight_file"};
    const std::filesystem::path folder_ = files_.folder() / "transformer";
    const std::filesystem::path weights_ = folder_ / "diffusion_pytorch_model.safetensors";
};

TEST_F(WeightFileTest, AFileShortenedBeforeItsWeightsArePackedIsAnError) {
    const auto model = Transformer::load(folder_);
    std::filesystem::resize_file(weights_, 1000);
    for (int i = 0; i < 2; ++i)
        EXPECT_THAT(error_of_forward(*model),
                    HasSubstr("model.safetensors: was shortened while it was read"));
}

TEST_F(WeightFileTest, PackedWeightsNeedNoFile) {
    const auto model = Transformer::load(folder_);
    const Tensor before = model->forward(input());
    std::filesystem::resize_file(weights_, 1000);
    EXPECT_EQ(model->forward(input()).values(), before.values());
}

TEST_F(WeightFileTest, PlainTensorsOfGgufAreWatchedToo) {
    const std::filesystem::path gguf = as_gguf();
    const auto model = Transformer::load(folder_, LoadOptions{.weights = gguf});
    EXPECT_EQ(model->forward(input()).values(), Transformer::load(folder_)->forward(input()).values());
    const auto later = Transformer::load(folder_, LoadOptions{.weights = gguf});
    std::filesystem::resize_file(gguf, 1000);
    EXPECT_THAT(error_of_forward(*later), HasSubstr("model.gguf: was shortened while it was read"));
    EXPECT_THROW(later->check_intact(), IoError);
}

TEST_F(WeightFileTest, AMatrixOfAsManyElementsIsNotEnough) {
    const std::filesystem::path path = files_.folder() / "shapes.gguf";
    write_gguf(path, {zeros("matrix", {4, 6}), zeros("kernel", {4, 3, 2}), zeros("led", {1, 4, 6}),
                      zeros("row", {6}), zeros("joined", {12, 1, 2, 2})});
    const WeightFile file = WeightFile::open(path);
    EXPECT_TRUE(file.fits("matrix", {4, 6}));
    EXPECT_FALSE(file.fits("matrix", {6, 4}));
    EXPECT_FALSE(file.fits("matrix", {24}));
    EXPECT_TRUE(file.fits("matrix", {1, 4, 6}));
    EXPECT_TRUE(file.fits("kernel", {4, 6}));
    EXPECT_FALSE(file.fits("kernel", {6, 4}));
    EXPECT_TRUE(file.fits("led", {4, 6}));
    EXPECT_FALSE(file.fits("led", {6, 4}));
    EXPECT_TRUE(file.fits("row", {1, 6}));
    EXPECT_FALSE(file.fits("row", {6, 1}));
    EXPECT_TRUE(file.fits("joined", {4, 3, 1, 2, 2}));
    EXPECT_FALSE(file.fits("joined", {4, 3, 1, 2, 1}));
}

TEST_F(WeightFileTest, ATransposedLayerOfGgufIsAnErrorThatNamesIt) {
    const auto file = SafetensorsFile::open(weights_);
    const std::filesystem::path gguf = files_.folder() / "transposed.gguf";
    std::vector<Stored> tensors;
    for (const std::string& name : file.names()) {
        const Tensor tensor = file.tensor(name);
        Shape shape = tensor.shape();
        if (shape.size() > 4) shape = {shape[0] * shape[1], shape[2], shape[3], shape[4]};
        if (name == "blocks.1.ffn.net.2.weight") std::swap(shape[0], shape[1]);
        tensors.push_back({name, shape, kF32, bytes_of(tensor)});
    }
    write_gguf(gguf, tensors);
    try {
        Transformer::load(folder_, LoadOptions{.weights = gguf});
        FAIL() << "no error";
    } catch (const InvalidArgument& error) {
        EXPECT_THAT(error.what(), HasSubstr("transposed.gguf"));
        EXPECT_THAT(error.what(),
                    HasSubstr("blocks.1.ffn.net.2.weight must be a float[32,48], got f32[48,32]"));
    }
}

TEST_F(WeightFileTest, AVectorMayConsistOfBlocks) {
    std::string blocks;
    for (int block = 0; block < 2; ++block) {
        put(blocks, std::uint16_t{0x3C00});  // 1 as float16
        for (int i = 0; i < 32; ++i) put(blocks, static_cast<std::int8_t>(32 * block + i));
    }
    const std::filesystem::path path = files_.folder() / "vector.gguf";
    write_gguf(path, {{"vector", {64}, kQ8, blocks}});
    const WeightFile file = WeightFile::open(path);
    EXPECT_EQ(file.stored_bytes("vector"), 68U);
    const std::vector<float> values = file.tensor("vector").values();
    ASSERT_EQ(values.size(), 64U);
    for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<float>(i));
}

TEST_F(WeightFileTest, OnlyWholeBlocksAreParts) {
    static constexpr std::array kRules = {OriginalName{"*.qkv", {"*.q", "*.k", "*.v"}}};
    std::string blocks(3 * 34, '\0');
    const std::filesystem::path path = files_.folder() / "parts.gguf";
    write_gguf(path, {{"1.qkv", {96}, kQ8, blocks}, {"2.qkv", {3, 32}, kQ8, blocks}});
    const WeightFile file = WeightFile::open(path, {"qkv", kRules});
    EXPECT_EQ(file.names(), (std::vector<std::string>{"1.qkv", "2.q", "2.k", "2.v"}));
    EXPECT_EQ(file.stored_bytes("1.qkv"), 102U);
    EXPECT_EQ(file.stored_bytes("2.k"), 34U);
    EXPECT_EQ(file.tensor("1.qkv").count(), 96);
}

}  // namespace
}  // namespace aerogel
