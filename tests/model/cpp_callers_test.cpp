// What a C++ program alone can get wrong, as the command and Python check it on their way: empty objects,
// views of nothing, numbers out of range. And what a program may have set for itself: its locale.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <limits>
#include <locale>
#include <string>

#include "aerogel/sampler.h"
#include "aerogel/sparse_attention.h"
#include "aerogel/sparse_profile.h"
#include "aerogel/timestep.h"
#include "aerogel/tokenizer.h"
#include "aerogel/video.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

class CppCallers : public TemporaryFolder {};

TEST_F(CppCallers, VideosThatCannotBeSaved) {
    const Tensor picture = Tensor::zeros(DType::f32, {3, 1, 4, 4});
    const auto saving = [&](const Tensor& video, const SaveVideoOptions& options = {}) {
        return error_of([&] { save_video(at("x.png"), video, options); });
    };
    const std::string expected = "[video] expected f32[channels,frames,height,width] with no axis of 0, got ";
    EXPECT_EQ(saving(Tensor()), expected + "nothing");
    EXPECT_EQ(saving(Tensor::zeros(DType::f32, {3, 4, 4})), expected + "f32[3,4,4]");
    EXPECT_EQ(saving(Tensor::zeros(DType::f32, {3, 1, 0, 4})), expected + "f32[3,1,0,4]");
    EXPECT_EQ(saving(picture.to(DType::bf16)), expected + "bf16[3,1,4,4]");
    for (const double rate : {0.0, -1.0, 1e9, std::numeric_limits<double>::quiet_NaN()})
        EXPECT_THAT(saving(picture, {.frames_per_second = rate}), HasSubstr("must be from 0.1 to 240, got"));
    EXPECT_EQ(error_of([&] { save_video("", picture); }), "[video] the name of the video is empty");
    EXPECT_EQ(files(), 0);
    save_video(at("made/on/the/way.png"), picture);
    EXPECT_TRUE(std::filesystem::exists(at("made/on/the/way.png")));
}

TEST_F(CppCallers, SamplesOfNothing) {
    for (const SamplerKind kind : {SamplerKind::euler, SamplerKind::unipc}) {
        const auto sampler = Sampler::create(kind, {.steps = 2});
        Tensor sample = Tensor::zeros(DType::f32, {4});
        EXPECT_THAT(error_of([&] {
                        sampler->step(0, TensorView{DType::f32, {4}}, sample);
                    }),
                    HasSubstr("velocity has no data (f32[4])"));
        EXPECT_THAT(error_of([&] {
                        sampler->step(0, sample.clone(), MutableView{DType::f32, {4}});
                    }),
                    HasSubstr("sample has no data (f32[4])"));
    }
}

TEST_F(CppCallers, MatricesProfilesAndTokenizersThatAreNotThere) {
    EXPECT_THAT(error_of([] { hadamard_matrix(0); }), HasSubstr("head_dim must be at least 1, got 0"));
    SparseProfile profile;
    profile.layers = {{{}}};
    EXPECT_THAT(error_of([&] { profile.head_types(0, 0); }), HasSubstr("head 0 of layer 0 has no types"));
    EXPECT_THAT(error_of<IoError>([&] { Tokenizer::load(at("nowhere")); }),
                HasSubstr("nowhere does not exist"));
}

// Decimal commas and groups of three digits, as in German.
struct Commas : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
};

TEST_F(CppCallers, TheLocaleOfTheProgramChangesNothing) {
    SparseProfile profile;
    profile.latent_shape = {1234, 5678, 1000};
    profile.steps = 1500;
    profile.pattern.sparsity = 0.75;
    profile.layers = {{{{0, 1500, "spatial", 0.125}}}};
    const TimestepPolicyConfig policy = TimestepPolicyConfig::static_from(1234);
    const Tensor picture = Tensor::zeros(DType::f32, {3, 1, 1, 1024});
    const auto write_all = [&](const std::string& folder) {
        std::filesystem::create_directory(at(folder));
        profile.write(at(folder + "/profile.json"));
        save_video(at(folder + "/video.safetensors"), picture);
        write(folder + "/policy.txt", policy.to_text());
    };
    write_all("before");
    const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Commas));
    write_all("within");
    const SparseProfile back = SparseProfile::read(at("within/profile.json"));
    const std::string message = error_of([] { Sampler::create(SamplerKind::euler, {.shift = 1234567.5}); });
    std::locale::global(before);
    for (const char* name : {"profile.json", "video.safetensors", "policy.txt"})
        EXPECT_EQ(read(at(std::string("before/") + name)), read(at(std::string("within/") + name))) << name;
    EXPECT_EQ(back.pattern.sparsity, 0.75);
    EXPECT_EQ(back.latent_shape, profile.latent_shape);
    EXPECT_THAT(message, HasSubstr("got 1234567.5"));
}

}  // namespace
}  // namespace aerogel
