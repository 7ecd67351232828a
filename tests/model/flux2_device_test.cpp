// A Flux2 transformer on a device whose memory the host must not touch, and its memory against what it says.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>

#include "aerogel/quantize.h"
#include "aerogel/safetensors.h"
#include "aerogel/transformer.h"
#include "base/random.h"
#include "ops/hidden_machine.h"

namespace aerogel {
namespace {

constexpr std::int64_t kFluxDim = 32, kFluxMlp = 48, kFluxText = 12;

class TinyFlux2 {
  public:
    TinyFlux2()
        : folder_(std::filesystem::temp_directory_path() / ("aerogel_flux2_" + std::to_string(::getpid()))) {
        std::filesystem::create_directories(folder_);
        std::ofstream(folder_ / "config.json")
            << R"({"_class_name": "Flux2Transformer2DModel", "in_channels": 8, "num_layers": 1,
                   "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
                   "joint_attention_dim": 12, "timestep_guidance_channels": 16, "mlp_ratio": 1.5,
                   "axes_dims_rope": [4, 4, 4, 4], "guidance_embeds": false})";
        const std::string time = "time_guidance_embed.timestep_embedder.";
        add(time + "linear_1", kFluxDim, 16);
        add(time + "linear_2", kFluxDim, kFluxDim);
        for (const char* stream : {"double_stream_modulation_img", "double_stream_modulation_txt"})
            add(std::string(stream) + ".linear", 6 * kFluxDim, kFluxDim);
        add("single_stream_modulation.linear", 3 * kFluxDim, kFluxDim);
        add("x_embedder", kFluxDim, 8);
        add("context_embedder", kFluxDim, kFluxText);
        add_blocks();
        add("norm_out.linear", 2 * kFluxDim, kFluxDim);
        add("proj_out", 8, kFluxDim);
        save_safetensors(folder_ / "diffusion_pytorch_model.safetensors", tensors_);
    }
    ~TinyFlux2() { std::filesystem::remove_all(folder_); }
    TinyFlux2(const TinyFlux2&) = delete;
    TinyFlux2& operator=(const TinyFlux2&) = delete;

    const std::filesystem::path& folder() const { return folder_; }

  private:
    void add_blocks() {
        const std::string both = "transformer_blocks.0.", one = "single_transformer_blocks.0.attn.";
        for (const char* layer :
             {"to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"})
            add(both + "attn." + layer, kFluxDim, kFluxDim);
        for (const char* norm : {"norm_q", "norm_k", "norm_added_q", "norm_added_k"})
            add_tensor(both + "attn." + norm + ".weight", {16});
        for (const char* ff : {"ff.", "ff_context."}) {
            add(both + ff + "linear_in", 2 * kFluxMlp, kFluxDim);
            add(both + ff + "linear_out", kFluxDim, kFluxMlp);
        }
        add(one + "to_qkv_mlp_proj", 3 * kFluxDim + 2 * kFluxMlp, kFluxDim);
        add(one + "to_out", kFluxDim, kFluxDim + kFluxMlp);
        add_tensor(one + "norm_q.weight", {16});
        add_tensor(one + "norm_k.weight", {16});
    }

    void add(const std::string& name, std::int64_t out, std::int64_t in) {
        add_tensor(name + ".weight", {out, in});
    }

    void add_tensor(const std::string& name, const Shape& shape) {
        Tensor tensor(DType::f32, shape);
        auto* values = tensor.mutable_as<float>();
        fill_normal(std::span(values, static_cast<std::size_t>(tensor.count())), 1, tensors_.size());
        for (std::int64_t i = 0; i < tensor.count(); ++i) values[i] *= 0.3F;
        tensors_[name] = tensor;
    }

    std::filesystem::path folder_;
    std::map<std::string, Tensor> tensors_;
};

class Flux2DeviceTest : public ::testing::Test {
  protected:
    Tensor run(Device device, const OnlineQuantConfig* config, double* seen) {
        const auto model = Transformer::load(files_.folder(), device);
        if (config != nullptr) quantize(*model, *config);
        TransformerInput input;
        input.hidden_states = noise({2, 8, 1, 3, 5}, 1);
        input.timestep = Tensor::of(std::vector<float>{700.0F, 31.0F}, {2});
        input.encoder_hidden_states = noise({2, 3, kFluxText}, 2);
        TransformerStep step;
        const auto add = [&](const TensorView& view) {
            EXPECT_EQ(view.device, Device::cpu);
            // A matrix may have a row stride, everything else is contiguous.
            const std::int64_t columns = view.contiguous() ? view.count() : view.dim(1);
            const std::int64_t stride = view.contiguous() ? columns : view.strides[0];
            for (std::int64_t i = 0; i < view.count(); ++i)
                *seen += std::abs(view.as<float>()[i / columns * stride + i % columns]);
        };
        step.on_linear_input = [&](const std::string&, const TensorView& x) { add(x); };
        step.on_attention_input = [&](const AttentionInput& at) {
            EXPECT_EQ(at.text_len, 3);
            EXPECT_TRUE(at.text_first);
            add(at.k);
        };
        step.on_block_output = [&](int, const TensorView& hidden) { add(hidden); };
        const Tensor velocity = model->forward(input, step);
        EXPECT_EQ(velocity.device(), device);
        return velocity;
    }

    static Tensor noise(const Shape& shape, std::uint64_t seed) {
        Tensor tensor(DType::f32, shape);
        fill_normal(std::span(tensor.mutable_as<float>(), static_cast<std::size_t>(tensor.count())), seed, 0);
        return tensor;
    }

    void same_as_on_the_cpu(const OnlineQuantConfig* config, double most_error) {
        double seen_here = 0.0, seen_there = 0.0;
        const std::vector<float> here = run(Device::cpu, config, &seen_here).values();
        const std::vector<float> there = run(testing::HiddenDevice::kDevice, config, &seen_there).values();
        double error = 0.0, size = 0.0;
        for (std::size_t i = 0; i < here.size(); ++i) {
            error += std::pow(static_cast<double>(here[i] - there[i]), 2.0);
            size += std::pow(static_cast<double>(here[i]), 2.0);
        }
        EXPECT_EQ(here.size(), there.size());
        EXPECT_GT(size, 0.0);
        EXPECT_LE(std::sqrt(error / size), most_error);
        EXPECT_GT(seen_here, 0.0);
        EXPECT_NEAR(seen_there / seen_here, 1.0, most_error);
    }

    const TinyFlux2 files_;
    const testing::HiddenDevice device_;
};

TEST_F(Flux2DeviceTest, FloatModels) {
    same_as_on_the_cpu(nullptr, 1e-5);
}

TEST_F(Flux2DeviceTest, QuantizedModels) {
    for (const char* scheme : {"W8A8_DYNAMIC", "W8A16", "W4A16"}) {
        SCOPED_TRACE(scheme);
        OnlineQuantConfig config;
        config.quant_type = scheme;
        config.fa_quant_type = "INT8_DYNAMIC";
        same_as_on_the_cpu(&config, 2e-2);
    }
}

TEST_F(Flux2DeviceTest, TheFileIsWatched) {
    const auto model = Transformer::load(files_.folder());
    model->check_intact();
    EXPECT_GT(model->forward_bytes(100.0), 100.0 * kFluxDim * sizeof(float));
    EXPECT_EQ(model->config().num_layers, 2);
    EXPECT_FALSE(model->config().guidance_embeds);
    std::filesystem::resize_file(files_.folder() / "diffusion_pytorch_model.safetensors", 1000);
    EXPECT_THROW(model->check_intact(), std::exception);
}

}  // namespace
}  // namespace aerogel
