// Each primitive of the card that is at hand, real or emulated (tests/kernels/cuda/primitive_checks).
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <random>
#include <string>
#include <vector>

#include "device_arrays.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/primitive_checks/primitives.h"

namespace aerogel::cuda {
extern const Image kPrimitivesSm80Image, kPrimitivesSm89Image, kPrimitivesSm90Image, kPrimitivesSm120Image;
}  // namespace aerogel::cuda

namespace aerogel::testing {
namespace {

/// The kernels of one source, and the cards that it is for: empty for all.
struct Checks {
    const cuda::Image& image;
    std::vector<int> cards;
    std::vector<std::string> names;
};

const std::vector<Checks>& table() {
    static const std::vector<Checks> all = {
        {cuda::kPrimitivesSm80Image,
         {},
         {"load_store_1",
          "load_store_4",
          "load_store_8",
          "load_store_16",
          "cp_async_4",
          "cp_async_8",
          "cp_async_16",
          "cp_async16",
          "barriers",
          "lanes",
          "ldmatrix_x2",
          "ldmatrix_x4",
          "ldmatrix_x2_trans",
          "ldmatrix_x4_trans",
          "mma_s8",
          "mma_u8s8",
          "mma_bf16",
          "mma_f16",
          "bf16",
          "f16",
          "pairs",
          "numbers"}},
        {cuda::kPrimitivesSm89Image, {89, 120}, {"mma_e4m3", "e4m3"}},
        {cuda::kPrimitivesSm90Image,
         {90},
         {"mbarriers", "bulk_load", "wgmma_s8", "wgmma_s8_registers", "wgmma_s8_128", "wgmma_s8_256",
          "wgmma_e4m3", "wgmma_e4m3_registers", "wgmma_bf16", "wgmma_bf16_registers", "wgmma_bf16_transposed",
          "wgmma_f16", "wgmma_f16_registers", "wgmma_f16_transposed"}},
        {cuda::kPrimitivesSm120Image, {120}, {"mma_mxfp8", "mma_mxfp8_fp4", "mma_mxfp4", "e2m1"}}};
    return all;
}

std::vector<std::string> all_names() {
    std::vector<std::string> names;
    for (const Checks& checks : table()) names.insert(names.end(), checks.names.begin(), checks.names.end());
    return names;
}

const Checks& checks_with(const std::string& name) {
    for (const Checks& checks : table())
        if (std::count(checks.names.begin(), checks.names.end(), name) != 0) return checks;
    return table().front();
}

/// Kernels live as long as the process.
const cuda::Kernel& kernel_of(const cuda::Image& image, const std::string& name) {
    static std::deque<std::string> symbols;
    static std::deque<cuda::Kernel> kernels;
    symbols.push_back("aerogel_check_" + name);
    kernels.push_back({image, symbols.back().c_str()});
    return kernels.back();
}

class Primitives : public ::testing::TestWithParam<std::string> {};

TEST_P(Primitives, DoWhatPlainArithmeticDoes) {
    const Checks& checks = checks_with(GetParam());
    const int sm = cuda::properties(0).sm;
    if (!checks.cards.empty() && std::count(checks.cards.begin(), checks.cards.end(), sm) == 0)
        GTEST_SKIP() << "sm_" << sm << " has no such primitive";
    std::vector<unsigned char> bytes(kPrimitiveBytes);
    std::mt19937 random(11);
    for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(random());
    std::vector<std::int32_t> wrong(kPrimitiveThreads, -1);
    DeviceArrays arrays;
    const PrimitiveArgs args = {arrays.copy(bytes.data(), bytes.size()),
                                arrays.copy(wrong.data(), wrong.size()), kPrimitiveThreads};
    const cuda::Kernel& kernel = kernel_of(checks.image, GetParam());
    cuda::kMachine.run(Device::cuda, [&] {
        launch(kernel, {.blocks = {1}, .threads = {kPrimitiveThreads}, .shared_bytes = 48 * 1024}, nullptr,
               args);
    });
    DeviceArrays::memory().to_host(Device::cuda, wrong.data(), args.wrong, wrong.size() * sizeof(wrong[0]));
    EXPECT_EQ(wrong, std::vector<std::int32_t>(kPrimitiveThreads, 0))
        << GetParam() << ": wrong numbers by thread";
}

INSTANTIATE_TEST_SUITE_P(Cuda, Primitives, ::testing::ValuesIn(all_names()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace aerogel::testing
