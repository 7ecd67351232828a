// A file that is shortened while it is mapped: an error afterwards instead of SIGBUS, and the process's own
// handler as it was.
#include "core/mapped_file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <numeric>
#include <thread>
#include <vector>

#include "aerogel/safetensors.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kSize = std::size_t{1} << 20;

long sum_of(const MappedFile& file) {
    const auto bytes = file.bytes();
    return std::accumulate(bytes.begin(), bytes.end(), 0L,
                           [](long sum, std::byte byte) { return sum + static_cast<long>(byte); });
}

struct sigaction current_handler() {
    struct sigaction action = {};
    ::sigaction(SIGBUS, nullptr, &action);
    return action;
}

class MappedFiles : public TemporaryFolder {
  protected:
    std::filesystem::path ones(const std::string& name) { return write(name, std::string(kSize, '\1')); }
};

TEST_F(MappedFiles, TheLostBytesReadAsZerosAndAreAnError) {
    const auto path = ones("file");
    const auto file = MappedFile::open(path);
    EXPECT_EQ(sum_of(*file), static_cast<long>(kSize));
    file->check_intact();
    ASSERT_EQ(::truncate(path.c_str(), 10'000), 0);
    EXPECT_EQ(sum_of(*file), 10'000);
    EXPECT_THAT(
        error_of<IoError>([&] { file->check_intact(); }),
        HasSubstr(path.string() + ": was shortened while it was read: it had 1048576 bytes, now 10000"));
    // Back at its old size it is another file all the same.
    ASSERT_EQ(::truncate(path.c_str(), kSize), 0);
    error_of<IoError>([&] { file->check_intact(); });
}

TEST_F(MappedFiles, ManyThreadsAtOnce) {
    const auto path = ones("file"), other = ones("other");
    const auto file = MappedFile::open(path), intact = MappedFile::open(other);
    ASSERT_EQ(::truncate(path.c_str(), 0), 0);
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i) {
        threads.emplace_back([&] {
            EXPECT_EQ(sum_of(*file), 0);
            EXPECT_EQ(sum_of(*intact), static_cast<long>(kSize));
        });
    }
    for (std::thread& thread : threads) thread.join();
    error_of<IoError>([&] { file->check_intact(); });
    intact->check_intact();
}

TEST_F(MappedFiles, TheHandlerIsPutBack) {
    const auto path = ones("file");
    const auto before = current_handler();
    {
        const auto file = MappedFile::open(path), again = MappedFile::open(path);
        EXPECT_NE(current_handler().sa_sigaction, before.sa_sigaction);
    }
    EXPECT_EQ(current_handler().sa_sigaction, before.sa_sigaction);
    {
        const auto file = MappedFile::open(path);
        ::signal(SIGBUS, SIG_IGN);  // somebody else's, which stays
    }
    EXPECT_EQ(current_handler().sa_handler, SIG_IGN);
    ::sigaction(SIGBUS, &before, nullptr);
}

// A read behind the end of a mapping that is not ours.
void touch_a_foreign_mapping(const std::filesystem::path& path) {
    const int file = ::open(path.c_str(), O_RDWR);
    void* data = ::mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE, file, 0);
    if (::ftruncate(file, 0) != 0) return;
    EXPECT_EQ(*static_cast<volatile char*>(data), 0);
}

TEST_F(MappedFiles, OtherBusErrorsGoToTheHandlerBefore) {
    ::testing::FLAGS_gtest_death_test_style = "threadsafe";
    const auto path = ones("file"), foreign = ones("foreign");
    EXPECT_EXIT(
        {
            ::signal(SIGBUS, [](int) { ::_exit(7); });
            const auto file = MappedFile::open(path);
            touch_a_foreign_mapping(foreign);
        },
        ::testing::ExitedWithCode(7), "");
    EXPECT_EXIT(
        {
            ::signal(SIGBUS, SIG_DFL);
            const auto file = MappedFile::open(path);
            touch_a_foreign_mapping(foreign);
        },
        ::testing::KilledBySignal(SIGBUS), "");
    EXPECT_EXIT(
        {
            ::signal(SIGBUS, SIG_DFL);
            const auto file = MappedFile::open(path);
            ::raise(SIGBUS);
        },
        ::testing::KilledBySignal(SIGBUS), "");
}

TEST_F(MappedFiles, SafetensorsTell) {
    const auto path = at("model.safetensors");
    const Tensor values = Tensor::zeros(DType::f32, {kSize / 4});
    save_safetensors(path, {{"a", values}, {"b", values}});
    const auto file = SafetensorsFile::open(path);
    const Tensor a = file.tensor("a");
    file.check_intact();
    ASSERT_EQ(::truncate(path.c_str(), 4096), 0);
    EXPECT_EQ(a.clone().as<float>()[kSize / 4 - 1], 0.0F);
    EXPECT_THAT(error_of<IoError>([&] { file.check_intact(); }),
                HasSubstr("was shortened while it was read"));
}

}  // namespace
}  // namespace aerogel
