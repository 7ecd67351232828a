// The machine that the conformance suites walk. Another than the CPU's is named by AEROGEL_TEST_MACHINE,
// which ctest sets for a run of its own under the emulated driver (tests/cuda.cmake).
#include "kernels/mirrored_kernels.h"

#include <gtest/gtest.h>

#include "base/environment.h"
#include "core/hidden_memory.h"
#include "kernels/cpu_kernels.h"
#include "kernels/software_cpu.h"
#ifdef AEROGEL_CUDA
#include "kernels/cuda/list.h"
#endif

namespace aerogel::testing {
namespace {

enum class Tested { cpu, emulated_cpu, cuda, cuda_own };

Tested tested() {
    static const Tested answer = [] {
        const auto wanted =
            environment_choice("AEROGEL_TEST_MACHINE", {"cpu", "emulated_cpu", "cuda", "cuda_own"});
        if (!wanted || *wanted == "cpu") return Tested::cpu;
        if (*wanted == "emulated_cpu") return Tested::emulated_cpu;
        return *wanted == "cuda" ? Tested::cuda : Tested::cuda_own;
    }();
    return answer;
}

constexpr double kMostProducts = 3e6;

const Machine kToy = {.why_not = [](Device, int) { return std::string(); },
                      .run =
                          [](Device, FunctionRef<void()> body) {
                              const Unhidden open;
                              body();
                          }};

}  // namespace

bool tests_the_cpu() {
    return tested() == Tested::cpu || tested() == Tested::emulated_cpu;
}

// A GPU has time for every problem.
bool takes_time() {
    if (tests_the_cpu()) return tested() == Tested::emulated_cpu;
    return environment("AEROGEL_CUDA_DRIVER").has_value();
}

const Machine& machine_under_test() {
#ifdef AEROGEL_CUDA
    if (!tests_the_cpu()) {
        static const MirroredMachine<cuda::kMachine> mirrored;
        return mirrored.machine();
    }
#endif
    return tested() == Tested::cpu ? cpu_with_software() : cpu::kMachine;
}

std::string not_tested(int level) {
    if (tested() == Tested::cuda_own && (level & 1) != 0) return "tested on every card";
    return machine_under_test().why_not(tests_the_cpu() ? Device::cpu : Device::cuda, level);
}

bool is_too_large(const LinearProblem& problem) {
    return takes_time() &&
           static_cast<double>(problem.m) * static_cast<double>(problem.n) * static_cast<double>(problem.k) >
               kMostProducts;
}

bool is_too_large(const AttentionProblem& problem) {
    const double pairs =
        static_cast<double>(problem.maps() * problem.q_len) * static_cast<double>(problem.k_len);
    return takes_time() && pairs * static_cast<double>(2 * problem.head_dim) > kMostProducts;
}

bool is_too_large(const ConvolutionProblem& problem, std::int64_t pixels) {
    return takes_time() &&
           static_cast<double>(problem.k() * problem.out_channels) * static_cast<double>(pixels) >
               4 * kMostProducts;
}

// A run without rows of its own would pass and say nothing.
TEST(MachineUnderTest, HasARow) {
    EXPECT_FALSE(usable(machine_under_test().linear).empty());
}

TEST(Mirror, ArraysGoThereAndComeBack) {
    const GuestMemory memory(Device::cuda, kHiddenMemory);
    const std::vector<float> x = {1, 2, 3};
    std::vector<float> y = {4, 5, 6};
    run_mirrored(kToy, Device::cuda, [&](Mirror& mirror) {
        const float* from = mirror.read(x.data(), 3);
        float* to = mirror.write(y.data(), 2);
        EXPECT_NE(from, x.data());
        EXPECT_EQ(to[1], 5.0F);
        to[0] = from[2];
        EXPECT_EQ(mirror.read(static_cast<const float*>(nullptr), 3), nullptr);
    });
    EXPECT_EQ(y, (std::vector<float>{3, 5, 6}));
}

}  // namespace aerogel::testing
