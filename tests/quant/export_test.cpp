// What an export does before it has the lock, and what it refuses before it takes space.
#include "quant/export.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <utility>

#include "core/resumable_file.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

class ExportTest : public TemporaryFolder {
  protected:
    static Tensor ones(const Shape& shape) {
        Tensor tensor(DType::f32, shape);
        std::fill_n(tensor.mutable_as<float>(), tensor.count(), 1.0F);
        return tensor;
    }
    void run(std::vector<std::pair<std::string, Tensor>> tensors) const {
        const auto model = SafetensorsFile::of_tensors("model", std::move(tensors));
        LayerOptions how;
        how.scheme = &scheme_row("test", "W8A16");
        ExportOptions options;
        options.folder = folder_;
        export_quantized(WeightFile::of(model), uniform_plan({"a"}, how), options);
    }
};

TEST_F(ExportTest, ARunningExportIsLeftAlone) {
    const auto weights = at(weight_file_name("W8A16"));
    ResumableFile running(weights);
    running.begin("k", 4);
    running.note("one");
    EXPECT_THAT(error_of<IoError>([&] {
                    run({{"a.weight", ones({2, 4})}});
                }),
                HasSubstr("another process is writing it"));
    EXPECT_TRUE(std::filesystem::exists(part_path_of(weights)));
    EXPECT_THAT(read(journal_path_of(weights)), HasSubstr("one"));
}

TEST_F(ExportTest, LayersWithoutElements) {
    EXPECT_THAT(
        error_of([&] {
            run({{"a.weight", ones({3, 0})}});
        }),
        HasSubstr(
            "'a': the weight must be f32, bf16 or f16 with at least one row and one column, got f32[3,0]"));
    EXPECT_THAT(error_of([&] { run({{"a.weight", ones({0, 3})}}); }), HasSubstr("got f32[0,3]"));
    EXPECT_EQ(files(), 0);
}

TEST_F(ExportTest, BiasesThatReadersRefuse) {
    EXPECT_THAT(error_of([&] {
                    run({{"a.weight", ones({2, 4})}, {"a.bias", ones({3})}});
                }),
                HasSubstr("'a': the bias must be f32, bf16 or f16 [2], got f32[3]"));
    EXPECT_THAT(error_of([&] {
                    run({{"a.weight", ones({2, 4})}, {"a.bias", ones({2}).to(DType::i32)}});
                }),
                HasSubstr("got i32[2]"));
    EXPECT_EQ(files(), 0);
}

TEST_F(ExportTest, ValuesThatAreNotFinite) {
    for (const char* name : {"a.weight", "a.bias", "norm"}) {
        std::vector<std::pair<std::string, Tensor>> tensors = {
            {"a.weight", ones({2, 4})}, {"a.bias", ones({2})}, {"norm", ones({2})}};
        for (auto& [key, tensor] : tensors) {
            if (key == name) tensor.mutable_as<float>()[1] = std::numeric_limits<float>::quiet_NaN();
        }
        EXPECT_THAT(error_of([&] { run(tensors); }), HasSubstr("'" + std::string(name) + "' f32")) << name;
        EXPECT_EQ(files(), 0);
    }
}

}  // namespace
}  // namespace aerogel
