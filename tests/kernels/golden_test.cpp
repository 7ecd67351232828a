// The file of golden answers, and that differences are seen.
#include "kernels/golden.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <optional>
#include <sstream>
#include <vector>

#include "aerogel/safetensors.h"
#include "aerogel/tensor.h"
#include "base/environment.h"

namespace aerogel::testing {
namespace {

/// Every such a number is kept.
std::size_t step_of(std::size_t count) {
    constexpr std::size_t kMostNumbers = 64;
    return (count + kMostNumbers - 1) / kMostNumbers;
}

bool agree(float a, float b, double bound) {
    if ((std::isnan(a) && std::isnan(b)) || std::bit_cast<unsigned>(a) == std::bit_cast<unsigned>(b))
        return true;
    return std::fabs(static_cast<double>(a) - static_cast<double>(b)) <= bound;
}

class Golden {
  public:
    Golden(const std::optional<std::string>& from, const std::optional<std::string>& to)
        : to_(to.value_or("")) {
        if (from) answers_.emplace(SafetensorsFile::open(*from));
    }

    std::string difference(const std::string& answer, std::span<const float> got,
                           std::span<const double> bounds) {
        std::vector<float> some;
        const std::size_t step = step_of(got.size());
        for (std::size_t i = 0; i < got.size(); i += step) some.push_back(got[i]);
        const auto count = static_cast<std::int64_t>(some.size());
        if (!to_.empty() && count > 0) kept_[answer] = Tensor::of(some, {count});
        if (!answers_ || !answers_->contains(answer)) return "";
        ++compared_;
        const Tensor wanted = answers_->tensor(answer);
        if (wanted.count() != count)
            return "the golden answer has " + std::to_string(wanted.count()) + " numbers of it; ";
        for (std::size_t i = 0; i < some.size(); ++i) {
            const float golden = wanted.as<float>()[i];
            const double apart = bounds.empty() ? -1.0 : 2 * bounds[i * step];
            if (agree(some[i], golden, apart)) continue;
            std::ostringstream text;
            text << "number " << i * step << " is " << some[i] << ", the golden answer has " << golden;
            if (!bounds.empty()) text << " +- " << apart;
            return text.str() + "; ";
        }
        return "";
    }

    /// Beside what another program has put there.
    void write() {
        if (to_.empty()) return;
        if (std::filesystem::exists(to_)) {
            const SafetensorsFile file = SafetensorsFile::open(to_);
            for (const std::string& name : file.names()) kept_.try_emplace(name, file.tensor(name).clone());
        }
        save_safetensors(to_, kept_);
    }
    std::size_t compared() const { return compared_; }
    bool compares() const { return answers_.has_value(); }

  private:
    std::string to_;
    std::optional<SafetensorsFile> answers_;
    std::map<std::string, Tensor> kept_;
    std::size_t compared_ = 0;
};

Golden& golden() {
    static Golden of_this_run(environment("AEROGEL_GOLDEN"), environment("AEROGEL_GOLDEN_WRITE"));
    return of_this_run;
}

class AtTheEnd : public ::testing::Environment {
    void TearDown() override {
        golden().write();
        if (golden().compares()) std::printf("golden: %zu answers compared\n", golden().compared());
    }
};
const auto* const kAtTheEnd = ::testing::AddGlobalTestEnvironment(new AtTheEnd);

TEST(Golden, AnswersAreKeptAndDifferencesAreSeen) {
    const std::filesystem::path file = ::testing::TempDir() + "golden_answers.safetensors";
    std::filesystem::remove(file);
    const std::vector<float> one = {1.0F, -0.0F, std::nanf("")};
    std::vector<float> many(1000, 0.5F);
    for (const char* name : {"first", "second"}) {  // two programs
        Golden writing({}, file.string());
        EXPECT_EQ(writing.difference(name, one, {}), "");
        EXPECT_EQ(writing.difference("many", many, {}), "");
        writing.write();
    }
    EXPECT_EQ(SafetensorsFile::open(file).names(), (std::vector<std::string>{"first", "many", "second"}));
    EXPECT_LE(std::filesystem::file_size(file), 1000U);
    Golden reading(file.string(), {});
    EXPECT_EQ(reading.difference("first", one, {}), "");
    EXPECT_EQ(reading.difference("many", many, {}), "");
    many.back() = many[992] = 0.75F;  // of the last 16 one is kept
    EXPECT_EQ(reading.difference("many", many, std::vector<double>(1000, 0.1)),
              "number 992 is 0.75, the golden answer has 0.5 +- 0.2; ");
    EXPECT_EQ(reading.difference("many", many, std::vector<double>(1000, 0.125)), "");
    const std::vector<float> other = {std::nextafter(1.0F, 2.0F), 0.0F, 2.0F};
    EXPECT_EQ(reading.difference("second", {other.begin(), 1}, {}),
              "the golden answer has 3 numbers of it; ");
    EXPECT_EQ(reading.difference("second", other, {}), "number 0 is 1, the golden answer has 1; ");
    EXPECT_EQ(reading.difference("second", other, std::vector<double>{1e-6, 0.0, 1.0}),
              "number 2 is 2, the golden answer has nan +- 2; ");
    EXPECT_EQ(reading.difference("third", other, {}), "");
    EXPECT_EQ(reading.compared(), 7U);
    std::filesystem::remove(file);
}

}  // namespace

std::string golden_difference(const std::string& answer, std::span<const float> got,
                              std::span<const double> bounds) {
    return golden().difference(answer, got, bounds);
}

}  // namespace aerogel::testing
