// Only regular files are opened, whatever stands behind a name, and none is read without end.
#include "core/input_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "core/mapped_file.h"
#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

class InputFiles : public TemporaryFolder {
  protected:
    static std::string opening(const std::filesystem::path& path) {
        const std::string message = error_of<IoError>([&] { read_text_file(path, "op", 1000); });
        EXPECT_THAT(message, ::testing::StartsWith("[op] " + path.string() + ": "));
        error_of<IoError>([&] { MappedFile::open(path); });
        return message;
    }
};

TEST_F(InputFiles, OnlyRegularFiles) {
    ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
    EXPECT_THAT(opening(at("pipe")), HasSubstr("is a named pipe, not a regular file"));
    EXPECT_THAT(opening("/dev/zero"), HasSubstr("is a device, not a regular file"));
    EXPECT_THAT(opening(folder_), HasSubstr("is a folder, not a file"));
    EXPECT_THAT(opening(at("none")), HasSubstr("No such file"));
    std::filesystem::create_symlink("a", at("b"));
    std::filesystem::create_symlink("b", at("a"));
    EXPECT_THAT(opening(at("a")), HasSubstr("Too many levels of symbolic links"));
    std::filesystem::create_symlink("/dev/zero", at("zeros"));
    EXPECT_THAT(opening(at("zeros")), HasSubstr("is a device"));

    const int socket = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, at("socket").c_str(), sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(socket, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_THAT(opening(at("socket")), HasSubstr("is a socket, not a regular file"));
    ::close(socket);
}

TEST_F(InputFiles, ReadsAllOrNothing) {
    const std::string text(300'000, 'x');
    const auto path = write("text", text);
    EXPECT_EQ(read_text_file(path, "op", 300'000), text);
    EXPECT_THAT(error_of([&] { read_text_file(path, "op", 299'999); }),
                HasSubstr("must be at most 299999 bytes long"));
    EXPECT_EQ(read_text_file(write("empty", ""), "op", 0), "");
    // Files of /proc say that they have 0 bytes.
    EXPECT_FALSE(read_text_file("/proc/self/status", "op", 100'000).empty());
    EXPECT_THAT(error_of([] { read_text_file("/proc/self/status", "op", 10); }),
                HasSubstr("at most 10 bytes"));
}

TEST_F(InputFiles, AFileThatGrowsEndsAtTheLimit) {
    const auto path = write("growing", std::string(1000, 'x'));
    std::atomic<bool> stop = false;
    std::thread writer([&] {
        std::ofstream out(path, std::ios::app);
        const std::string block(1 << 16, 'x');
        for (int i = 0; i < 4000 && !stop; ++i) out << block << std::flush;
    });
    for (int i = 0; i < 200; ++i) {
        try {
            EXPECT_LE(read_text_file(path, "op", 1'000'000).size(), 1'000'000U);
        } catch (const InvalidArgument& error) {
            EXPECT_THAT(error.what(), HasSubstr("must be at most 1000000 bytes long"));
            break;
        }
    }
    stop = true;
    writer.join();
}

}  // namespace
}  // namespace aerogel
