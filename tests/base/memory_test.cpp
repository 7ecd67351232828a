// Limits of memory that control groups set, read from folders laid out as the system's.
#include "base/memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <string>

namespace aerogel {
namespace {

constexpr std::uint64_t kNone = std::numeric_limits<std::uint64_t>::max();

struct GroupMemory : testing::Test {
    // Tests run at once, each in a process.
    std::filesystem::path folder = testing::TempDir() + "control_groups_" + std::to_string(::getpid());

    void SetUp() override { std::filesystem::remove_all(folder); }
    void TearDown() override { std::filesystem::remove_all(folder); }

    void write(const std::string& file, const std::string& text) const {
        std::filesystem::create_directories((folder / file).parent_path());
        std::ofstream(folder / file) << text;
    }

    std::uint64_t bytes() const { return group_memory_bytes(folder, folder / "of_process"); }
};

TEST_F(GroupMemory, TheLeastLimitUpToTheRootCounts) {
    write("of_process", "0::/user.slice/session/run.scope\n");
    write("user.slice/memory.max", "5000\n");
    write("user.slice/session/memory.max", "4000\n");
    write("user.slice/session/run.scope/memory.max", "max\n");
    EXPECT_EQ(bytes(), 4000u);
    write("user.slice/memory.max", "3000\n");
    EXPECT_EQ(bytes(), 3000u);
}

TEST_F(GroupMemory, VersionOneHasItsOwnFolderAndFile) {
    write("of_process", "5:devices:/other\n4:cpu,memory:/a/b\n0::/\n");
    write("memory/memory.limit_in_bytes", "9223372036854771712\n");
    write("memory/a/b/memory.limit_in_bytes", "7000\n");
    write("memory/other/memory.limit_in_bytes", "1\n");
    EXPECT_EQ(bytes(), 7000u);
}

TEST_F(GroupMemory, AContainerSeesItsOwnGroupAsTheRoot) {
    write("of_process", "4:memory:/docker/0123\n");
    write("memory/memory.limit_in_bytes", "6000\n");
    EXPECT_EQ(bytes(), 6000u);
    write("of_process", "0::/../elsewhere\n");
    write("memory.max", "2000\n");
    EXPECT_EQ(bytes(), 2000u);
}

TEST_F(GroupMemory, BothVersionsAtOnce) {
    write("of_process", "4:memory:/\n0::/one\n");
    write("memory/memory.limit_in_bytes", "6000\n");
    write("unified/one/memory.max", "5500\n");
    EXPECT_EQ(bytes(), 5500u);
}

TEST_F(GroupMemory, NothingThereIsNoLimit) {
    EXPECT_EQ(bytes(), kNone);
    write("of_process", "nonsense\n:\n::\n1:memory:\n");
    EXPECT_EQ(bytes(), kNone);
}

}  // namespace
}  // namespace aerogel
