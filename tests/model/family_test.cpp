// A model family is one folder and one row: here is a second one, made of nothing but what a family writes
// (its layers and one forward pass). Everything that is done with a model works on it.
#include "model/families.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <span>

#include "aerogel/error.h"
#include "aerogel/pipeline.h"
#include "aerogel/quantize.h"
#include "aerogel/safetensors.h"
#include "base/random.h"
#include "core/json.h"
#include "model/automatic.h"
#include "model/calibrate.h"
#include "model/checkpoint.h"
#include "model/inspect.h"
#include "model/mine.h"
#include "model/quantize.h"
#include "model/slots.h"
#include "model/text/text_model.h"
#include "model/tiny_model.h"

namespace aerogel {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::int64_t kHeads = 2, kHeadDim = 16, kChannels = kHeads * kHeadDim;

// One self-attention over pixels, plus the caption's first numbers. Names of its own, one timestep per video.
class PixelTransformer final : public Transformer {
  public:
    static constexpr const char* kClass = "PixelTransformer3DModel";
    static std::unique_ptr<Transformer> load(const std::filesystem::path& folder,
                                             const LoadOptions& options) {
        return std::make_unique<PixelTransformer>(Checkpoint::open("pixel", folder, options));
    }

    explicit PixelTransformer(Checkpoint checkpoint) {
        Parts parts;
        parts.family = "pixel";
        parts.config = {.patch_size = {1, 1, 1},
                        .num_layers = 1,
                        .num_attention_heads = kHeads,
                        .attention_head_dim = kHeadDim,
                        .in_channels = kChannels,
                        .out_channels = kChannels,
                        .text_dim = 8,
                        .expand_timesteps = false};
        for (std::size_t i = 0; i < kNames.size(); ++i) {
            linears_[i].name = kNames[i];
            linears_[i].layer = std::make_unique<FloatLinear>(
                checkpoint.take(linears_[i].name + ".weight", {kChannels, kChannels}), Tensor());
            parts.linears.push_back(&linears_[i]);
        }
        checkpoint.finish();
        parts.attentions = {&attention_};
        set_parts(std::move(parts));
    }

    static constexpr std::array<const char*, 4> kNames = {"mix.q", "mix.k", "mix.v", "mix.out"};
    std::string_view default_layers() const override { return "mix.{q,k,v}"; }
    std::string_view default_attentions() const override { return "mix"; }
    double forward_bytes(double tokens) const override { return 4.0 * tokens * kChannels * sizeof(float); }
    void check_intact() const override {}

  private:
    Tensor run(const TransformerInput& input, const TransformerStep& step) const override {
        const Tensor& video = input.hidden_states;
        const LatentShape latent{video.dim(2), video.dim(3), video.dim(4)};
        const Shape rows = {latent.tokens(), kChannels};
        const Tensor x = transposed(video, latent.tokens(), rows);
        std::array<Tensor, 4> y;
        for (std::size_t i = 0; i < 3; ++i) {
            y[i] = Tensor(DType::f32, rows);
            run_linear(linears_[i], x, y[i], step);
        }
        const Shape heads = {1, latent.tokens(), kHeads, kHeadDim};
        run_attention(attention_,
                      {0, true, y[0].reshaped(heads), y[1].reshaped(heads), y[2].reshaped(heads),
                       x.reshaped(heads), latent},
                      step);
        y[3] = Tensor(DType::f32, rows);
        run_linear(linears_[3], x, y[3], step);
        const auto* caption = input.encoder_hidden_states.as<float>();
        for (std::int64_t i = 0; i < y[3].count(); ++i) y[3].mutable_as<float>()[i] += caption[i % 8];
        return transposed(y[3], kChannels, video.shape());
    }

    // Rows of `columns` numbers become columns.
    static Tensor transposed(const Tensor& from, std::int64_t columns, const Shape& shape) {
        Tensor to(DType::f32, shape);
        const std::int64_t rows = from.count() / columns;
        for (std::int64_t i = 0; i < from.count(); ++i)
            to.mutable_as<float>()[i % columns * rows + i / columns] = from.as<float>()[i];
        return to;
    }

    std::array<LinearSlot, 4> linears_;
    AttentionSlot attention_{"mix", kHeads, kHeadDim, std::nullopt};
};

// Its one Linear has a name that stays float in models that say nothing about themselves.
class EmbedderTransformer final : public Transformer {
  public:
    EmbedderTransformer() {
        linear_.name = "time_embedder.norm";
        linear_.layer = std::make_unique<FloatLinear>(Tensor::zeros(DType::f32, {8, 8}), Tensor());
        Parts parts;
        parts.family = "embedder";
        parts.linears = {&linear_};
        set_parts(std::move(parts));
    }
    std::string_view default_layers() const override { return "time_embedder.*"; }
    double forward_bytes(double) const override { return 0.0; }
    void check_intact() const override {}

  private:
    Tensor run(const TransformerInput& input, const TransformerStep&) const override {
        return input.hidden_states;
    }

    LinearSlot linear_;
};

// All that is to be said about the new family outside of its folder.
std::vector<FamilyRow> with_pixel() {
    std::vector<FamilyRow> rows(families().begin(), families().end());
    rows.push_back({PixelTransformer::kClass, PixelTransformer::load, {"mix.{q,k,v}", "mix"}});
    return rows;
}

class FamilyTest : public ::testing::Test {
  protected:
    FamilyTest() : files_("aerogel_family_test") {
        std::ofstream(folder() / "transformer" / "config.json")
            << R"({"_class_name": "PixelTransformer3DModel"})";
        std::map<std::string, Tensor> weights;
        for (const char* name : PixelTransformer::kNames) {
            Tensor weight(DType::f32, {kChannels, kChannels});
            fill_normal(std::span(weight.mutable_as<float>(), static_cast<std::size_t>(weight.count())), 3,
                        weights.size());
            for (std::int64_t i = 0; i < weight.count(); ++i) weight.mutable_as<float>()[i] *= 0.2F;
            weights[std::string(name) + ".weight"] = weight;
        }
        save_safetensors(folder() / "transformer" / "diffusion_pytorch_model.safetensors", weights);
    }

    const std::filesystem::path& folder() const { return files_.folder(); }
    Pipeline load() const { return Pipeline::load(folder(), load_transformer(folder(), with_pixel())); }

    testing::TinyModel files_;  // captions, scheduler and sizes come from here
};

GenerateOptions caption(const char* prompt) {
    GenerateOptions options;
    options.prompt = prompt;
    return options;
}

template <typename Call>
std::string error_of(const Call& call) {
    try {
        call();
    } catch (const Error& error) {
        return error.what();
    }
    return "no error";
}

TEST_F(FamilyTest, ConfigJsonNamesTheFamily) {
    const auto model = load_transformer(folder(), with_pixel());
    EXPECT_THAT(model->linear_names(), ElementsAre("mix.q", "mix.k", "mix.v", "mix.out"));
    EXPECT_THAT(model->attention_names(), ElementsAre("mix"));
    EXPECT_EQ(model->attention("mix").heads, kHeads);
    EXPECT_EQ(model->weight_bytes(), 4U * kChannels * kChannels * sizeof(float));
    EXPECT_THAT(error_of([&] { model->linear("mix.p"); }),
                HasSubstr("[pixel] the model has no Linear mix.p"));
}

TEST_F(FamilyTest, AnUnknownFamilyIsAnErrorThatListsTheKnownOnes) {
    EXPECT_THAT(error_of([&] { Transformer::load(folder()); }),
                AllOf(HasSubstr("_class_name must be one of WanTransformer3DModel, "),
                      HasSubstr(R"(, got "PixelTransformer3DModel")")));
    std::ofstream(folder() / "transformer" / "config.json") << R"({"_class_name": "FluxTransformer2DModel"})";
    EXPECT_THAT(error_of([&] { load_transformer(folder(), with_pixel()); }),
                AllOf(HasSubstr("_class_name must be one of WanTransformer3DModel, "),
                      HasSubstr(R"(, PixelTransformer3DModel, got "FluxTransformer2DModel")")));
}

TEST_F(FamilyTest, SamplesSparselyWithCaptions) {
    GenerateOptions options = caption("up");
    options.sparse = SparseConfig{};
    options.sparse->pattern.type = "rf_v2";
    options.sparse->pattern.sparsity = 0.5;
    options.sparse->pattern.block_size = 16;
    const GenerateResult result = load().generate(options);
    EXPECT_EQ(result.video.shape(), (Shape{kChannels, 3, 16, 16}));
    EXPECT_EQ(result.sparse_calls.size(), 6U);  // 3 steps, with and without the caption
    for (const SparseCall& call : result.sparse_calls) EXPECT_LT(call.report.density(), 0.9);
}

TEST_F(FamilyTest, KnowsWhatIsQuantizedByDefault) {
    Pipeline pipeline = load();
    const Tensor before = pipeline.generate(caption("up")).video;
    OnlineQuantConfig config;
    config.fa_quant_type = "INT8_DYNAMIC";
    const QuantizeReport report = quantize(pipeline.transformer(), config);
    std::map<std::string, std::string> schemes;
    for (const auto& layer : report.layers) schemes[layer.name] = layer.scheme;
    EXPECT_EQ(schemes, (std::map<std::string, std::string>{{"mix", "INT8_DYNAMIC"},
                                                           {"mix.k", "W8A8_DYNAMIC"},
                                                           {"mix.out", "FLOAT"},
                                                           {"mix.q", "W8A8_DYNAMIC"},
                                                           {"mix.v", "W8A8_DYNAMIC"}}));
    EXPECT_LT(report.bytes_after, report.bytes_before);
    const Tensor after = pipeline.generate(caption("up")).video;
    float difference = 0.0F;
    for (std::int64_t i = 0; i < after.count(); ++i)
        difference = std::max(difference, std::abs(after.as<float>()[i] - before.as<float>()[i]));
    EXPECT_GT(difference, 0.0F);
}

// What config.json says without a model, and a model of these files.
void expect_same_defaults(const std::filesystem::path& folder, std::span<const FamilyRow> rows) {
    const auto model = load_transformer(folder, rows);
    const std::filesystem::path inner = folder / "transformer" / "config.json";
    const std::filesystem::path config = std::filesystem::exists(inner) ? inner : folder / "config.json";
    const DefaultPatterns patterns = default_patterns(JsonNode::read(config, "test"), rows);
    EXPECT_EQ(patterns.layers, model->default_layers());
    EXPECT_EQ(patterns.attentions, model->default_attentions());
}

TEST_F(FamilyTest, FilesTellTheDefaultsOfTheirFamily) {
    const std::vector<FamilyRow> rows = with_pixel();
    expect_same_defaults(folder(), rows);
    EXPECT_THAT(inspect(folder(), {.known_families = rows}).text,
                HasSubstr("4 float Linear layers, 3 of them quantized by default (mix.{q,k,v})"));
    EXPECT_THAT(inspect(folder()).text, HasSubstr("4 float Linear layers, 0 of them quantized by default"));
}

TEST(Family, FilesOfWanTellItsDefaults) {
    const testing::TinyModel files("aerogel_family_of_wan");
    expect_same_defaults(files.folder(), families());
}

TEST(Family, FilesOfImageModelsTellTheirDefaults) {
    expect_same_defaults(testing::TinyZImage("aerogel_family_of_z_image").folder(), families());
    expect_same_defaults(testing::TinyQwenImage("aerogel_family_of_qwen_image").folder(), families());
}

TEST(Family, TextEncodersAreQuantizedWithoutTheirVision) {
    for (const char* name :
         {"layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj", "language_model.model.layers.0.mlp.up_proj",
          "language_model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj",
          "text_model.encoder.layers.0.mlp.fc1", "encoder.block.0.layer.0.SelfAttention.q"})
        EXPECT_TRUE(matches(kTextLayers, name)) << name;
    for (const char* name :
         {"lm_head", "visual.blocks.0.mlp.up_proj", "model.visual.blocks.0.mlp.up_proj",
          "vision_tower.transformer.layers.0.feed_forward.up_proj", "vision_model.encoder.layers.0.mlp.fc1",
          "model.vision_tower.transformer.layers.0.feed_forward.up_proj"})
        EXPECT_FALSE(matches(kTextLayers, name)) << name;
}

TEST(Family, QuantizesWhateverItsPatternsSay) {
    EmbedderTransformer model;
    const QuantizeReport report = quantize(model, OnlineQuantConfig{});
    ASSERT_EQ(report.layers.size(), 1U);
    EXPECT_EQ(report.layers[0].scheme, "W8A8_DYNAMIC") << report.layers[0].why;
}

TEST_F(FamilyTest, IsQuantizedWhileItIsLoaded) {
    const std::vector<FamilyRow> rows = with_pixel();
    QuantizeReport report;
    const LoadOptions options = {.online = OnlineQuantConfig{},
                                 .on_quantized = [&](const QuantizeReport& made) { report = made; }};
    const auto loaded = load_transformer(folder(), rows, options);
    const auto later = load_transformer(folder(), rows);
    const QuantizeReport wanted = quantize(*later, OnlineQuantConfig{});
    EXPECT_EQ(report.layers.size(), wanted.layers.size());
    EXPECT_EQ(report.bytes_before, wanted.bytes_before);
    EXPECT_EQ(report.bytes_after, wanted.bytes_after);
    for (const std::string& name : later->linear_names())
        EXPECT_EQ(loaded->linear(name).scheme(), later->linear(name).scheme());
    EXPECT_EQ(loaded->linear("mix.q").scheme(), "W8A8_DYNAMIC");

    LoadOptions both = options;
    both.quantized = folder();
    EXPECT_THAT(error_of([&] { load_transformer(folder(), rows, both); }),
                HasSubstr("[load] either quantized files or a scheme in memory"));
}

TEST_F(FamilyTest, IsQuantizedWhereItIsLargeForTheMemory) {
    QuantizeReport report;
    const LoadOptions options = {.automatic = true,
                                 .on_quantized = [&](const QuantizeReport& made) { report = made; }};
    const auto loaded_with = [&](double memory) {
        report = {};
        const auto model = load_transformer(folder(), with_pixel());
        quantize_as_loaded(*model, options, memory);
        return model->linear("mix.q").scheme();
    };
    const double bytes = 4.0 * 4.0 * kChannels * kChannels;  // four float32 matrices
    EXPECT_EQ(loaded_with(2.0 * bytes), "FLOAT");
    EXPECT_EQ(report.because, "");
    EXPECT_EQ(loaded_with(1.9 * bytes), "W8A8_DYNAMIC");
    EXPECT_THAT(report.because,
                HasSubstr("quantized to W8A8_DYNAMIC while loading: float weights would take"));
    EXPECT_EQ(loaded_with(0.4 * bytes), "W4A8");
}

// Defaults of 49,152 weights, modulation of 24,576, others of 13,056.
TEST(Family, ModulationFollowsWhereMemoryIsShort) {
    const testing::TinyQwenImage files("aerogel_short_memory");
    const std::string attention = "transformer_blocks.1.attn.to_add_out",
                      modulation = "transformer_blocks.1.txt_mod.1";
    QuantizeReport report;
    const LoadOptions options = {.automatic = true,
                                 .on_quantized = [&](const QuantizeReport& made) { report = made; }};
    const auto schemes_with = [&](double memory) {
        report = {};
        const auto model = Transformer::load(files.folder());
        quantize_as_loaded(*model, options, memory);
        EXPECT_EQ(model->linear("proj_out").scheme(), "FLOAT");
        return model->linear(attention).scheme() + " " + model->linear(modulation).scheme();
    };
    EXPECT_EQ(schemes_with(700e3), "FLOAT FLOAT");
    EXPECT_EQ(schemes_with(600e3), "W8A8_DYNAMIC FLOAT");
    EXPECT_EQ(schemes_with(360e3), "W8A8_DYNAMIC W8A16");
    EXPECT_EQ(schemes_with(160e3), "W4A8 W4A16");
    EXPECT_THAT(report.because,
                HasSubstr("quantized to W4A8 (transformer_blocks.*.{img_mod,txt_mod}.* to W4A16) while"));
}

// All Linears of the blocks of Qwen-Image, 20 billion weights.
std::vector<SizedLinear> qwen_image_blocks() {
    constexpr std::int64_t kDim = 3072;
    std::vector<SizedLinear> linears;
    for (int i = 0; i < 60; ++i) {
        const std::string block = "transformer_blocks." + std::to_string(i) + ".";
        const auto add = [&](const std::string& name, std::int64_t out, std::int64_t in) {
            linears.push_back({block + name, {out, in}, DType::bf16});
        };
        for (const char* layer : {"q", "k", "v", "out", "add_q", "add_k", "add_v", "add_out"})
            add(std::string("attn.to_") + layer, kDim, kDim);
        for (const std::string stream : {"img", "txt"}) {
            add(stream + "_mod.1", 6 * kDim, kDim);
            add(stream + "_mlp.net.0.proj", 4 * kDim, kDim);
            add(stream + "_mlp.net.2", kDim, 4 * kDim);
        }
    }
    return linears;
}

TEST(Family, QwenImageFitsIntoSixteenGigabytes) {
    constexpr double kGiB = 1024.0 * 1024.0 * 1024.0;
    const std::vector<SizedLinear> linears = qwen_image_blocks();
    const FamilyRow& row = *find_family("QwenImageTransformer2DModel");
    const auto with = [&](double memory) {
        return choose_schemes(linears,
                              {row.defaults.layers, {.further_layers = row.defaults.further_layers}, memory});
    };
    const auto small = with(16 * kGiB);
    ASSERT_TRUE(small);
    EXPECT_EQ(small->scheme, "W4A8 (transformer_blocks.*.{img_mod,txt_mod}.* to W4A16)");
    EXPECT_LT(small->bytes, 11.6e9);
    EXPECT_EQ(with(32 * kGiB)->scheme, "W4A8 (transformer_blocks.*.{img_mod,txt_mod}.* to W8A16)");
    EXPECT_FALSE(with(256 * kGiB));
}

// What stays float counts too: 1 GB in the blocks and 1 GB beside them.
TEST(Family, EightBitsThatDoNotFitBecomeFour) {
    std::vector<SizedLinear> linears = {{"blocks.0.ffn.net.2", {32768, 32768}, DType::f32},
                                        {"proj_out", {16384, 16384}, DType::f32}};
    const auto with = [&](double gigabytes) {
        return choose_schemes(linears, {kDefaultLayers, {}, gigabytes * 0x1p30})->scheme;
    };
    EXPECT_EQ(with(5.0), "W8A8_DYNAMIC");
    EXPECT_EQ(with(3.5), "W4A8");
}

TEST_F(FamilyTest, WhatIsQuantizedAlreadyIsLeftAlone) {
    QuantizeReport report;
    const LoadOptions options = {.automatic = true,
                                 .on_quantized = [&](const QuantizeReport& made) { report = made; }};
    const auto model = load_transformer(folder(), with_pixel());
    OnlineQuantConfig config;
    config.quant_type = "W8A16";
    quantize(*model, config);
    ASSERT_EQ(model->linear("mix.out").scheme(), "FLOAT");
    quantize_as_loaded(*model, options, 1.0);
    EXPECT_EQ(report.because, "");
    EXPECT_EQ(model->linear("mix.q").scheme(), "W8A16");
}

TEST_F(FamilyTest, IsCalibratedAndMined) {
    const Pipeline pipeline = load();
    CalibrateOptions calibration;
    calibration.captions = {"up"};
    calibration.attention = true;
    EXPECT_THAT(calibrate(pipeline, calibration).layer_names(),
                ::testing::UnorderedElementsAreArray(PixelTransformer::kNames));
    MineOptions mining;
    mining.captions = {"down"};
    const SparseProfile profile = mine(pipeline, mining).profile();
    ASSERT_EQ(profile.layers.size(), 1U);
    EXPECT_EQ(profile.layers[0].size(), static_cast<std::size_t>(kHeads));
}

TEST_F(FamilyTest, WithOneTimestepPerVideoItsFramesStartTogether) {
    const Pipeline pipeline = load();
    GenerateOptions options = caption("up");
    options.sampling.stagger = 0.5;
    EXPECT_THROW(pipeline.generate(options), Unsupported);
    options.sampling.stagger = 0.0;
    options.sampling.image_first = true;
    EXPECT_THAT(error_of([&] { pipeline.generate(options); }), HasSubstr("one timestep per video"));
}

}  // namespace
}  // namespace aerogel
