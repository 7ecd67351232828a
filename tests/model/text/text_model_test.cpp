// Text encoders on a device whose memory the host must not touch: every forgotten access ends the test. What
// they compute is compared with transformers by test_text_encoders.py.
#include "model/text/text_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <map>

#include "aerogel/safetensors.h"
#include "base/random.h"
#include "core/temporary_folder.h"
#include "ops/hidden_machine.h"

namespace aerogel {
namespace {

using Weights = std::map<std::string, Tensor>;

void add(Weights& weights, const std::string& name, Shape shape) {
    Tensor tensor(DType::f32, std::move(shape));
    fill_normal({tensor.mutable_as<float>(), static_cast<std::size_t>(tensor.count())}, weights.size());
    for (std::int64_t i = 0; i < tensor.count(); ++i) tensor.mutable_as<float>()[i] *= 0.3F;
    weights[name] = tensor;
}

void write(const std::filesystem::path& folder, const char* config, const Weights& weights) {
    std::ofstream(folder / "config.json") << config;
    save_safetensors(folder / "model.safetensors", weights);
}

void write_qwen3(const std::filesystem::path& folder) {
    Weights weights;
    add(weights, "embed_tokens.weight", {11, 16});
    add(weights, "norm.weight", {16});
    for (const std::string layer : {"layers.0.", "layers.1."}) {
        const std::string attention = layer + "self_attn.", ffn = layer + "mlp.";
        add(weights, layer + "input_layernorm.weight", {16});
        add(weights, layer + "post_attention_layernorm.weight", {16});
        add(weights, attention + "q_proj.weight", {24, 16});
        add(weights, attention + "k_proj.weight", {12, 16});
        add(weights, attention + "v_proj.weight", {12, 16});
        add(weights, attention + "o_proj.weight", {16, 24});
        add(weights, attention + "q_norm.weight", {6});
        add(weights, attention + "k_norm.weight", {6});
        add(weights, ffn + "gate_proj.weight", {20, 16});
        add(weights, ffn + "up_proj.weight", {20, 16});
        add(weights, ffn + "down_proj.weight", {16, 20});
    }
    write(folder,
          R"({"architectures": ["Qwen3Model"], "vocab_size": 11, "hidden_size": 16, "intermediate_size": 20,
              "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6})",
          weights);
}

void write_umt5(const std::filesystem::path& folder) {
    Weights weights;
    add(weights, "shared.weight", {11, 16});
    add(weights, "encoder.final_layer_norm.weight", {16});
    for (const std::string block : {"encoder.block.0.", "encoder.block.1."}) {
        const std::string attention = block + "layer.0.SelfAttention.",
                          ffn = block + "layer.1.DenseReluDense.";
        add(weights, block + "layer.0.layer_norm.weight", {16});
        add(weights, block + "layer.1.layer_norm.weight", {16});
        for (const char* name : {"q.weight", "k.weight", "v.weight"})
            add(weights, attention + name, {12, 16});
        add(weights, attention + "o.weight", {16, 12});
        add(weights, attention + "relative_attention_bias.weight", {8, 2});
        add(weights, ffn + "wi_0.weight", {20, 16});
        add(weights, ffn + "wi_1.weight", {20, 16});
        add(weights, ffn + "wo.weight", {16, 20});
    }
    write(
        folder,
        R"({"architectures": ["UMT5EncoderModel"], "vocab_size": 11, "d_model": 16, "d_ff": 20, "num_layers": 2,
              "num_heads": 2, "d_kv": 6, "relative_attention_num_buckets": 8, "feed_forward_proj": "gated-gelu"})",
        weights);
}

class TextModelTest : public TemporaryFolder,
                      public ::testing::WithParamInterface<void (*)(const std::filesystem::path&)> {};

TEST_P(TextModelTest, HiddenStatesOnADeviceAreThoseOnTheCpu) {
    GetParam()(folder_);
    const testing::HiddenDevice device;
    const std::array<std::int32_t, 7> ids = {3, 1, 4, 1, 5, 9, 0};
    const std::array<std::int64_t, 3> layers = {0, 1, 2};
    const auto here = TextModel::load(folder_);
    const auto there = TextModel::load(folder_, {.device = testing::HiddenDevice::kDevice});
    const std::vector<Tensor> wanted = here->hidden_states(ids, 5, layers);
    const std::vector<Tensor> got = there->hidden_states(ids, 5, layers);
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
        EXPECT_EQ(got[layer].device(), testing::HiddenDevice::kDevice);
        const std::vector<float> a = wanted[layer].values(), b = got[layer].values();
        ASSERT_EQ(a.size(), b.size());
        float largest = 0.0F;
        for (const float value : a) largest = std::max(largest, std::fabs(value));
        for (std::size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-5F * largest) << layer;
    }
    EXPECT_EQ(here->weight_bytes(), there->weight_bytes());
}

INSTANTIATE_TEST_SUITE_P(Models, TextModelTest, ::testing::Values(write_qwen3, write_umt5));

}  // namespace
}  // namespace aerogel
