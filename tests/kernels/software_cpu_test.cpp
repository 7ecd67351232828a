// Kernels above AVX2 over instructions in software: in every list in their places, and with the bits of the
// real instructions where the CPU has them. That they are right the suites of all kernels show.
#include "kernels/software_cpu.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "base/cpu_features.h"
#include "kernels/int8_attention_cases.h"
#include "kernels/linear_cases.h"

namespace aerogel::cpu {

/// The lists of kernels/cpu/list.cpp once more. Rows up to AVX2 are the same, the others in software.
extern const Machine kSoftwareMachine;

}  // namespace aerogel::cpu

namespace aerogel::testing {
namespace {

constexpr int kAvx2 = static_cast<int>(CpuLevel::avx2);

std::string why_not_real(int level) {
    return cpu::kMachine.why_not(Device::cpu, level);
}

template <typename Kernel>
using Rows = std::vector<MachineRow<Kernel>>;

template <typename Kernel>
Rows<Kernel> with_software(KernelList<Kernel> real, KernelList<Kernel> software) {
    Rows<Kernel> rows(real.begin(), real.end());
    for (std::size_t i = 0; i < rows.size(); ++i)
        if (!why_not_real(rows[i].level).empty()) rows[i].kernel = software[i].kernel;
    return rows;
}

const Machine &kReal = cpu::kMachine, &kSoftware = cpu::kSoftwareMachine;

}  // namespace

const Machine& cpu_with_software() {
    static const auto linear = with_software(kReal.linear, kSoftware.linear);
    static const auto attention = with_software(kReal.attention, kSoftware.attention);
    static const auto elementwise = with_software(kReal.elementwise, kSoftware.elementwise);
    static const auto hadamard = with_software(kReal.hadamard, kSoftware.hadamard);
    static const auto convolution = with_software(kReal.convolution, kSoftware.convolution);
    static const Machine machine = {
        .why_not = [](Device, int level) { return why_not_real(std::min(level, kAvx2)); },
        .linear = linear,
        .attention = attention,
        .elementwise = elementwise,
        .hadamard = hadamard,
        .convolution = convolution};
    return machine;
}

namespace {

/// The rows above AVX2 that this process may run, each with the same in software.
template <typename Kernel>
std::vector<std::pair<const Kernel*, const Kernel*>> twins(KernelList<Kernel> real,
                                                           KernelList<Kernel> software) {
    std::vector<std::pair<const Kernel*, const Kernel*>> found;
    for (std::size_t i = 0; i < real.size(); ++i)
        if (real[i].level > kAvx2 && why_not_real(real[i].level).empty())
            found.emplace_back(real[i].kernel, software[i].kernel);
    return found;
}

template <typename Kernel>
void expect_the_same_rows(KernelList<Kernel> real, KernelList<Kernel> software) {
    ASSERT_EQ(real.size(), software.size());
    for (std::size_t i = 0; i < real.size(); ++i) {
        EXPECT_EQ(real[i].kernel->name, software[i].kernel->name);
        EXPECT_EQ(real[i].kernel == software[i].kernel, real[i].level <= kAvx2) << real[i].kernel->name;
    }
}

TEST(SoftwareCpu, HasEveryRow) {
    expect_the_same_rows(kReal.linear, kSoftware.linear);
    expect_the_same_rows(kReal.attention, kSoftware.attention);
    expect_the_same_rows(kReal.elementwise, kSoftware.elementwise);
    expect_the_same_rows(kReal.hadamard, kSoftware.hadamard);
    expect_the_same_rows(kReal.convolution, kSoftware.convolution);
}

/// The sign of a NaN depends on the order of operands, which is the compiler's.
bool same_number(float a, float b) {
    return std::memcmp(&a, &b, sizeof(a)) == 0 || (std::isnan(a) && std::isnan(b));
}

TEST(SoftwareCpu, LinearsHaveTheBitsOfTheInstructions) {
    const auto kernels = twins(kReal.linear, kSoftware.linear);
    if (kernels.empty()) GTEST_SKIP() << "the CPU level has nothing above AVX2";
    for (const LinearShape& shape : {LinearShape{37, 130, 515, 0, false}, LinearShape{12, 65, 96, 32, false},
                                     LinearShape{3, 33, 1024, 64, false}}) {
        for (const LinearCase& c : linear_cases(shape)) {
            const LinearArrays arrays(c);
            for (const auto& [real, software] : kernels) {
                const bool sums_pairs = real->name == "cpu.avx512_bf16.bf16" && c.problem.x == DType::bf16;
                if (sums_pairs || !real->why_not(c.problem).empty()) continue;
                std::string complaint;
                const std::vector<float> wanted = arrays.run(*real, complaint);
                const std::vector<float> got = arrays.run(*software, complaint);
                EXPECT_TRUE(std::equal(got.begin(), got.end(), wanted.begin(), wanted.end(), same_number))
                    << real->name << " " << c.describe();
                EXPECT_EQ(complaint, "");
            }
        }
    }
}

constexpr const char* kAttentions[] = {
    "heads=2 q_len=130 k_len=301 head_dim=40",
    "heads=2 q_len=70 k_len=333 head_dim=128 layout=bsnd dtype=bf16",
    "heads=2 kv_heads=1 q_len=90 k_len=257 head_dim=64 mask=32x24 density=0.3",
    "q_len=45 k_len=1100 head_dim=33 mask=16x17 density=0.5 fill=empty_rows dtype=bf16",
    // So many maps that tasks of tiles have more than one block of 32 rows.
    "heads=64 q_len=70 k_len=77 head_dim=17 dtype=bf16",
    "heads=64 q_len=70 k_len=77 head_dim=17 mask=70x24 density=0.7 dtype=bf16"};

TEST(SoftwareCpu, AttentionHasTheBitsOfTheInstructions) {
    const auto kernels = twins(kReal.attention, kSoftware.attention);
    if (kernels.empty()) GTEST_SKIP() << "the CPU level has nothing above AVX2";
    for (const char* line : kAttentions) {
        const AttentionCase test_case = parse_attention_case(line);
        AttentionData floats(test_case);
        for (const auto& [real, software] : kernels) {
            if (!real->is_for(test_case.problem) || real->rounds_weights) continue;
            if (!real->why_not(test_case.problem).empty()) continue;
            EXPECT_TRUE(run_attention(*software, floats).bytes == run_attention(*real, floats).bytes)
                << real->name << " " << line;
        }
        QuantizedData data(floats, Scales::per_token);
        for (const auto& [real, software] : kernels) {
            if (!real->is_for(data.problem)) continue;
            EXPECT_TRUE(run_attention(*software, data).bytes == run_attention(*real, data).bytes)
                << real->name << " " << line;
        }
    }
}

const AttentionKernel& attention_row(std::string_view name) {
    for (const auto& row : cpu_with_software().attention)
        if (row.kernel->name == name) return *row.kernel;
    throw std::runtime_error("no row of this name");
}

TEST(SoftwareCpu, TilesGiveTheBitsOfVectors) {
    if (cpu_level() < CpuLevel::avx2) GTEST_SKIP() << "needs AVX2";
    int next = 0;
    for (const char* line : kAttentions) {
        const AttentionCase test_case = parse_attention_case(line);
        AttentionData arrays(test_case);
        QuantizedData data(arrays, static_cast<Scales>(next++ % 4));
        for (const bool centroids : {false, true}) {
            if (centroids && !test_case.problem.masked) continue;
            data.problem.centroids = centroids;
            const PaddedArray tiles = run_attention(attention_row("cpu.amx.int8_attention"), data);
            const PaddedArray vectors = run_attention(attention_row("cpu.avx512.int8_attention"), data);
            EXPECT_TRUE(tiles.bytes == vectors.bytes) << line << " centroids " << centroids;
        }
    }
}

}  // namespace
}  // namespace aerogel::testing
