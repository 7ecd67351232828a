// The emulator finds what it should, says where, and is silent where nothing is wrong.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <set>
#include <vector>

#include "emulator/emulator.h"
#include "emulator/kernels/broken.h"
#include "emulator/memory.h"

namespace aerogel::emulator {

extern "C" {
void aerogel_no_barrier(BrokenArgs args);
void aerogel_no_warp_barrier(BrokenArgs args);
void aerogel_overwrites(BrokenArgs args);
void aerogel_diverged_barrier(BrokenArgs args);
void aerogel_barrier_of_others(BrokenArgs args);
void aerogel_missing_lane(BrokenArgs args);
void aerogel_parted_lanes(BrokenArgs args);
void aerogel_copies(BrokenArgs args);
void aerogel_addresses(BrokenArgs args);
void aerogel_global_races(BrokenArgs args);
void aerogel_strided_stores(BrokenArgs args);
void aerogel_strided_matrices(BrokenArgs args);
void aerogel_recursion(BrokenArgs args);
void aerogel_tickets(BrokenArgs args);
void aerogel_mbarriers(BrokenArgs args);
void aerogel_products(BrokenArgs args);
}

namespace {

using ::testing::HasSubstr;

/// Global memory of a kernel: an allocation with room on both sides that is none.
struct Global {
    Global() : room(4096, 0.0F) { add_allocation(data(), 1024 * sizeof(float)); }
    ~Global() { remove_allocation(data()); }
    float* data() { return room.data() + (1024 - reinterpret_cast<std::uintptr_t>(room.data()) / 4 % 1024); }
    std::vector<float> room;
};

Report run_kernel(BrokenKernel kernel, int broken, Global& global, const Shape& shape, Options options = {}) {
    options.foreign_memory = false;
    return launch(shape, kernel, {global.data(), broken, {}}, options);
}

struct Mistake {
    BrokenKernel kernel;
    Shape shape;
    int broken;
    const char* finding;  ///< part of the report
};
constexpr Size3 kOne{1}, kTwo{2}, kWarp{32}, kWarps{64}, kGroup{128};

const Mistake kMistakes[] = {
    {aerogel_no_barrier, {kOne, kWarps, 256}, 1, "shared byte"},
    {aerogel_no_warp_barrier, {kOne, kWarp, 128}, 1, "shared byte"},
    {aerogel_overwrites, {kOne, kWarps, 256}, 1, "without a barrier between"},
    {aerogel_diverged_barrier, {kOne, kWarps, 0}, 1, "a barrier is complete without all lanes of warp"},
    {aerogel_barrier_of_others,
     {kOne, kWarps, 0},
     1,
     "deadlock: 32 threads (0-31) wait for barrier 1 at broken.cu"},
    {aerogel_missing_lane,
     {kOne, kWarp, 0},
     1,
     "31 threads (0-6, 8-31) wait for the other lanes of its warp at broken.cu"},
    {aerogel_parted_lanes, {kOne, kWarp, 0}, 1, "have parted"},
    {aerogel_copies, {kOne, kWarps, 2048}, 1, "it was not waited for"},
    {aerogel_copies, {kOne, kWarps, 2048}, 2, "it was not waited for"},
    {aerogel_copies, {kOne, kWarps, 2048}, 3, "shared byte"},
    {aerogel_copies, {kOne, kWarps, 2048}, 4, "ends before its asynchronous copies were waited for"},
    {aerogel_addresses, {kOne, kWarp, 2048}, 1, "global address that is not a multiple of 16"},
    {aerogel_addresses, {kOne, kWarp, 2048}, 2, "is not a multiple of 16"},
    {aerogel_addresses, {kOne, kWarp, 2048}, 3, "outside of the block's 2048 bytes"},
    {aerogel_addresses, {kOne, kWarp, 2048}, 4, "is not a multiple of 16"},
    {aerogel_addresses, {kOne, kWarp, 2048}, 5, "is not a multiple of 16"},
    {aerogel_addresses, {kOne, kWarp, 2048}, 6, "which nobody has written"},
    {aerogel_addresses, {kOne, kWarp, 2048}, 7, "writes global memory that is no part of an allocation"},
    {aerogel_addresses, {kOne, kWarp, 2048}, 8, "reads global memory that is no part of an allocation"},
    {aerogel_global_races, {kTwo, kWarps, 0}, 1, "writes global memory that another block wrote"},
    {aerogel_global_races, {kTwo, kWarps, 0}, 2, "wrote without a barrier between"},
    {aerogel_global_races, {kTwo, kWarps, 0}, 3, "reads global memory that another block wrote"},
    {aerogel_mbarriers,
     {kOne, kWarps, 1024},
     1,
     "wait for mbarrier, parity 1, at shared byte 8 at broken.cu"},
    {aerogel_mbarriers, {kOne, kWarps, 1024}, 2, "shared byte"},
    {aerogel_mbarriers, {kOne, kWarps, 1024}, 3, "more arrivals than the mbarrier waits for"},
    {aerogel_mbarriers, {kOne, kWarps, 1024}, 5, "mbarrier"},
    {aerogel_mbarriers, {kOne, kWarps, 1024}, 6, "wait for mbarrier, parity 0, at shared byte 0"},
    {aerogel_mbarriers, {kOne, kWarps, 1024}, 7, "is no mbarrier that was initialised"},
    {aerogel_products, {kOne, kGroup, 8192}, 1, "without fence_async()"},
    {aerogel_products, {kOne, kGroup, 8192}, 2, "without wgmma_fence()"},
    {aerogel_products, {kOne, kGroup, 8192}, 3, "which a product that was not waited for may still read"},
    {aerogel_products, {kOne, kGroup, 8192}, 5, "leads out of shared memory"},
};

TEST(EmulatorFaults, mistakes_are_found_within_a_second) {
    for (const Mistake& m : kMistakes) {
        const auto at = static_cast<std::size_t>(&m - kMistakes);
        // The global read of another block's bytes shows in one order of the blocks.
        Report report;
        const auto begin = std::chrono::steady_clock::now();
        for (std::uint64_t seed = 1; seed <= 8 && report.ok(); ++seed) {
            Global global;
            report = run_kernel(m.kernel, m.broken, global, m.shape, {.seed = seed});
        }
        EXPECT_THAT(report.text(), HasSubstr(m.finding)) << "mistake " << at;
        EXPECT_THAT(report.text(), HasSubstr("[block ")) << "mistake " << at;
        EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(8)) << "mistake " << at;
    }
}

TEST(EmulatorFaults, right_kernels_have_none) {
    for (const Mistake& m : kMistakes) {
        for (std::uint64_t seed = 1; seed <= 4; ++seed) {
            for (const bool late : {true, false}) {
                Global global;
                const Report report = run_kernel(m.kernel, 0, global, m.shape, {.seed = seed, .late = late});
                EXPECT_TRUE(report.ok()) << "mistake " << &m - kMistakes << ": " << report;
            }
        }
    }
}

TEST(EmulatorFaults, freed_memory_is_foreign) {
    Global global;
    remove_allocation(global.data());
    EXPECT_THAT(run_kernel(aerogel_addresses, 0, global, {kOne, kWarp, 2048}).text(),
                HasSubstr("no part of an allocation"));
}

TEST(EmulatorFaults, memory_that_nobody_wrote_is_nan) {
    Global global;
    const Report report = run_kernel(aerogel_addresses, 6, global, {kOne, kWarp, 2048}, {.races = false});
    EXPECT_TRUE(report.ok()) << report;
    EXPECT_TRUE(std::isnan(global.data()[0]));
}

TEST(EmulatorFaults, late_and_early_copies_show_in_the_numbers) {
    for (const bool late : {true, false}) {
        Global global;
        for (int i = 0; i < 512; ++i) global.data()[i] = 1;
        const Report report =
            run_kernel(aerogel_copies, 2, global, {kOne, kWarps, 2048}, {.late = late, .races = false});
        EXPECT_TRUE(report.ok()) << report;
        EXPECT_EQ(std::isnan(global.data()[512]), late);
    }
}

TEST(EmulatorFaults, sums_are_garbage_until_they_are_waited_for) {
    Global global;
    EXPECT_TRUE(run_kernel(aerogel_products, 4, global, {kOne, kGroup, 8192}).ok());
    EXPECT_TRUE(std::isnan(global.data()[0]));
    EXPECT_TRUE(run_kernel(aerogel_products, 0, global, {kOne, kGroup, 8192}).ok());
    EXPECT_EQ(global.data()[0], 1.0F);
}

TEST(EmulatorFaults, bank_conflicts_are_counted) {
    struct Stride {
        int words;
        std::uint64_t conflicts;
    };
    for (const Stride s : {Stride{1, 0}, Stride{2, 1}, Stride{8, 7}, Stride{32, 31}, Stride{33, 0}}) {
        Global global;
        const Report report = run_kernel(aerogel_strided_stores, s.words - 1, global, {kOne, kWarp, 8192});
        EXPECT_EQ(report.shared_conflicts, s.conflicts) << "stride " << s.words;
        EXPECT_EQ(report.shared_accesses, 1U);
    }
    Global global;
    EXPECT_EQ(run_kernel(aerogel_strided_matrices, 0, global, {kOne, kWarp, 8192}).matrix_conflicts, 0U);
    EXPECT_EQ(run_kernel(aerogel_strided_matrices, 1, global, {kOne, kWarp, 8192}).matrix_conflicts, 4 * 7U);
}

TEST(EmulatorFaults, a_thread_has_a_stack_of_its_own) {
    Global global;
    EXPECT_TRUE(run_kernel(aerogel_recursion, 0, global, {kOne, kWarp, 0}, {.races = false}).ok());
    EXPECT_DEATH(run_kernel(aerogel_recursion, 1, global, {kOne, kWarp, 0}, {.races = false}), "");
}

TEST(EmulatorFaults, a_seed_is_an_order) {
    std::set<std::vector<float>> orders;
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
        std::vector<std::vector<float>> twice;
        for (int i = 0; i < 2; ++i) {
            Global global;
            EXPECT_TRUE(run_kernel(aerogel_tickets, 0, global, {kTwo, kGroup, 0}, {.seed = seed}).ok());
            twice.emplace_back(global.data(), global.data() + 9);
        }
        EXPECT_EQ(twice[0], twice[1]);
        orders.insert(twice[0]);
    }
    EXPECT_GT(orders.size(), 4U);
}

TEST(EmulatorFaults, impossible_launches_are_refused) {
    Global global;
    EXPECT_FALSE(run_kernel(aerogel_tickets, 0, global, {kOne, {1056}, 0}).ok());
    EXPECT_FALSE(run_kernel(aerogel_tickets, 0, global, {kOne, {33}, 0}).ok());
    EXPECT_FALSE(run_kernel(aerogel_tickets, 0, global, {kOne, kWarp, 228 * 1024}).ok());
    EXPECT_FALSE(run_kernel(aerogel_tickets, 0, global, {{0}, kWarp, 0}).ok());
}

}  // namespace
}  // namespace aerogel::emulator
