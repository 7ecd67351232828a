// Tensors allocate and copy through their device, and nothing else touches what lies there.
#include "core/device_memory.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "aerogel/error.h"
#include "core/hidden_memory.h"
#include "core/reused_memory.h"

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

Tensor bytes(std::int64_t count) {
    return {DType::u8, {count}};
}

TEST(ReusedMemory, AnArrayTakesThePlaceOfOneThatIsGone) {
    constexpr std::int64_t kSize = std::int64_t{1} << 20;
    const ReusedMemory outer;
    const void* first = nullptr;
    {
        const ReusedMemory inner;
        const Tensor array = bytes(kSize);
        first = array.data();
    }
    const Tensor smaller = bytes(kSize / 2), larger = bytes(2 * kSize);
    EXPECT_NE(smaller.data(), first);
    EXPECT_NE(larger.data(), first);
    Tensor again = bytes(kSize + 100);  // of as many pages
    EXPECT_EQ(again.data(), first);
    EXPECT_NE(bytes(kSize).data(), first);
    std::thread([gone = std::move(again)] {}).join();  // freed by another thread
    EXPECT_EQ(bytes(kSize).data(), first);
}

TEST(ReusedMemory, HasAnEnd) {
    const ReusedMemory reused;
    std::vector<Tensor> many;
    std::set<const void*> places;
    for (int i = 0; i < 100; ++i) places.insert(many.emplace_back(bytes(std::int64_t{1} << 22)).data());
    EXPECT_EQ(take_reused((std::size_t{1} << 22) + 4096), nullptr);
    many.clear();
    std::size_t found = 0;
    while (void* block = take_reused((std::size_t{1} << 22) + 4096)) {
        ++found;
        EXPECT_TRUE(places.contains(block));
        std::free(block);
    }
    EXPECT_EQ(found, 15U);  // of 4 MiB and a page, in 64 MiB
    EXPECT_FALSE(keep_for_reuse(nullptr, std::size_t{1} << 30));
}

TEST(WaitingBlocks, TheOldestGoWhereThereAreTooMany) {
    WaitingBlocks blocks(std::size_t{1} << 20);
    const auto made = [](std::size_t size) { return std::aligned_alloc(4096, size); };
    EXPECT_EQ(blocks.take(4096), nullptr);
    void* large = made(std::size_t{2} << 20);
    EXPECT_FALSE(blocks.keep(large, std::size_t{2} << 20));
    std::free(large);
    void* half = made(std::size_t{1} << 19);
    EXPECT_TRUE(blocks.keep(half, std::size_t{1} << 19));
    for (std::size_t i = 0; i < WaitingBlocks::kMostBlocks; ++i) EXPECT_TRUE(blocks.keep(made(8192), 8192));
    EXPECT_EQ(blocks.take(std::size_t{1} << 19), nullptr);  // the first is gone
    for (std::size_t i = 0; i < WaitingBlocks::kMostBlocks; ++i) std::free(blocks.take(8192));
    EXPECT_EQ(blocks.take(8192), nullptr);
    EXPECT_TRUE(blocks.keep(made(8192), 8192));
    blocks.clear();
    EXPECT_EQ(blocks.take(8192), nullptr);
}

TEST(DeviceMemoryDeathTest, TheHostCannotReadIt) {
    const GuestMemory guest(Device::cuda, kHiddenMemory);
    const Tensor there = numbers().to(Device::cuda);
    EXPECT_DEATH(std::printf("%f", static_cast<double>(there.as<float>()[0])), "");
}

}  // namespace
}  // namespace aerogel
