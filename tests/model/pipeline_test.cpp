// Pipeline behaviour that needs no second opinion: same seed same bits for any number of threads, progress
// and cancelling, sparse settings, calibration hooks, replaced layers.
#include "aerogel/pipeline.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xmmintrin.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "aerogel/threads.h"
#include "model/tiny_model.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class PipelineTest : public ::testing::Test {
  protected:
    static Pipeline load() {
        static const testing::TinyModel model("aerogel_pipeline_test");
        return Pipeline::load(model.folder());
    }
};

bool same_bits(const Tensor& a, const Tensor& b) {
    return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.bytes()) == 0;
}

GenerateOptions caption(const std::string& prompt, std::uint64_t seed = 0) {
    GenerateOptions options;
    options.prompt = prompt;
    options.sampling.seed = seed;
    return options;
}

TEST_F(PipelineTest, SameSeedGivesTheSameBitsForAnyNumberOfThreads) {
    const Pipeline pipeline = load();
    const int threads = num_threads();
    for (const char* sparse : {"none", "rf_v1", "rf_v2"}) {
        GenerateOptions options = caption("up, down", 5);
        options.sampling.height = options.sampling.width =
            32;  // 48 blocks: enough for sparse attention to start
        options.sparse = SparseConfig{};
        options.sparse->pattern.type = sparse;
        options.sparse->pattern.sparsity = 0.5;
        options.sparse->pattern.block_size = 16;
        std::vector<Tensor> videos;
        for (const int count : {1, 2, 3}) {
            set_num_threads(count);
            GenerateResult result = pipeline.generate(options);
            for (const SparseCall& call : result.sparse_calls) EXPECT_EQ(call.report.dense_because, "");
            videos.push_back(std::move(result.video));
        }
        set_num_threads(threads);
        EXPECT_TRUE(same_bits(videos[0], videos[1])) << sparse;
        EXPECT_TRUE(same_bits(videos[0], videos[2])) << sparse;
    }
}

TEST_F(PipelineTest, TheFirstFrameIsMadeAloneOnlyBeforeOthers) {
    const Pipeline pipeline = load();
    GenerateOptions options = caption("up");
    int passes = 0;
    options.on_attention_input = [&](int, const AttentionInput& at) {
        passes += at.name == "blocks.0.attn1";
    };
    const auto count = [&](int frames, bool image_first) {
        options.sampling.frames = frames;
        options.sampling.image_first = image_first;
        passes = 0;
        const GenerateResult result = pipeline.generate(options);
        EXPECT_EQ(result.first_frame_seconds > 0.0, image_first && frames > 1);
        EXPECT_EQ(result.video.dim(1), frames);
        return passes;
    };
    const int video = count(3, false), image = count(1, false);
    EXPECT_GT(image, 0);
    EXPECT_EQ(count(3, true), video + image);
    EXPECT_EQ(count(1, true), image);
}

TEST(TwoExperts, TakeTurnsInBatchesWithFirstFrames) {
    const testing::TwoExperts files("aerogel_two_experts");
    int loads = 0;
    LoadOptions load;
    load.online.emplace().quant_type = "W8A16";
    load.on_quantized = [&](const QuantizeReport&) { ++loads; };
    const Pipeline pipeline = Pipeline::load(files.folder(), load);
    GenerateOptions options = caption("up", 3);
    options.sampling.image_first = true;
    options.keep = Keep::in_host_memory;
    const std::vector<GenerateResult> both = pipeline.generate(options, 2);
    EXPECT_EQ(loads, 2);
    options.keep = Keep::nothing;
    int expected = 3;  // two of the first frame, two of the video; but the first one was waiting
    for (const GenerateResult& result : both) {
        loads = 0;
        EXPECT_GT(result.first_frame_seconds, 0.0);
        EXPECT_TRUE(same_bits(result.video, pipeline.generate(options).video));
        EXPECT_EQ(loads, std::exchange(expected, 4));
        ++options.sampling.seed;
    }
}

TEST(TwoExperts, LoadingTheSecondIsToldAndStops) {
    const testing::TwoExperts files("aerogel_second_is_told");
    GenerateOptions options = caption("up", 3);
    options.keep = Keep::nothing;
    std::vector<double> told;
    double most = 2.0;
    options.on_stage = [&](std::string_view stage, double done) {
        if (stage == "load transformer_2") told.push_back(done);
        return stage != "load transformer_2" || done < most;
    };
    const Pipeline pipeline = Pipeline::load(files.folder(), {.online = OnlineQuantConfig{}});
    const auto start = std::chrono::steady_clock::now();
    const GenerateResult result = pipeline.generate(options);
    const double whole = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    ASSERT_EQ(told.size(), 22U);  // 20 layers, the beginning and the end
    EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
    std::vector<std::string> stages;
    double sum = 0.0;
    for (const StageSeconds& stage : result.stages) {
        stages.push_back(stage.stage);
        sum += stage.seconds;
    }
    EXPECT_THAT(stages, ElementsAre("load text_encoder", "encode prompt", "load text_encoder",
                                    "encode prompt", "load transformer", "load transformer_2", "denoise"));
    EXPECT_LE(sum, whole);  // what lies within another stage counts once
    most = 0.5;
    told.clear();
    EXPECT_THROW(pipeline.generate(options), Cancelled);
    EXPECT_EQ(told.size(), 11U);
}

TEST(TwoExperts, FilesOfBothAreLookedAtFirst) {
    const testing::TwoExperts files("aerogel_files_of_two_experts");
    const auto problem = [&](const LoadOptions& second) -> std::string {
        try {
            LoadOptions first;
            if (!second.quantized.empty()) first.quantized = second.quantized;
            Pipeline::load(files.folder(), first, {}, second);
        } catch (const Error& error) {
            return error.what();
        }
        return "none";
    };
    EXPECT_EQ(problem({}), "none");
    EXPECT_THAT(problem({.weights = "missing.safetensors"}), HasSubstr("missing.safetensors"));
    EXPECT_THAT(problem({.quantized = "missing.json"}), HasSubstr("missing.json"));
    EXPECT_THAT(problem({.loras = {{"lora.safetensors"}}}), HasSubstr("lora.safetensors"));
    const std::filesystem::path other = files.folder() / "other.safetensors";
    save_safetensors(other, {{"blocks.9.attn1.to_q.lora_A.weight", Tensor::zeros(DType::f32, {1, 32})},
                             {"blocks.9.attn1.to_q.lora_B.weight", Tensor::zeros(DType::f32, {32, 1})}});
    EXPECT_THAT(problem({.loras = {{other}}}), HasSubstr("no Linear of the model fits 2 keys"));
    EXPECT_THAT(problem({.weights = other}), HasSubstr("patch_embedding.weight"));
    std::filesystem::remove(files.folder() / "transformer_2" / "diffusion_pytorch_model.safetensors");
    EXPECT_THAT(problem({}), HasSubstr("transformer_2 has neither"));
}

TEST_F(PipelineTest, CentroidsWithCalibratedScalesAreRefusedBeforeTheFirstStep) {
    Pipeline pipeline = load();
    const Tensor scale = Tensor::of(std::vector<float>{0.1F, 0.1F}, {2});
    AttentionQuantization calibrated;
    calibrated.quant_type = "FAQUANT";
    calibrated.scales = AttentionScales{scale, scale, scale, {}, {}, {}};
    GenerateOptions options = caption("up");
    options.sparse = SparseConfig{};
    options.sparse->pattern = {.type = "rf_v2", .block_size = 16, .centroids = true};
    options.sparse->start_step = 1;
    options.sampling.height = options.sampling.width = 32;  // enough blocks to be sparse
    int steps = 0;
    options.progress = [&](int, int, double) { return ++steps > 0; };
    pipeline.transformer().set_attention("blocks.1.attn2", calibrated);  // never sparse
    pipeline.generate(options);
    EXPECT_EQ(steps, 3);
    pipeline.transformer().set_attention("blocks.1.attn1", calibrated);
    EXPECT_THROW(pipeline.generate(options), InvalidArgument);
    EXPECT_EQ(steps, 3);
}

TEST_F(PipelineTest, TwoInOneProcessDoNotDisturbEachOther) {
    const Pipeline first = load(), second = load();
    const GenerateOptions up = caption("up", 1), down = caption("down, up", 2);
    const Tensor alone[] = {first.generate(up).video, second.generate(down).video};
    Tensor together[2];
    std::thread other([&] { together[1] = second.generate(down).video; });
    together[0] = first.generate(up).video;
    other.join();
    EXPECT_TRUE(same_bits(together[0], alone[0]));
    EXPECT_TRUE(same_bits(together[1], alone[1]));
}

// Each is used from two threads at once; one of them loads its transformer anew in every call.
TEST(TwoFamilies, InOneProcessDoNotDisturbEachOther) {
    const testing::TinyModel videos("aerogel_two_wan");
    const testing::TinyZImage images("aerogel_two_z_image");
    const LoadOptions quantized = {.online = OnlineQuantConfig{}};
    const Pipeline wan = Pipeline::load(videos.folder()),
                   z_image = Pipeline::load(images.folder(), quantized);
    GenerateOptions embedded;
    embedded.prompt_embeds = Tensor::of(std::vector<float>(3 * testing::TinyZImage::kTextDim, 0.5F),
                                        {1, 3, testing::TinyZImage::kTextDim});
    embedded.keep = Keep::nothing;
    SamplingOptions& size = embedded.sampling;
    size.frames = 1;
    size.height = size.width = 12;
    size.steps = 3;
    const auto video = [&] { return wan.generate(caption("down, up", 2)).video; };
    const auto image = [&] { return z_image.generate(embedded).video; };
    const Tensor alone[] = {video(), image()};
    EXPECT_EQ(alone[1].shape(), (Shape{4, 1, 12, 12}));
    std::array<Tensor, 4> together;
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < together.size(); ++i) {
        threads.emplace_back([&, i] {
            for (int turn = 0; turn < 3; ++turn) together[i] = i % 2 == 0 ? video() : image();
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < together.size(); ++i) EXPECT_TRUE(same_bits(together[i], alone[i % 2])) << i;
}

TEST_F(PipelineTest, SeedAndCaptionMatter) {
    const Pipeline pipeline = load();
    const Tensor video = pipeline.generate(caption("up")).video;
    EXPECT_TRUE(same_bits(video, pipeline.generate(caption(" UP ")).video));
    EXPECT_FALSE(same_bits(video, pipeline.generate(caption("up", 1)).video));
    EXPECT_FALSE(same_bits(video, pipeline.generate(caption("down")).video));
}

TEST_F(PipelineTest, ReportsProgressAndTimes) {
    std::vector<std::pair<int, int>> calls;
    GenerateOptions options = caption("up");
    options.progress = [&](int step, int steps, double seconds) {
        EXPECT_GT(seconds, 0.0);
        calls.emplace_back(step, steps);
        return true;
    };
    const GenerateResult result = load().generate(options);
    EXPECT_THAT(calls, ElementsAre(std::pair(1, 3), std::pair(2, 3), std::pair(3, 3)));
    EXPECT_EQ(result.step_seconds.size(), 3U);
    EXPECT_EQ(result.video.shape(), (Shape{3, 3, 16, 16}));
}

TEST(Loading, IsToldLayerByLayerAndStops) {
    const testing::TinyModel files("aerogel_loading_is_told");
    GenerateOptions options = caption("up");
    std::vector<double> told;
    double most = 2.0;
    options.on_stage = [&](std::string_view stage, double done) {
        if (stage == "load transformer") told.push_back(done);
        return stage != "load transformer" || done < most;
    };
    const Pipeline pipeline = Pipeline::load(files.folder(), {.online = OnlineQuantConfig{}});
    pipeline.generate(options);
    ASSERT_EQ(told.size(), 22U);  // 20 layers, the beginning and the end
    EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
    EXPECT_EQ(told[10], 0.5);
    most = 0.5;
    told.clear();
    const Pipeline other = Pipeline::load(files.folder(), {.online = OnlineQuantConfig{}});
    EXPECT_THROW(other.generate(options), Cancelled);
    EXPECT_EQ(told.size(), 11U);
}

TEST(Loading, TellsTheCallersOwnProgressToo) {
    const testing::TinyModel files("aerogel_loading_tells_both");
    std::vector<double> told;
    LoadOptions load{.online = OnlineQuantConfig{}};
    load.on_progress = [&](double done) {
        told.push_back(done);
        if (done >= 0.5) throw std::domain_error("enough");
    };
    const Pipeline pipeline = Pipeline::load(files.folder(), load);
    EXPECT_THROW(pipeline.generate(caption("up")), std::domain_error);
    EXPECT_EQ(told.size(), 10U);
}

TEST(Loading, RanksAreOfPairs) {
    const testing::TinyModel files("aerogel_loading_ranks");
    for (const int rank : {3, -7})
        EXPECT_THROW(Pipeline::load(files.folder(), LoadOptions{.rank = rank}), InvalidArgument) << rank;
}

TEST_F(PipelineTest, NothingIsAnError) {
    EXPECT_THROW(Pipeline::load("anywhere", std::unique_ptr<Transformer>()), InvalidArgument);
    Pipeline pipeline = load();
    const Pipeline other = std::move(pipeline);
    // NOLINTBEGIN(bugprone-use-after-move): that is the point
    EXPECT_THROW(pipeline.generate(caption("up")), InvalidArgument);
    EXPECT_THROW(static_cast<void>(pipeline.experts()), InvalidArgument);
    EXPECT_THROW(pipeline.transformer(), InvalidArgument);
    // NOLINTEND(bugprone-use-after-move)
    EXPECT_NO_THROW(other.generate(caption("up")));
}

TEST_F(PipelineTest, WhetherItGuidesIsKnownWithoutDefaults) {
    const Pipeline pipeline = load();
    for (const double guidance : {0.0, 3.0}) {
        GenerateOptions options;
        options.sampling.guidance = guidance;
        EXPECT_EQ(pipeline.guides(options), guidance > 1.0);
    }
    EXPECT_EQ(pipeline.guides({}), pipeline.guides(pipeline.with_defaults({})));
}

TEST_F(PipelineTest, WhatCallersThrowComesBackAndLeavesThePipeline) {
    const Pipeline pipeline = load();
    const Tensor before = pipeline.generate(caption("up")).video;
    const auto stop = [](auto&&...) -> bool { throw std::domain_error("mine"); };
    const auto with = [](const auto& set) {
        GenerateOptions options = caption("up");
        set(options);
        return options;
    };
    for (const GenerateOptions& options : {with([&](GenerateOptions& to) { to.on_stage = stop; }),
                                           with([&](GenerateOptions& to) { to.progress = stop; }),
                                           with([&](GenerateOptions& to) { to.on_transformer_input = stop; }),
                                           with([&](GenerateOptions& to) { to.on_linear_input = stop; }),
                                           with([&](GenerateOptions& to) { to.on_attention_input = stop; })})
        EXPECT_THROW(pipeline.generate(options), std::domain_error);
    EXPECT_TRUE(same_bits(pipeline.generate(caption("up")).video, before));
}

TEST_F(PipelineTest, RoundingAndTrapsOfTheCallerChangeNothing) {
    const Pipeline pipeline = load();
    const Tensor wanted = pipeline.generate(caption("up")).video;
    const unsigned before = _mm_getcsr();
    constexpr unsigned kFlushRoundUpAndTrap =
        0x8040U | 0x4000U | 0x1D00U;  // traps: invalid, division by zero
    _mm_setcsr(kFlushRoundUpAndTrap);
    const Tensor video = pipeline.generate(caption("up")).video;
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    EXPECT_EQ(after, kFlushRoundUpAndTrap);
    EXPECT_TRUE(same_bits(video, wanted));
}

TEST_F(PipelineTest, SparseSettingsOutOfRangeAreRefused) {
    const Pipeline pipeline = load();
    const auto with = [&](const auto& set) {
        GenerateOptions options = caption("up");
        SparseConfig& sparse = options.sparse.emplace();
        sparse.pattern.type = "rf_v2";
        sparse.pattern.sparsity = 0.5;
        set(sparse);
        try {
            pipeline.generate(options);
        } catch (const InvalidArgument& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    EXPECT_THAT(with([](SparseConfig& to) { to.start_step = -5; }), HasSubstr("got -5 and -1"));
    EXPECT_THAT(with([](SparseConfig& to) { to.end_step = -9; }), HasSubstr("got 0 and -9"));
    EXPECT_THAT(with([](SparseConfig& to) { to.mask_refresh_steps = 0; }), HasSubstr("at least 1, got 0"));
    EXPECT_THAT(with([](SparseConfig& to) { to.profile = std::make_shared<SparseProfile>(); }),
                HasSubstr("head types of rf_v1, got rf_v2"));
    EXPECT_THAT(with([](SparseConfig& to) { to.format = AttentionFormat::mxfp8; }),
                HasSubstr("must be one of none, fp8, mix, int8, int8_qk, mxfp4, got \"mxfp8\""));
}

TEST_F(PipelineTest, SeedsOfABatchDoNotBeginAnew) {
    GenerateOptions options = caption("up", std::numeric_limits<std::uint64_t>::max());
    EXPECT_NO_THROW(load().generate(options, 1));
    EXPECT_THROW(load().generate(options, 2), InvalidArgument);
}

TEST_F(PipelineTest, CancelsWhenProgressSaysSo) {
    GenerateOptions options = caption("up");
    int calls = 0;
    options.progress = [&](int step, int, double) { return ++calls, step < 2; };
    EXPECT_THROW(load().generate(options), Cancelled);
    EXPECT_EQ(calls, 2);
}

TEST_F(PipelineTest, SparseSettingsChooseStepsAndBlocks) {
    GenerateOptions options = caption("up");
    options.sampling.height = 32;
    options.sampling.steps = 4;
    options.sparse = SparseConfig{};
    options.sparse->pattern.type = "rf_v2";
    options.sparse->pattern.sparsity = 0.5;
    options.sparse->pattern.block_size = 16;
    options.sparse->start_step = 1;
    options.sparse->end_step = 3;
    options.sparse->skip_layers = {0};
    std::vector<std::tuple<int, int, bool>> calls;
    for (const SparseCall& call : load().generate(options).sparse_calls) {
        calls.emplace_back(call.step, call.block, call.conditional);
        EXPECT_EQ(call.report.heads.size(), 2U);
    }
    EXPECT_THAT(calls, ElementsAre(std::tuple(1, 1, true), std::tuple(1, 1, false), std::tuple(2, 1, true),
                                   std::tuple(2, 1, false)));
    options.sampling.guidance = 1.0;
    EXPECT_EQ(load().generate(options).sparse_calls.size(), 2U);
    options.sparse->pattern.type = "none";
    EXPECT_TRUE(load().generate(options).sparse_calls.empty());
}

TEST_F(PipelineTest, CalibrationSeesEveryLinearAtEveryStep) {
    const Pipeline pipeline = load();
    std::map<std::string, std::set<int>> seen;
    GenerateOptions options = caption("up");
    options.on_linear_input = [&](const std::string& linear, int step, const TensorView& x) {
        EXPECT_EQ(x.shape.back(), pipeline.transformer().linear(linear).in_features());
        seen[linear].insert(step);
    };
    pipeline.generate(options);
    const auto names = pipeline.transformer().linear_names();
    EXPECT_EQ(seen.size(), names.size());
    for (const auto& name : names) EXPECT_THAT(seen[name], ElementsAre(0, 1, 2)) << name;
}

// Stands in for a quantized layer: a constant output, and a note of the step it was told.
class ConstantLinear final : public Linear {
  public:
    ConstantLinear(std::int64_t in, std::int64_t out, std::vector<int>* steps)
        : in_(in), out_(out), steps_(steps) {}
    std::int64_t in_features() const override { return in_; }
    std::int64_t out_features() const override { return out_; }
    void forward(const TensorView&, const MutableView& y, const StepContext& step) const override {
        std::fill_n(y.as<float>(), y.count(), 0.5F);
        steps_->push_back(step.timestep_index);
    }
    std::string scheme() const override { return "CONSTANT"; }
    std::size_t weight_bytes() const override { return 7; }

  private:
    std::int64_t in_, out_;
    std::vector<int>* steps_;
};

TEST_F(PipelineTest, AReplacedLinearIsTheOneThatRuns) {
    Pipeline pipeline = load();
    Transformer& model = pipeline.transformer();
    const std::size_t before = model.weight_bytes();
    const std::size_t stored = model.linear("proj_out").weight_bytes();
    std::vector<int> steps;
    model.replace_linear("proj_out", std::make_unique<ConstantLinear>(testing::TinyModel::kDim, 12, &steps));
    EXPECT_EQ(model.linear("proj_out").scheme(), "CONSTANT");
    EXPECT_EQ(model.weight_bytes(), before - stored + 7);
    GenerateOptions options = caption("up");
    options.sampling.guidance = 1.0;
    pipeline.generate(options);
    EXPECT_THAT(steps, ElementsAre(0, 1, 2));
}

TEST_F(PipelineTest, ReplacingTheWrongLayerIsAnError) {
    Pipeline pipeline = load();
    Transformer& model = pipeline.transformer();
    const auto refused = [&](const std::string& name, std::unique_ptr<Linear> linear) -> std::string {
        try {
            model.replace_linear(name, std::move(linear));
        } catch (const InvalidArgument& error) {
            return error.what();
        }
        return "accepted";
    };
    std::vector<int> steps;
    EXPECT_THAT(refused("blocks.2.attn1.to_q", std::make_unique<ConstantLinear>(32, 32, &steps)),
                HasSubstr("no Linear blocks.2.attn1.to_q"));
    EXPECT_THAT(refused("patch_embedding", std::make_unique<ConstantLinear>(12, 32, &steps)),
                HasSubstr("no Linear patch_embedding"));
    EXPECT_THAT(refused("blocks.1.ffn.net.2", std::make_unique<ConstantLinear>(32, 48, &steps)),
                HasSubstr("blocks.1.ffn.net.2 must have 48 -> 32 features, got 32 -> 48"));
    EXPECT_THAT(refused("proj_out", nullptr), HasSubstr("proj_out"));
}

}  // namespace
}  // namespace aerogel
