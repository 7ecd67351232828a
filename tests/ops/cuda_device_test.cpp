// CUDA devices from the outside: what is said without a driver, with half of one, when a launch fails or
// memory ends; and what goes there comes back. Every case has a process of its own, as the driver is opened
// once.
#ifdef AEROGEL_FAKE_DRIVER
#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>

#include "aerogel/linear.h"
#include "aerogel/quantized_linear.h"
#include "core/cuda_driver.h"
#include "core/cuda_memory.h"
#include "ops/elementwise.h"
#include "ops/workspace.h"
#include "quant/float_layer.h"

namespace aerogel {
namespace {

using Settings = std::map<std::string, std::string>;

/// Runs body in a child with these variables and prints what it returns, or the error.
[[noreturn]] void say(const Settings& settings, const std::function<std::string()>& body) {
    setenv("AEROGEL_CUDA_DRIVER", AEROGEL_FAKE_DRIVER, 1);
    for (const auto& [name, value] : settings) setenv(name.c_str(), value.c_str(), 1);
    std::string said;
    try {
        said = body();
    } catch (const std::exception& error) {
        said = error.what();
    }
    std::fprintf(stderr, "%s\n", said.c_str());
    std::_Exit(0);
}

void expect(const Settings& settings, const std::function<std::string()>& body, const std::string& wanted) {
    EXPECT_EXIT(say(settings, body), ::testing::ExitedWithCode(0), ::testing::HasSubstr(wanted));
}

Tensor numbers() {
    return Tensor::of(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8}, {2, 4}, Device::cuda);
}

std::string sum_of_doubled() {
    Tensor x = numbers();
    combine({{2.0, x}}, x);
    double sum = 0.0;
    for (const float value : x.values()) sum += static_cast<double>(value);
    return "sum " + std::to_string(static_cast<int>(sum));
}

TEST(CudaDeviceDeathTest, WithoutADriverThereIsOneError) {
    expect({{"AEROGEL_CUDA_DRIVER", "/nowhere/libcuda.so"}}, sum_of_doubled,
           "[device] no CUDA driver: /nowhere/libcuda.so: cannot open shared object file");
    expect({{"AEROGEL_CUDA_DRIVER", "libm.so.6"}}, sum_of_doubled,
           "[device] no CUDA driver: libm.so.6 has no cuInit");
}

TEST(CudaDeviceDeathTest, AnOldDriverIsOneError) {
    expect({{"AEROGEL_FAKE_VERSION", "12090"}}, sum_of_doubled, " is CUDA 12.9, needed is 13.0 or later");
    expect({{"AEROGEL_FAKE_VERSION", "13010"}}, sum_of_doubled, "sum 72");
}

TEST(CudaDeviceDeathTest, OperationsRunOnEveryCard) {
    for (const char* sm : {"80", "86", "89", "90", "100", "120"})
        expect({{"AEROGEL_FAKE_SM", sm}}, sum_of_doubled, "sum 72");
}

TEST(CudaDeviceDeathTest, LinearLayersTakeHalves) {
    const auto forward = [](Device device) {
        const Tensor x = Tensor::of(std::vector<float>{1, 2, 3, 4, 5, 6, 7, 0.5}, {2, 4}).to(DType::f16);
        const Tensor weight = Tensor::of(std::vector<float>{1, 10, 100, 1000}, {1, 4});
        Tensor y(DType::f16, {2, 1}, device);
        FloatLinear(weight, {}, device).forward(x.to(device), y, {});
        const std::vector<float> values = y.to(Device::cpu).to(DType::f32).values();
        return std::to_string(values[0]) + " " + std::to_string(values[1]);
    };
    expect(
        {}, [&] { return forward(Device::cuda); }, "4320.000000 1265.000000");
    expect(
        {}, [&] { return forward(Device::cpu); }, "[linear] x f16[2,4] must be f32 or bf16");
}

/// The kernel that a layer in act order gets there, or why there is none.
std::string in_act_order(const std::string& scheme, std::int64_t rank) {
    Tensor weight = Tensor::zeros(DType::f32, {8, 64});
    for (std::int64_t i = 0; i < weight.count(); ++i)
        weight.mutable_as<float>()[i] = static_cast<float>(i * i % 37) - 18.0F;
    LayerChoices choices;
    choices.weight.group_size = kSchemeGroups;
    QuantizedLinearWeights layer =
        quantize_float({"", weight, Tensor()}, scheme_with_choices(scheme, choices), choices);
    layer.column_order = Tensor(DType::i32, {64});
    for (std::int32_t i = 0; i < 64; ++i) layer.column_order.mutable_as<std::int32_t>()[i] = 63 - i;
    if (rank > 0) {
        layer.low_rank_l1 = Tensor::zeros(DType::f32, {rank, 64});
        layer.low_rank_l2 = Tensor::zeros(DType::f32, {8, rank});
    }
    const QuantizedLinear there(layer, Device::cuda);
    return "it runs on " + Device::cuda.describe();
}

TEST(CudaDeviceDeathTest, ActOrderThatAKernelCannotFollowIsRefused) {
    const auto refused = [](const std::string& kernel) {
        return "[linear] a layer in act order that " + kernel +
               " cannot order and rotate on its way runs on the CPU, not on cuda:0";
    };
    const std::string runs = "it runs on cuda:0";
    expect(
        {}, [] { return in_act_order("W8A8_DYNAMIC", 0); }, runs);
    expect(
        {}, [] { return in_act_order("W8A8_DYNAMIC", 4); }, refused("cuda.sm80.w8a8"));
    expect(
        {}, [] { return in_act_order("W8A8_MXFP8", 0); }, runs);
    expect(
        {{"AEROGEL_FAKE_SM", "120"}}, [] { return in_act_order("W8A8_MXFP8", 0); }, refused("cuda.sm120.mx"));
}

TEST(CudaDeviceDeathTest, AnotherGpuIsAnotherDevice) {
    const auto on_the_second = [] {
        const Device second = {DeviceKind::cuda, 1};
        Tensor x = numbers().to(second);
        clamp(x, 0.0F, 3.0F);
        return x.device().describe() + " " + std::to_string(static_cast<int>(x.values()[7]));
    };
    expect({{"AEROGEL_FAKE_GPUS", "2"}}, on_the_second, "cuda:1 3");
    expect({{"AEROGEL_FAKE_GPUS", "1"}}, on_the_second, "[device] there is no cuda:1, the machine has 1 GPU");
}

TEST(CudaDeviceDeathTest, TheCardIsHeldDown) {
    const auto allowed = [] {
        const cuda::Properties& gpu = cuda::properties(0);
        return std::to_string(gpu.allowed_sm) + " of " + std::to_string(gpu.sm);
    };
    expect({{"AEROGEL_FAKE_SM", "90"}, {"AEROGEL_GPU", "sm_80"}}, allowed, "80 of 90");
    expect({{"AEROGEL_FAKE_SM", "80"}, {"AEROGEL_GPU", "sm_90"}}, allowed,
           "[environment] AEROGEL_GPU=sm_90 asks for more than this GPU is");
    expect({{"AEROGEL_GPU", "sm_70"}}, allowed, "AEROGEL_GPU");
}

TEST(CudaDeviceDeathTest, MemoryEndsWithOneError) {
    const auto too_much = [] {
        const Tensor x(DType::f32, {1024, 1024, 4}, Device::cuda);
        return std::string("there is enough");
    };
    expect({{"AEROGEL_FAKE_MEMORY", "64"}}, too_much, "there is enough");
    expect({{"AEROGEL_FAKE_MEMORY", "8"}}, too_much, "[tensor] no memory for f32[1024,1024,4] on cuda:0");
}

TEST(CudaDeviceDeathTest, WhatIsKeptIsFree) {
    const auto free_there = [] {
        const Tensor lives(DType::f32, {1024, 1024, 4}, Device::cuda);
        Tensor(DType::f32, {1024, 1024, 2}, Device::cuda);
        return std::to_string(free_bytes(Device::cuda).value() >> 20) + " MiB";
    };
    for (const char* memory : {"kept", "exact"})
        expect({{"AEROGEL_FAKE_MEMORY", "64"}, {"AEROGEL_CUDA_MEMORY", memory}}, free_there, "48 MiB");
    EXPECT_FALSE(free_bytes(Device::cpu));
}

TEST(CudaDeviceDeathTest, FreedMemoryIsLentAgain) {
    const auto same = [] {
        const void* first = Tensor(DType::f32, {1000}, Device::cuda).data();
        const Tensor second(DType::f32, {900}, Device::cuda);
        const std::size_t kept = cuda::kept_bytes(0);
        return (second.data() == first ? "the same, kept " : "another, kept ") + std::to_string(kept);
    };
    expect({}, same, "the same, kept 0");
    expect({{"AEROGEL_CUDA_MEMORY", "exact"}}, same, "kept 0");
    const auto reclaimed = [] {  // what is kept goes where something else needs it
        Tensor(DType::f32, {1024, 1024, 4}, Device::cuda);
        const Tensor other(DType::f32, {1024, 1024, 12}, Device::cuda);
        return std::string("there is enough");
    };
    expect({{"AEROGEL_FAKE_MEMORY", "56"}}, reclaimed, "there is enough");
}

TEST(CudaDeviceDeathTest, ScratchMemoryEndsWithOneError) {
    const auto too_much = [] {
        const Workspace scratch(std::size_t{16} << 20, Device::cuda);
        return std::string("there is enough");
    };
    expect({{"AEROGEL_FAKE_MEMORY", "64"}}, too_much, "there is enough");
    expect({{"AEROGEL_FAKE_MEMORY", "8"}}, too_much, "[workspace] no memory for 16781312 bytes on cuda:0");
}

template <typename Entry>
Entry entry_of(const char* name) {
    return reinterpret_cast<Entry>(dlsym(dlopen(AEROGEL_FAKE_DRIVER, RTLD_NOW), name));
}

/// Puts work on it, which runs when somebody waits.
class Queue {
  public:
    Queue() {
        const cuda::CurrentDevice current(0);
        entry_of<cuda::Result (*)(cuda::Stream*, unsigned)>("cuStreamCreate")(&stream_, 1);
    }
    void fill(MutableView y, double value) const {
        const cuda::CurrentDevice current(0);
        for (int i = 0; i < 20; ++i) clamp(y, 0.0F, 1e6F, context());  // it takes a while
        combine({{value, y}}, y, false, context());
    }
    Context context() const { return {.stream = stream_}; }
    void wait() const {
        const cuda::CurrentDevice current(0);
        cuda::check(cuda::driver().synchronize_stream(stream_), "cuStreamSynchronize");
    }
    void end() {
        const cuda::CurrentDevice current(0);
        entry_of<cuda::Result (*)(cuda::Stream)>("cuStreamDestroy_v2")(stream_);
    }

  private:
    cuda::Stream stream_ = nullptr;
};

TEST(CudaDeviceDeathTest, ASecondStreamGetsNoMemoryInUse) {
    const auto freed_early = [](bool second_is_known) {
        return [=] {
            const Queue first, second;
            Tensor warm = numbers(), sum = numbers();
            first.fill(warm, 1.0);
            if (second_is_known) second.fill(warm, 1.0);
            warm.values();
            {
                Tensor x = numbers();
                first.fill(x, 2.0);
                combine({{1.0, x}}, sum, false, first.context());
            }
            Tensor other(DType::f32, {2, 4}, Device::cuda);
            combine({{10.0, warm}}, other, false, second.context());
            second.wait();
            return "sum of " + std::to_string(static_cast<int>(sum.values()[7])) + " and " +
                   std::to_string(static_cast<int>(other.values()[7]));
        };
    };
    expect({}, freed_early(false), "sum of 16 and 80");
    expect({}, freed_early(true), "sum of 16 and 80");
}

TEST(CudaDeviceDeathTest, ScratchMemoryInUseIsNotLent) {
    const auto lent = [] {
        const Queue first, second;
        Tensor x = numbers();
        first.fill(x, 1.0);
        second.fill(x, 1.0);
        first.wait();
        first.fill(x, 1.0);
        const std::byte* before = Workspace(1000, Device::cuda).data();
        return std::string(Workspace(1000, Device::cuda).data() == before ? "lent again" : "another");
    };
    expect({}, lent, "another");
}

TEST(CudaDeviceDeathTest, AStreamMayEnd) {
    const auto ended = [] {
        Queue first;
        const Queue second;
        Tensor x = numbers();
        first.fill(x, 1.0);
        second.fill(x, 1.0);
        first.end();
        const void* freed = Tensor(DType::f32, {1000}, Device::cuda).data();
        const Tensor again(DType::f32, {1000}, Device::cuda);
        return std::string(again.data() == freed ? "the same" : "another");
    };
    expect({}, ended, "the same");
}

TEST(CudaDeviceDeathTest, AFailingKernelIsOneError) {
    const auto outside = [] {  // the device says so when somebody waits for it
        Tensor x = numbers();
        MutableView view = x;
        view.shape = {1 << 20, 4};
        clamp(view, 0.0F, 1.0F);
        return std::to_string(x.values()[0]);
    };
    expect({{"AEROGEL_CUDA_MEMORY", "exact"}}, outside,
           "[device] cuCtxSynchronize failed: CUDA_ERROR_LAUNCH_FAILED");
}

}  // namespace
}  // namespace aerogel
#endif
