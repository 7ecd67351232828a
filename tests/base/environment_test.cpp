// Environment variables: a wrong value is an error that lists the right ones.
#include "base/environment.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>

#include "aerogel/error.h"

namespace aerogel {
namespace {

constexpr const char* kName = "AEROGEL_TEST_VARIABLE";

class Environment : public ::testing::Test {
  protected:
    void TearDown() override { ::unsetenv(kName); }
    static void set(const char* value) { ::setenv(kName, value, 1); }
};

template <typename Call>
std::string message_of(Call call) {
    try {
        call();
    } catch (const InvalidArgument& error) {
        return error.what();
    }
    return "no error";
}

TEST_F(Environment, UnsetAndEmptyAreTheSame) {
    EXPECT_EQ(environment(kName), std::nullopt);
    set("");
    EXPECT_EQ(environment(kName), std::nullopt);
    EXPECT_EQ(environment_choice(kName, {"a"}), std::nullopt);
    EXPECT_EQ(environment_count(kName), std::nullopt);
}

TEST_F(Environment, ChoicesAreListed) {
    set("avx2");
    EXPECT_EQ(environment_choice(kName, {"baseline", "avx2"}), "avx2");
    set("AVX2");
    EXPECT_EQ(message_of([] {
                  environment_choice(kName, {"baseline", "avx2"});
              }),
              "[environment] AEROGEL_TEST_VARIABLE must be one of baseline, avx2, got 'AVX2'");
}

TEST_F(Environment, CountsAreWholeAndPositive) {
    set("12");
    EXPECT_EQ(environment_count(kName), 12);
    for (const char* wrong : {"0", "-1", "2.5", "two", "3x", " 3", "99999999999"}) {
        set(wrong);
        EXPECT_EQ(message_of([] { environment_count(kName); }),
                  "[environment] AEROGEL_TEST_VARIABLE must be a whole number >= 1, got '" +
                      std::string(wrong) + "'");
    }
}

}  // namespace
}  // namespace aerogel
