// The fake driver, called as the library calls a real one.
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "core/cuda_driver.h"
#include "emulator/kernels/sample_w8a8.h"

namespace aerogel::emulator {
namespace {

using cuda::Address;

/// A copy of the driver's library of its own, so that each test begins with a fresh machine.
class FakeDriver : public ::testing::Test {
  protected:
    template <class F, class... Args>
    auto call(const char* name, Args... args) {
        auto* f = reinterpret_cast<F*>(::dlsym(library_, name));
        if (f == nullptr) throw std::runtime_error(std::string("no ") + name);
        return f(args...);
    }
    void SetUp() override {
        library_ = ::dlmopen(LM_ID_NEWLM, AEROGEL_FAKE_DRIVER, RTLD_NOW | RTLD_LOCAL);
        ASSERT_NE(library_, nullptr) << ::dlerror();
        ASSERT_EQ(call<int(unsigned)>("cuInit", 0U), 0);
        cuda::DriverContext context = nullptr;
        ASSERT_EQ((call<int(cuda::DriverContext*, int)>("cuDevicePrimaryCtxRetain", &context, 0)), 0);
        ASSERT_EQ(call<int(cuda::DriverContext)>("cuCtxPushCurrent_v2", context), 0);
    }
    void TearDown() override { ::dlclose(library_); }

    Address allocate(std::size_t bytes) {
        Address p = 0;
        EXPECT_EQ((call<int(Address*, std::size_t)>("cuMemAlloc_v2", &p, bytes)), 0);
        return p;
    }
    int put(Address to, const void* from, std::size_t bytes, cuda::Stream stream = nullptr) {
        return call<int(Address, const void*, std::size_t, cuda::Stream)>("cuMemcpyHtoDAsync_v2", to, from,
                                                                          bytes, stream);
    }
    int get(void* to, Address from, std::size_t bytes, cuda::Stream stream = nullptr) {
        return call<int(void*, Address, std::size_t, cuda::Stream)>("cuMemcpyDtoHAsync_v2", to, from, bytes,
                                                                    stream);
    }
    int wait() { return call<int()>("cuCtxSynchronize"); }
    cuda::Function find(const char* name) {
        // A fat binary without anything but an entry for sm_80.
        static std::array<std::uint64_t, 16> image{};
        image[0] = 0xBA55ED50ULL | std::uint64_t{1} << 32 | std::uint64_t{16} << 48;
        image[1] = 64;
        image[2] = 2 | std::uint64_t{64} << 32;
        image[5] = std::uint64_t{80} << 32;
        cuda::Module module = nullptr;
        EXPECT_EQ((call<int(cuda::Module*, const void*)>("cuModuleLoadData", &module, image.data())), 0);
        cuda::Function function = nullptr;
        EXPECT_EQ((call<int(cuda::Function*, cuda::Module, const char*)>("cuModuleGetFunction", &function,
                                                                         module, name)),
                  0);
        return function;
    }
    template <class A>
    int launch(cuda::Function function, unsigned blocks, unsigned threads, unsigned shared, A args) {
        std::size_t bytes = sizeof args;
        std::array<void*, 5> extra = {reinterpret_cast<void*>(1), &args, reinterpret_cast<void*>(2), &bytes,
                                      nullptr};
        auto* f = reinterpret_cast<decltype(cuda::Driver::launch)>(::dlsym(library_, "cuLaunchKernel"));
        return f(function, blocks, 1, 1, threads, 1, 1, shared, nullptr, nullptr, extra.data());
    }

    void* library_ = nullptr;
};

TEST_F(FakeDriver, runs_a_kernel_when_it_is_waited_for) {
    std::vector<float> x(96);
    std::iota(x.begin(), x.end(), -40.0F);
    const Address dx = allocate(x.size() * 4), dq = allocate(x.size()), ds = allocate(8);
    std::vector<std::int8_t> q(x.size(), 99);
    EXPECT_EQ(put(dx, x.data(), x.size() * 4), 0);
    const SampleQuantizeArgs args{reinterpret_cast<float*>(dx), reinterpret_cast<std::int8_t*>(dq),
                                  reinterpret_cast<float*>(ds), 48};
    EXPECT_EQ(launch(find("aerogel_sample_quantize"), 2, 32, 0, args), 0);
    EXPECT_EQ(get(q.data(), dq, q.size()), 0);
    EXPECT_EQ(q[0], 99) << "nobody has waited";
    EXPECT_EQ(wait(), 0);
    EXPECT_EQ(q[0], -127);
    EXPECT_EQ(q[95], 127);
}

TEST_F(FakeDriver, fresh_memory_is_nan) {
    const Address p = allocate(4);
    float x = 0;
    EXPECT_EQ(get(&x, p, 4), 0);
    EXPECT_EQ(wait(), 0);
    EXPECT_TRUE(std::isnan(x));
}

TEST_F(FakeDriver, the_host_cannot_touch_memory_of_the_gpu) {
    const Address p = allocate(4);
    EXPECT_DEATH(*reinterpret_cast<volatile float*>(p) = 1, "");
}

TEST_F(FakeDriver, memory_beyond_an_allocation_fails_the_launch_and_all_after_it) {
    const Address dx = allocate(47 * 4), dq = allocate(48), ds = allocate(4);
    const std::vector<float> x(47, 1.0F);
    EXPECT_EQ(put(dx, x.data(), 47 * 4), 0);
    const SampleQuantizeArgs args{reinterpret_cast<float*>(dx), reinterpret_cast<std::int8_t*>(dq),
                                  reinterpret_cast<float*>(ds), 48};
    EXPECT_EQ(launch(find("aerogel_sample_quantize"), 1, 32, 0, args), 0);
    ::testing::internal::CaptureStderr();
    EXPECT_EQ(wait(), 719);
    EXPECT_EQ(wait(), 719);
    Address p = 0;
    EXPECT_EQ((call<int(Address*, std::size_t)>("cuMemAlloc_v2", &p, 4)), 719);
    EXPECT_NE(::testing::internal::GetCapturedStderr().find("no part of an allocation"), std::string::npos);
}

TEST_F(FakeDriver, wrong_calls_are_refused) {
    cuda::Function f = find("aerogel_sample_quantize");
    const SampleQuantizeArgs args{};
    EXPECT_EQ(launch(f, 1, 1025, 0, args), 1);
    EXPECT_EQ(launch(f, 0, 32, 0, args), 1);
    EXPECT_EQ(launch(f, 1, 32, 48 * 1024 + 1, args), 1) << "more shared memory than allowed";
    EXPECT_EQ((call<int(cuda::Function, int, int)>("cuFuncSetAttribute", f, 8, 164 * 1024)), 1)
        << "an sm_80 has 163 KiB";
    EXPECT_EQ((call<int(cuda::Function, int, int)>("cuFuncSetAttribute", f, 8, 163 * 1024)), 0);
    EXPECT_EQ(put(0x1234, &args, 4), 1);
    const std::array<char, 64> no_image{};
    cuda::Module module = nullptr;
    EXPECT_EQ((call<int(cuda::Module*, const void*)>("cuModuleLoadData", &module, no_image.data())), 200);
}

TEST_F(FakeDriver, a_capture_neither_allocates_nor_waits_and_runs_when_launched) {
    cuda::Stream stream = nullptr;
    ASSERT_EQ((call<int(cuda::Stream*, unsigned)>("cuStreamCreate", &stream, 0U)), 0);
    const Address p = allocate(4), q = allocate(4);
    ASSERT_EQ((call<int(cuda::Stream, int)>("cuStreamBeginCapture_v2", stream, 0)), 0);
    EXPECT_EQ((call<int(Address, Address, std::size_t, cuda::Stream)>("cuMemcpyDtoDAsync_v2", q, p,
                                                                      std::size_t{4}, stream)),
              0);
    EXPECT_EQ(wait(), 900);
    Address no = 0;
    EXPECT_EQ((call<int(Address*, std::size_t)>("cuMemAlloc_v2", &no, 4)), 900);
    void *graph = nullptr, *executable = nullptr;
    ASSERT_EQ((call<int(cuda::Stream, void**)>("cuStreamEndCapture", stream, &graph)), 0);
    ASSERT_EQ((call<int(void**, void*, unsigned long long)>("cuGraphInstantiateWithFlags", &executable, graph,
                                                            0ULL)),
              0);
    for (float x : {1.0F, 2.0F}) {
        float y = 0;
        EXPECT_EQ(put(p, &x, 4), 0);
        EXPECT_EQ((call<int(void*, cuda::Stream)>("cuGraphLaunch", executable, stream)), 0);
        EXPECT_EQ(get(&y, q, 4, stream), 0);
        EXPECT_EQ(wait(), 0);
        EXPECT_EQ(y, x);
    }
}

TEST_F(FakeDriver, streams_wait_for_events_alone) {
    std::array<cuda::Stream, 2> streams{};
    for (auto& s : streams) ASSERT_EQ((call<int(cuda::Stream*, unsigned)>("cuStreamCreate", &s, 1U)), 0);
    const Address p = allocate(4);
    cuda::Event event = nullptr;
    ASSERT_EQ((call<int(cuda::Event*, unsigned)>("cuEventCreate", &event, 0U)), 0);
    bool early = false;
    for (int i = 0; i < 20; ++i) {
        const float first = -1, x = static_cast<float>(i);
        float y = 0;
        EXPECT_EQ(put(p, &first, 4), 0);
        EXPECT_EQ(wait(), 0);
        EXPECT_EQ(put(p, &x, 4, streams[0]), 0);
        const bool ordered = i % 2 == 0;
        if (ordered) {
            EXPECT_EQ((call<int(cuda::Event, cuda::Stream)>("cuEventRecord", event, streams[0])), 0);
            EXPECT_EQ(
                (call<int(cuda::Stream, cuda::Event, unsigned)>("cuStreamWaitEvent", streams[1], event, 0U)),
                0);
        }
        EXPECT_EQ(get(&y, p, 4, streams[1]), 0);
        EXPECT_EQ(wait(), 0);
        if (ordered) {
            EXPECT_EQ(y, x);
        }
        early |= y == first;
    }
    EXPECT_TRUE(early) << "without an event the order is open";
}

}  // namespace
}  // namespace aerogel::emulator
