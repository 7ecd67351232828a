// The kernels of a device are those of its machine's lists: a machine of this test's own, with a level of its
// own.
#include "ops/machines.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>

#include "aerogel/error.h"
#include "core/hidden_memory.h"
#include "kernels/reference/kernels.h"
#include "ops/dispatch.h"
#include "ops/hadamard.h"
#include "ops/linear.h"

namespace aerogel {
namespace {

constexpr LinearKernel named(std::string_view name, std::string (*why_not)(const LinearProblem&)) {
    LinearKernel kernel = reference::kLinear;
    kernel.name = name;
    kernel.why_not = why_not;
    return kernel;
}

std::string takes_few_rows(const LinearProblem& problem) {
    return problem.m <= 4 ? "" : "m must be at most 4";
}

std::string takes_all(const LinearProblem&) {
    return {};
}

const LinearKernel kFuture = named("toy.two.linear", takes_all), kFew = named("toy.one.few", takes_few_rows),
                   kMany = named("toy.one.many", takes_all);
constexpr MachineRow<LinearKernel> kLinear[] = {{2, &kFuture}, {1, &kFew}, {1, &kMany}};

std::string why_not(Device, int level) {
    return level <= 1 ? "" : "needs toy " + std::to_string(level);
}

const Machine kToy = {.why_not = why_not, .linear = kLinear};

std::string_view chosen(Device device, std::int64_t m) {
    return choose("linear", device, &Machine::linear, LinearProblem{.m = m, .n = 8, .k = 8}).name;
}

std::string refusal(const std::function<void()>& call) {
    try {
        call();
    } catch (const Unsupported& error) {
        return error.what();
    } catch (const DeviceError& error) {
        return error.what();
    }
    return "";
}

// Refused by every build on every machine.
constexpr Device kNowhere = {DeviceKind::cuda, 99};

TEST(Machines, TheListOfTheDeviceIsAsked) {
    EXPECT_NE(refusal([] { chosen(kNowhere, 1); }), "");
    const std::string_view on_the_cpu = chosen(Device::cpu, 1);
    {
        const GuestMachine guest(Device::cuda, kToy);
        EXPECT_EQ(chosen(Device::cuda, 4), "toy.one.few");
        EXPECT_EQ(chosen(Device::cuda, 5), "toy.one.many");
        EXPECT_EQ(chosen(Device::cpu, 1), on_the_cpu);
    }
    EXPECT_NE(refusal([] { chosen(kNowhere, 1); }), "");
}

TEST(Machines, RefusalsOfMachineAndProblemAreBothTold) {
    const Machine without_the_last = {.why_not = why_not, .linear = std::span(kLinear).first(2)};
    const GuestMachine guest(Device::cuda, without_the_last);
    const std::string text = refusal([] { chosen(Device::cuda, 5); });
    EXPECT_NE(text.find("toy.two.linear: needs toy 2; toy.one.few: m must be at most 4"), text.npos) << text;
}

struct Forced {
    explicit Forced(const char* name) { setenv("AEROGEL_KERNEL", name, 1); }
    ~Forced() { unsetenv("AEROGEL_KERNEL"); }
    Forced(const Forced&) = delete;
    Forced& operator=(const Forced&) = delete;
};

std::string slow_here() {
    return "slow on toys";
}

TEST(Machines, ARowThatIsSlowHereRunsWhenItIsForced) {
    const MachineRow<LinearKernel> rows[] = {{1, &kFew, slow_here}, {1, &kMany}};
    const Machine two = {.why_not = why_not, .linear = rows};
    const Machine slow_alone = {.why_not = why_not, .linear = std::span(rows).first(1)};
    {
        const GuestMachine guest(Device::cuda, slow_alone);
        const std::string text = refusal([] { chosen(Device::cuda, 1); });
        EXPECT_NE(text.find("toy.one.few: slow on toys"), text.npos) << text;
    }
    const GuestMachine guest(Device::cuda, two);
    EXPECT_EQ(chosen(Device::cuda, 1), "toy.one.many");
    const Forced forced("toy.one.few");
    EXPECT_EQ(chosen(Device::cuda, 1), "toy.one.few");
    const std::string text = refusal([] { chosen(Device::cuda, 5); });
    EXPECT_NE(text.find("toy.one.few: m must be at most 4"), text.npos) << text;
}

TEST(Machines, TheirKernelsHaveNames) {
    const std::size_t before = all_kernel_names().size();
    const GuestMachine guest(Device::cuda, kToy);
    const std::vector<std::string> names = all_kernel_names();
    EXPECT_EQ(names.size(), before + 3);
    EXPECT_EQ(names.back(), "toy.one.many");
}

TEST(Machines, AnOperationWithoutRowsIsNotSupported) {
    const GuestMachine guest(Device::cuda, kToy);
    const std::string text =
        refusal([] { choose("hadamard", Device::cuda, &Machine::hadamard, FloatRows{}); });
    EXPECT_EQ(text, "[hadamard] no kernel takes float32 rows: this machine has none");
}

std::atomic<std::int64_t> rows_run = 0;

const LinearKernel kThere = [] {
    LinearKernel kernel = named("toy.one.there", takes_all);
    kernel.pack = [](const LinearProblem&, const QuantizedTensor&, std::byte*) noexcept {};
    kernel.run = [](const LinearProblem& problem, const LinearArgs&) noexcept { rows_run += problem.m; };
    return kernel;
}();
const HadamardKernel kTurn = {"toy.one.turn",
                              [](const HadamardArgs& args) noexcept { rows_run += args.rows; }};
const MachineRow<LinearKernel> kLinearThere[] = {{1, &kThere}};
const MachineRow<HadamardKernel> kHadamardThere[] = {{1, &kTurn}};

template <typename Expected>
std::string message_of(const std::function<void()>& call) {
    try {
        call();
    } catch (const Expected& error) {
        return error.what();
    }
    return "no error";
}

TEST(Machines, OperationsRunWhereTheirTensorsAre) {
    const GuestMemory memory(Device::cuda, testing::kHiddenMemory);
    QuantizedTensor weight;
    weight.rows = weight.columns = 4;
    weight.data = Tensor::zeros(DType::f32, {4, 4}, Device::cuda);
    Tensor x = Tensor::zeros(DType::f32, {40, 4}, Device::cuda), y(DType::f32, {40, 4}, Device::cuda);
#ifndef AEROGEL_CUDA
    const std::string none = "[device] this build has no kernels for the device cuda:0";
    EXPECT_EQ(refusal([&] { PackedLinear(weight, Activation::none, Device::cuda); }), none);
    EXPECT_EQ(refusal([&] { hadamard_rows(x, y, {RotationKind::hadamard, 4}, Tensor()); }), none);
#endif
    const Machine there = {.why_not = why_not, .linear = kLinearThere, .hadamard = kHadamardThere};
    const GuestMachine guest(Device::cuda, there);
    const PackedLinear packed(weight, Activation::none, Device::cuda);
    EXPECT_EQ(packed.kernel_name(), "toy.one.there");
    rows_run = 0;
    packed.run(x, y, Activation::none, {});
    EXPECT_EQ(rows_run, 40);
    hadamard_rows(x, y, {RotationKind::hadamard, 4}, Tensor());
    EXPECT_EQ(rows_run, 80);
    const Tensor here = Tensor::zeros(DType::f32, {40, 4});
    EXPECT_EQ(message_of<InvalidArgument>([&] { packed.run(here, y, Activation::none, {}); }),
              "[linear] x f32[40,4] must be on cuda:0");
    EXPECT_NE(message_of<InvalidArgument>([&] {
                  hadamard_rows(here, y, {RotationKind::hadamard, 4}, Tensor());
              }),
              "no error");
    EXPECT_NE(message_of<InvalidArgument>([&] {
                  hadamard_rows(x, y, {RotationKind::hadamard, 4}, Tensor(DType::f32, {4}));
              }),
              "no error");
}

}  // namespace
}  // namespace aerogel
