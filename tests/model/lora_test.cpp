// What a LoRA file says, and what becomes of the weights that it changes.

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "aerogel/safetensors.h"
#include "aerogel/transformer.h"
#include "model/lora_keys.h"
#include "model/tiny_model.h"

namespace aerogel {
namespace {

constexpr const char* kLayer = "blocks.0.attn1.to_q";

class LoraTest : public ::testing::Test {
  protected:
    std::filesystem::path lora(const std::map<std::string, std::string>& metadata = {}) const {
        const std::filesystem::path path = files_.folder() / "lora.safetensors";
        const std::string name = std::string("transformer.") + kLayer;
        Tensor down(DType::f32, {1, 32}), up(DType::f32, {32, 1});
        for (std::int64_t i = 0; i < 32; ++i) {
            down.mutable_as<float>()[i] = static_cast<float>(i) / 64.0F;
            up.mutable_as<float>()[i] = static_cast<float>(i % 5) / 8.0F;
        }
        save_safetensors(path, {{name + ".lora_A.weight", down}, {name + ".lora_B.weight", up}}, metadata);
        return path;
    }

    LoraMetadata metadata(const std::string& json) const {
        return lora_keys(SafetensorsFile::open(lora({{"lora_adapter_metadata", json}}))).metadata;
    }

    static Tensor weight_of(const Transformer& model) {
        return dynamic_cast<const FloatLinear&>(model.linear(kLayer)).weight();
    }

    const testing::TinyModel files_{"aerogel_lora"};
    const std::filesystem::path folder_ = files_.folder() / "transformer";
};

TEST_F(LoraTest, AFileThatIsShortenedLaterChangesNothing) {
    const std::filesystem::path path = lora();
    const auto model = Transformer::load(folder_, LoadOptions{.loras = {{path, 1.0}}});
    const std::vector<float> before = weight_of(*model).values();
    EXPECT_NE(before, weight_of(*Transformer::load(folder_)).values());
    std::filesystem::resize_file(path, 10);
    EXPECT_EQ(weight_of(*model).values(), before);
}

TEST_F(LoraTest, SumsHaveTheTypeOfTheWeight) {
    const std::filesystem::path weights = folder_ / "diffusion_pytorch_model.safetensors";
    std::map<std::string, Tensor> tensors;
    {
        const auto file = SafetensorsFile::open(weights);
        for (const std::string& name : file.names()) tensors[name] = file.tensor(name).to(DType::bf16);
    }
    save_safetensors(weights, tensors);
    const Tensor base = tensors.at(std::string(kLayer) + ".weight").to(DType::f32);
    Tensor sum(DType::f32, base.shape());
    for (std::int64_t row = 0; row < 32; ++row) {
        for (std::int64_t column = 0; column < 32; ++column) {
            const std::int64_t i = 32 * row + column;
            const float change = static_cast<float>(column) / 64.0F * (static_cast<float>(row % 5) / 8.0F);
            sum.mutable_as<float>()[i] = base.as<float>()[i] + change;
        }
    }
    const auto model = Transformer::load(folder_, LoadOptions{.loras = {{lora(), 1.0}}});
    const Tensor merged = weight_of(*model);
    EXPECT_EQ(merged.dtype(), DType::bf16);
    EXPECT_EQ(merged.to(DType::f32).values(), sum.to(DType::bf16).to(DType::f32).values());
}

TEST_F(LoraTest, TheFactorIsThatOfPeft) {
    EXPECT_EQ(metadata("{}").scale(kLayer, 4), 1.0);
    EXPECT_EQ(metadata(R"({"transformer.lora_alpha": 0})").scale(kLayer, 4), 0.0);
    EXPECT_EQ(metadata(R"({"transformer.lora_alpha": 8})").scale(kLayer, 4), 2.0);
    EXPECT_EQ(metadata(R"({"transformer.lora_alpha": 8, "transformer.use_rslora": true})").scale(kLayer, 4),
              4.0);
}

TEST_F(LoraTest, TheFirstPatternThatFitsAtADotCounts) {
    const LoraMetadata both = metadata(
        R"({"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"to_q": 4, "q": 12, "blocks.0.attn1.to_q": 16}})");
    EXPECT_EQ(both.scale(kLayer, 4), 1.0);
    EXPECT_EQ(both.scale("blocks.0.attn1.q", 4), 3.0);
    EXPECT_EQ(both.scale("blocks.0.attn1.add_to_q", 4), 2.0);
    const LoraMetadata turned =
        metadata(R"({"transformer.alpha_pattern": {"blocks.0.attn1.to_q": 16, "attn1.to_q": 4}})");
    EXPECT_EQ(turned.scale(kLayer, 4), 4.0);
    EXPECT_EQ(turned.scale("blocks.1.attn1.to_q", 4), 1.0);
    EXPECT_EQ(turned.scale("blocks.1.ffn.net.2", 4), 1.0);
}

}  // namespace
}  // namespace aerogel
