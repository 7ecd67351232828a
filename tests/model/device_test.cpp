// Models on a device whose memory the host must not touch: every forgotten access ends the test.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "aerogel/quantize.h"
#include "aerogel/quantized_linear.h"
#include "base/random.h"
#include "model/tiny_model.h"
#include "ops/elementwise.h"
#include "ops/hidden_machine.h"
#include "quant/algorithms/four_over_six.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

class DeviceTest : public ::testing::Test {
  protected:
    static constexpr Device kDevice = testing::HiddenDevice::kDevice;

    using Change = std::function<void(Pipeline&, GenerateOptions&)>;

    /// The video of a pipeline on the device, after it was found to be that of one on the CPU.
    GenerateResult same_as_on_the_cpu(const Change& change, double most_error = 1e-5) {
        const GenerateResult wanted = run(Device::cpu, change), got = run(kDevice, change);
        EXPECT_EQ(got.video.device(), Device::cpu);
        const std::vector<float> a = wanted.video.values(), b = got.video.values();
        double error = 0.0, size = 0.0;
        for (std::size_t i = 0; i < a.size(); ++i) {
            error += std::pow(static_cast<double>(a[i] - b[i]), 2.0);
            size += std::pow(static_cast<double>(a[i]), 2.0);
        }
        EXPECT_EQ(a.size(), b.size());
        EXPECT_GT(size, 0.0);
        EXPECT_LE(std::sqrt(error / size), most_error);
        return got;
    }

    GenerateResult run(Device device, const Change& change) {
        Pipeline pipeline = Pipeline::load(files_.folder(), device);
        EXPECT_EQ(pipeline.transformer().device(), device);
        GenerateOptions options;
        options.prompt = "up";
        change(pipeline, options);
        return pipeline.generate(options);
    }

    const testing::TinyModel files_{"aerogel_device_test"};
    const testing::HiddenDevice device_;
};

using DeviceDeathTest = DeviceTest;

TEST_F(DeviceDeathTest, TheHostDiesOfReadingItsMemory) {
    const Tensor there = Tensor::zeros(DType::f32, {4}, kDevice);
    EXPECT_EQ(there.values(), std::vector<float>(4, 0.0F));
    EXPECT_DEATH(static_cast<void>(std::isnan(there.as<float>()[0]) ? std::abort() : std::exit(0)), "");
}

TEST_F(DeviceTest, FloatModelsSample) {
    for (const SamplerKind sampler : {SamplerKind::unipc, SamplerKind::euler}) {
        same_as_on_the_cpu([&](Pipeline&, GenerateOptions& options) { options.sampling.sampler = sampler; });
    }
}

TEST_F(DeviceTest, FramesAtTheirOwnNoiseLevels) {
    same_as_on_the_cpu([](Pipeline&, GenerateOptions& options) {
        options.sampling.image_first = true;
        options.sampling.stagger = 0.5;
        options.sampling.steps = 4;
    });
}

TEST_F(DeviceTest, QuantizedModelsSample) {
    for (const char* scheme : {"W8A8_DYNAMIC", "W8A16", "W4A16", "W4A8", "W4A4_DYNAMIC", "WFP8AFP8_DYNAMIC",
                               "W8A8_MXFP8", "W4A4_MXFP4"}) {
        SCOPED_TRACE(scheme);
        // Values at the edge of a rounding fall on either side, as sums are in another order: the further the
        // fewer bits activations have.
        const std::string_view name = scheme;
        const bool is_float = name.find("A16") != name.npos, in_four_bits = name.find("A4") != name.npos;
        const double error = is_float ? 1e-5 : in_four_bits ? 1e-1 : 2e-2;
        same_as_on_the_cpu(
            [&](Pipeline& pipeline, GenerateOptions&) {
                OnlineQuantConfig config;
                config.quant_type = scheme;
                quantize(pipeline.transformer(), config);
            },
            error);
    }
}

TEST_F(DeviceTest, QuantizedAttentionSamples) {
    for (const char* type : {"INT8_DYNAMIC", "FP8_DYNAMIC", "MXFP8_DYNAMIC", "MXFP4_DYNAMIC"}) {
        SCOPED_TRACE(type);
        same_as_on_the_cpu(
            [&](Pipeline& pipeline, GenerateOptions&) {
                OnlineQuantConfig config;
                config.quant_type = "W8A16";
                config.fa_quant_type = type;
                quantize(pipeline.transformer(), config);
            },
            2e-2);
    }
}

TEST_F(DeviceTest, TwoExpertsAreOnOne) {
    const testing::TwoExperts files("aerogel_experts_on_a_device");
    GenerateOptions options;
    options.prompt = "up";
    const auto runs_there = [&](Pipeline pipeline) {
        EXPECT_EQ(pipeline.transformer(1).device(), kDevice);
        EXPECT_EQ(pipeline.generate(options).video.device(), Device::cpu);
    };
    const LoadOptions there = {.device = kDevice};
    runs_there(Pipeline::load(files.folder(), Transformer::load(files.folder(), kDevice)));
    runs_there(Pipeline::load(files.folder(), there, there, LoadOptions{}));
    EXPECT_THROW(Pipeline::load(files.folder(), there, there, LoadOptions{.device = {DeviceKind::cuda, 1}}),
                 InvalidArgument);
}

// What is quantized while it is loaded could come back only from its files, so these go.
TEST_F(DeviceTest, WeightsWaitInHostMemoryBetweenTheirTurns) {
    const testing::TinyModel files("aerogel_weights_that_wait");
    int loads = 0;
    LoadOptions load;
    load.device = kDevice;
    load.online.emplace().quant_type = "W8A8_DYNAMIC";
    load.on_quantized = [&](const QuantizeReport&) { ++loads; };
    Pipeline pipeline = Pipeline::load(files.folder(), load);
    GenerateOptions options;
    options.prompt = "up";
    const Tensor kept = pipeline.generate(options).video;
    const Linear* const layer = &pipeline.transformer().linear("blocks.0.attn1.to_q");
    const std::size_t there = testing::hidden_bytes_in_use(),
                      linears = pipeline.transformer().linear_names().size();
    options.keep = Keep::in_host_memory;
    std::filesystem::remove_all(files.folder() / "transformer");
    std::size_t waiting = there;
    for (int turn = 0; turn < 2; ++turn) {
        const Tensor again = pipeline.generate(options).video;
        EXPECT_EQ(std::memcmp(again.data(), kept.data(), kept.bytes()), 0);
        waiting = testing::hidden_bytes_in_use();
        EXPECT_LE(waiting + linears * testing::hidden_bytes(1), there);  // of each a page at least
    }
    EXPECT_EQ(loads, 1);
    {
        const Tensor x = Tensor::zeros(DType::f32, {1, testing::TinyModel::kDim}, kDevice);
        Tensor y = Tensor::zeros(DType::f32, {1, testing::TinyModel::kDim}, kDevice);
        try {
            layer->forward(x, y, {});
            FAIL();
        } catch (const InvalidArgument& error) {
            EXPECT_STREQ(error.what(),
                         "[linear] the weight waits in host memory: it must be moved to cuda:0 first");
        }
    }
    EXPECT_EQ(&pipeline.transformer().linear("blocks.0.attn1.to_q"), layer);
    EXPECT_EQ(testing::hidden_bytes_in_use(), there);
}

// A second packed form (of wide activations), low-rank branches and rotations go with the layer.
TEST_F(DeviceTest, AllThatALayerHasPackedWaits) {
    const std::int64_t n = 48, k = 64, rank = 8;
    const auto normal = [](const Shape& shape, std::uint64_t seed) {
        Tensor values(DType::f32, shape);
        fill_normal(std::span(values.mutable_as<float>(), static_cast<std::size_t>(values.count())), seed, 0);
        return values;
    };
    QuantizedLinearWeights weights;
    weights.scheme = "W4A4_MXFP4";
    weights.weight = quantize_four_over_six_mxfp4(normal({n, k}, 1));
    weights.low_rank_l1 = normal({rank, k}, 2);
    weights.low_rank_l2 = normal({n, rank}, 3);
    QuantizedLinear layer(weights, kDevice);
    const Tensor x = normal({5, k}, 4).to(kDevice);
    StepContext wide;
    wide.wide_activations = true;
    const auto results = [&] {
        std::vector<float> all;
        for (const StepContext& step : {StepContext{}, wide}) {
            Tensor y(DType::f32, {5, n}, kDevice);
            layer.forward(x, y, step);
            const std::vector<float> values = y.values();
            all.insert(all.end(), values.begin(), values.end());
        }
        return all;
    };
    const std::vector<float> before = results();
    const std::size_t there = testing::hidden_bytes_in_use();
    for (int turn = 0; turn < 2; ++turn) {
        layer.move_weight(WeightPlace::host);
        layer.move_weight(WeightPlace::host);
        EXPECT_LE(testing::hidden_bytes_in_use() + 3 * testing::hidden_bytes(1), there);
        layer.move_weight(WeightPlace::device);
        EXPECT_EQ(testing::hidden_bytes_in_use(), there);
        EXPECT_EQ(results(), before);
    }
}

TEST_F(DeviceTest, CentroidsAreRefusedBeforeTheWork) {
    const Pipeline pipeline = Pipeline::load(files_.folder(), kDevice);
    GenerateOptions options;
    options.prompt = "up";
    options.sparse = SparseConfig{};
    options.sparse->pattern = {.type = "rf_v2", .centroids = true};
    int stages = 0;
    options.on_stage = [&](std::string_view, double) { return ++stages > 0; };
    EXPECT_THROW(pipeline.generate(options), Unsupported);
    EXPECT_EQ(stages, 0);
}

TEST_F(DeviceTest, HooksSeeArraysOnTheCpu) {
    std::map<Device, double, bool (*)(const Device&, const Device&)> sums(
        [](const Device& a, const Device& b) { return a.kind < b.kind; });
    for (const Device device : {Device::cpu, kDevice}) {
        run(device, [&](Pipeline&, GenerateOptions& options) {
            const auto add = [&sums, device](const TensorView& view) {
                EXPECT_EQ(view.device, Device::cpu);
                for (std::int64_t i = 0; i < view.count(); ++i)
                    sums[device] += std::abs(static_cast<double>(view.as<float>()[i]));
            };
            options.on_linear_input = [=](const std::string&, int, const TensorView& x) { add(x); };
            options.on_attention_input = [=](int, const AttentionInput& input) { add(input.q); };
        });
    }
    EXPECT_GT(sums[Device::cpu], 0.0);
    EXPECT_NEAR(sums[kDevice] / sums[Device::cpu], 1.0, 1e-5);
}

TEST_F(DeviceTest, ValuesThatAreNotFiniteAreFound) {
    const auto model = Transformer::load(files_.folder(), kDevice);
    TransformerInput input;
    input.hidden_states = Tensor::zeros(DType::f32, {1, 3, 1, 4, 4});
    input.hidden_states.mutable_as<float>()[5] = NAN;
    input.timestep = Tensor::of(std::vector<float>{500.0F}, {1}, kDevice);
    input.encoder_hidden_states = Tensor::zeros(DType::f32, {1, 2, 8}, kDevice);
    try {
        model->forward(input);
        FAIL();
    } catch (const InvalidArgument& error) {
        EXPECT_THAT(error.what(),
                    HasSubstr("'hidden_states' f32[1,3,1,4,4] is not finite: element [0,0,0,1,1]"));
    }
    input.hidden_states.mutable_as<float>()[5] = 0.0F;
    EXPECT_EQ(model->forward(input).device(), kDevice);
}

// One pass over a batch of two images of 3 x 5 patches.
template <typename Folder>
std::vector<float> image_pass(const Folder& files, Device device, const OnlineQuantConfig* config) {
    const auto model = Transformer::load(files.folder(), device);
    EXPECT_EQ(model->device(), device);
    if (config != nullptr) quantize(*model, *config);
    const auto normal = [&](const Shape& shape, std::uint64_t seed) {
        Tensor values(DType::f32, shape);
        fill_normal(std::span(values.mutable_as<float>(), static_cast<std::size_t>(values.count())), seed, 0);
        return values;
    };
    TransformerInput input;
    input.hidden_states = normal({2, 4, 1, 6, 10}, 5).to(device);
    input.timestep = Tensor::of(std::vector<float>{700.0F, 300.0F}, {2}, device);
    input.encoder_hidden_states = normal({2, 7, Folder::kTextDim}, 6);
    TransformerStep step;
    int blocks = 0;
    step.on_block_output = [&](int, const TensorView& hidden) {
        EXPECT_EQ(hidden.device, Device::cpu);
        ++blocks;
    };
    const Tensor velocity = model->forward(input, step);
    EXPECT_EQ(velocity.device(), device);
    EXPECT_GE(blocks, 2);
    return velocity.values();
}

template <typename Folder>
void same_images_as_on_the_cpu(const char* name) {
    const Folder files(name);
    OnlineQuantConfig few_bits;
    few_bits.quant_type = "W8A8_DYNAMIC";
    OnlineQuantConfig attention;
    attention.quant_type = "W8A16";
    attention.fa_quant_type = "INT8_DYNAMIC";
    const std::pair<const OnlineQuantConfig*, double> cases[] = {
        {nullptr, 1e-5}, {&few_bits, 2e-2}, {&attention, 2e-2}};
    for (const auto& [config, most] : cases) {
        const std::vector<float> wanted = image_pass(files, Device::cpu, config);
        const std::vector<float> got = image_pass(files, testing::HiddenDevice::kDevice, config);
        ASSERT_EQ(wanted.size(), got.size());
        double error = 0.0, size = 0.0;
        for (std::size_t i = 0; i < wanted.size(); ++i) {
            error += std::pow(static_cast<double>(wanted[i] - got[i]), 2.0);
            size += std::pow(static_cast<double>(wanted[i]), 2.0);
        }
        EXPECT_GT(size, 0.0);
        EXPECT_LE(std::sqrt(error / size), most);
    }
}

TEST_F(DeviceTest, ImageModelsRun) {
    same_images_as_on_the_cpu<testing::TinyZImage>("aerogel_device_z_image");
    same_images_as_on_the_cpu<testing::TinyQwenImage>("aerogel_device_qwen_image");
}

TEST_F(DeviceTest, SparseAttentionSamples) {
    same_as_on_the_cpu([](Pipeline&, GenerateOptions& options) {
        options.sparse = SparseConfig{};
        options.sparse->pattern.type = "rf_v2";
        options.sparse->pattern.block_size = 16;
    });
}

}  // namespace
}  // namespace aerogel
