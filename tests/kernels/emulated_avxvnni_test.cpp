// The kernels of AVX-VNNI on every machine with AVX2: tests/CMakeLists.txt builds their sources once more,
// with vpdpbusd computed by other instructions. Where the CPU has it, both give the same bits.
#include <gtest/gtest.h>

#include <cstring>

#include "base/cpu_features.h"
#include "kernels/cpu/avxvnni/kernels.h"
#include "kernels/int8_attention_cases.h"
#include "kernels/linear_cases.h"

namespace aerogel::avxvnni_emulated {

extern const LinearKernel kW8A8;
extern const LinearKernel kByteGroups;
extern const AttentionKernel kInt8Attention;

}  // namespace aerogel::avxvnni_emulated

namespace aerogel::testing {
namespace {

class EmulatedAvxVnni : public ::testing::Test {
  protected:
    void SetUp() override {
        if (cpu_level() < CpuLevel::avx2) GTEST_SKIP() << "needs AVX2";
    }
    static bool has_it() { return cpu_has(CpuLevel::avxvnni) && cpu_level() >= CpuLevel::avxvnni; }
};

TEST_F(EmulatedAvxVnni, LinearsAgreeWithTheReference) {
    int runs = 0;
    for (const LinearShape& shape : linear_shapes()) {
        if (shape.speed) continue;
        for (const LinearCase& c : linear_cases(shape)) {
            for (const LinearKernel& kernel : {avxvnni_emulated::kW8A8, avxvnni_emulated::kByteGroups}) {
                if (!kernel.why_not(c.problem).empty()) continue;
                EXPECT_EQ(LinearArrays(c).check(kernel), "");
                ++runs;
            }
        }
    }
    EXPECT_GT(runs, 100);
}

TEST_F(EmulatedAvxVnni, Int8AttentionStaysWithinItsBoundsAndHasTheBitsOfTheInstruction) {
    int next = 0;
    for (const AttentionCase& test_case : attention_cases()) {
        if (test_case.problem.causal || test_case.problem.biased) continue;
        AttentionData arrays(test_case);
        QuantizedData data(arrays, static_cast<Scales>(next++ % 4));
        data.solve(avxvnni_emulated::kInt8Attention);
        const PaddedArray o = run_attention(avxvnni_emulated::kInt8Attention, data);
        EXPECT_EQ(compare(data, o), "");
        if (!has_it()) continue;
        const PaddedArray real = run_attention(avxvnni::kInt8Attention, data);
        EXPECT_EQ(o.bytes == real.bytes, true);
    }
}

}  // namespace
}  // namespace aerogel::testing
