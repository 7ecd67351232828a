// The current step, and the policy of timestep-aware layers.
#include "aerogel/timestep.h"

#include <gtest/gtest.h>

#include "aerogel/error.h"

namespace aerogel {
namespace {

TEST(TimestepManager, RefusesStepsOutOfRange) {
    TimestepManager steps(4);
    EXPECT_EQ(steps.get_timestep_idx(), std::nullopt);
    EXPECT_EQ(steps.get_timestep_idx_max(), 4);
    steps.set_timestep_idx(0);
    steps.set_timestep_idx(3);
    EXPECT_THROW(steps.set_timestep_idx(4), InvalidArgument);
    EXPECT_THROW(steps.set_timestep_idx(-1), InvalidArgument);
    EXPECT_EQ(steps.get_timestep_idx(), 3);
    EXPECT_THROW(steps.set_timestep_idx_max(3), InvalidArgument);
    steps.set_timestep_idx(std::nullopt);
    steps.set_timestep_idx_max(1);
    EXPECT_THROW(steps.set_timestep_idx(1), InvalidArgument);
    EXPECT_THROW(TimestepManager(0), InvalidArgument);
    TimestepManager unlimited;
    unlimited.set_timestep_idx(1000);
    EXPECT_EQ(unlimited.get_timestep_idx(), 1000);
}

TEST(TimestepPolicy, LaterCallsWinAndTheRestFollowsTheDefaults) {
    TimestepPolicyConfig policy("static", "W4A8", "FP8");
    policy.register_steps({0, 1, 2}, "W4A4")
        .register_steps({2}, "W4A8")
        .register_steps({1}, "dynamic", "linear");
    policy.register_steps({1}, "FLOAT", "fa");
    EXPECT_EQ(policy.get_strategy(0, "w4a4_linear"), "W4A4");
    EXPECT_EQ(policy.get_strategy(2, "w4a4_linear"), "W4A8");
    EXPECT_EQ(policy.get_strategy(3, "w4a4_linear"), "W4A8");
    EXPECT_EQ(policy.get_strategy(std::nullopt, "w4a4_linear"), "W4A8");
    EXPECT_EQ(policy.get_strategy(1), "dynamic");
    EXPECT_EQ(policy.get_strategy(0), "static");
    EXPECT_EQ(policy.get_strategy(1, "fa"), "FLOAT");
    EXPECT_EQ(policy.get_strategy(0, "fa"), "FP8");

    const StepContext first = policy.context(0), second = policy.context(1), unknown = policy.context(-1);
    EXPECT_EQ(first.timestep_index, 0);
    EXPECT_FALSE(first.dynamic || first.wide_activations);
    EXPECT_TRUE(second.dynamic);
    EXPECT_TRUE(!unknown.dynamic && unknown.wide_activations);
}

TEST(TimestepPolicy, AttentionOfEightBitsBecomesFloatWhereThatIsRegisteredAndNeverCoarser) {
    TimestepPolicyConfig policy("dynamic", "W4A4", "FLOAT");
    policy.register_steps({0}, "MXFP4", "fa")
        .register_steps({1}, "FP8", "fa")
        .register_steps({2}, "FLOAT", "fa");
    using enum AttentionFormat;
    EXPECT_EQ(policy.attention_format(mxfp4, 0), mxfp4);
    EXPECT_EQ(policy.attention_format(mxfp4, 1), fp8);
    EXPECT_EQ(policy.attention_format(mxfp4, 2), none);
    EXPECT_EQ(policy.attention_format(mxfp4, 3), none);
    EXPECT_EQ(policy.attention_format(mxfp4, -1), none);
    for (const AttentionFormat own : {int8, fp8, mxfp8}) {
        for (const int step : {-1, 0, 1, 3}) EXPECT_EQ(policy.attention_format(own, step), own);
        EXPECT_EQ(policy.attention_format(own, 2), none);
    }
}

TEST(TimestepPolicy, TextTellsAllOfIt) {
    TimestepPolicyConfig policy("static", "W4A8", "FP8");
    EXPECT_EQ(policy.to_text(), "w8a8_static_linear=static;w4a4_linear=W4A8;fa=FP8");
    policy.register_steps({7, 2}, "FLOAT", "fa").register_steps({3}, "W4A4").register_steps({2}, "FP8", "fa");
    EXPECT_EQ(policy.to_text(),
              "w8a8_static_linear=static;w4a4_linear=W4A8;fa=FP8;w4a4_linear=W4A4@3;fa=FP8@2;fa=FLOAT@7");
    EXPECT_EQ(TimestepPolicyConfig::from_text(policy.to_text()), policy);
    EXPECT_FALSE(TimestepPolicyConfig::from_text("fa=FLOAT") == policy);
    for (const char* wrong :
         {"", "fa", "fa=", "fb=FP8", "fa@1=FP8", "fa=FP8@", "fa=FP8@1,,2", "fa=FP8@-1", "fa=FP8;"}) {
        EXPECT_THROW(TimestepPolicyConfig::from_text(wrong), InvalidArgument) << wrong;
    }
}

TEST(TimestepPolicy, StaticFromAStepOn) {
    const TimestepPolicyConfig policy = TimestepPolicyConfig::static_from(2);
    EXPECT_EQ(policy.get_strategy(1), "dynamic");
    EXPECT_EQ(policy.get_strategy(2), "static");
    EXPECT_EQ(policy.get_strategy(std::nullopt), "static");
    EXPECT_EQ(TimestepPolicyConfig::static_from(0), TimestepPolicyConfig("static"));
    EXPECT_THROW(TimestepPolicyConfig::static_from(-1), InvalidArgument);
    EXPECT_THROW(TimestepPolicyConfig::static_from(100'001), InvalidArgument);
}

TEST(TimestepPolicy, DefaultsAreThoseOfPython) {
    const TimestepPolicyConfig policy;
    EXPECT_EQ(policy.get_strategy(5), "dynamic");
    EXPECT_EQ(policy.get_strategy(5, "w4a4_linear"), "W4A4");
    EXPECT_EQ(policy.get_strategy(5, "fa"), "MXFP4");
}

TEST(TimestepPolicy, RefusesOtherWords) {
    TimestepPolicyConfig policy;
    EXPECT_THROW(policy.register_steps({0}, "static"), InvalidArgument);
    EXPECT_THROW(policy.register_steps({0}, "FP8", "linear"), InvalidArgument);
    EXPECT_THROW(policy.register_steps({0}, "FP8", "attention"), InvalidArgument);
    EXPECT_THROW(policy.register_steps({3, -1}, "W4A8"), InvalidArgument);
    EXPECT_EQ(policy.get_strategy(3, "w4a4_linear"), "W4A4");
    EXPECT_THROW(static_cast<void>(policy.get_strategy(0, "")), InvalidArgument);
    EXPECT_THROW(TimestepPolicyConfig("W4A4"), InvalidArgument);
    EXPECT_THROW(TimestepPolicyConfig("static", "W4A4", "INT8"), InvalidArgument);
}

}  // namespace
}  // namespace aerogel
