// The probe that decides whether vdpbf16ps pays: its numbers are this machine's, so only what follows from
// them is tested.
#include "kernels/cpu/bf16_speed.h"

#include <gtest/gtest.h>

#include "base/cpu_features.h"
#include "ops/dispatch.h"

namespace aerogel {
namespace {

TEST(Bf16Speed, TheProbeDecidesAboutAttentionOfBfloat16) {
    if (cpu_level() < CpuLevel::avx512_bf16) GTEST_SKIP() << "the CPU level has no vdpbf16ps";
    EXPECT_GT(cpu::measure_bf16_gain(), 0.0);
    EXPECT_EQ(cpu::slow_bf16(), cpu::slow_bf16());
    if (cpu_level() > CpuLevel::avx512_bf16) return;  // AMX has its own
    const AttentionProblem problem = {.q_len = 8, .k_len = 8, .head_dim = 8, .dtype = DType::bf16};
    EXPECT_EQ(choose("attention", Device::cpu, &Machine::attention, problem).name,
              cpu::slow_bf16().empty() ? "cpu.avx512_bf16.attention" : "cpu.avx512.attention");
}

}  // namespace
}  // namespace aerogel
