// Tensors allocate and copy through their device, and nothing else touches what lies there.
#include "core/device_memory.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "aerogel/error.h"
#include "core/hidden_memory.h"

namespace aerogel {
namespace {

using testing::kHiddenMemory;

Tensor numbers() {
    Tensor x(DType::f32, {2, 3});
    for (std::int64_t i = 0; i < 6; ++i) x.mutable_as<float>()[i] = static_cast<float>(i) + 0.25F;
    return x;
}

void expect_same(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.describe(), b.describe());
    for (std::int64_t i = 0; i < a.count(); ++i) EXPECT_EQ(a.as<float>()[i], b.as<float>()[i]);
}

TEST(DeviceMemory, AnUnknownDeviceIsRefused) {
#ifdef AEROGEL_CUDA
    EXPECT_THROW(Tensor(DType::f32, {2}, {DeviceKind::cuda, 99}), DeviceError);  // with and without a driver
#else
    EXPECT_THROW(Tensor(DType::f32, {2}, Device::cuda), Unsupported);
#endif
}

TEST(DeviceMemory, ValuesGoThereAndComeBack) {
    const GuestMemory guest(Device::cuda, kHiddenMemory);
    const Tensor there = numbers().to(Device::cuda);
    EXPECT_EQ(there.device(), Device::cuda);
    EXPECT_EQ(there.view().device.describe(), "cuda:0");
    expect_same(there.to(Device::cpu), numbers());
    expect_same(there.clone().to(Device::cpu), numbers());
    expect_same(there.reshaped({3, 2}).to(Device::cpu), numbers().reshaped({3, 2}));
    expect_same(there.to(DType::bf16).to(Device::cpu).to(DType::f32), numbers());
    expect_same(Tensor::zeros(DType::f32, {2, 3}, Device::cuda).to(Device::cpu),
                Tensor::zeros(DType::f32, {2, 3}));
    EXPECT_EQ(there.to(Device::cuda).data(), there.data());
}

TEST(DeviceMemoryDeathTest, TheHostCannotReadIt) {
    const GuestMemory guest(Device::cuda, kHiddenMemory);
    const Tensor there = numbers().to(Device::cuda);
    EXPECT_DEATH(std::printf("%f", static_cast<double>(there.as<float>()[0])), "");
}

}  // namespace
}  // namespace aerogel
