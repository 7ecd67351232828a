// Files that appear complete or not at all.
#include "core/atomic_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

class AtomicFileTest : public TemporaryFolder {};

TEST_F(AtomicFileTest, AppearsOnCommit) {
    write("a", "old");
    AtomicFile file(at("a"));
    EXPECT_EQ(file.temporary_path(), at("a.tmp"));
    file.write("new");
    file.write_at(6, "!", 1);
    file.write("?");
    EXPECT_EQ(read(at("a")), "old");
    file.commit();
    EXPECT_EQ(read(at("a")), std::string("new\0\0\0!?", 8));
    EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, LeavesNothingWithoutCommit) {
    { AtomicFile(at("a")).write("new"); }
    EXPECT_EQ(files(), 0);
}

TEST_F(AtomicFileTest, TakesOverALeftoverOfTheSameName) {
    for (const char* name : {"a.tmp", "a.tmp.1", "a.tmp.2"}) write(name, "a longer leftover");
    write_file_atomically(at("a"), "new");
    EXPECT_EQ(read(at("a")), "new");
    EXPECT_EQ(files(), 1);
}

TEST_F(AtomicFileTest, WritersOfOnePathAtTheSameTime) {
    AtomicFile first(at("a")), second(at("a"));
    EXPECT_EQ(second.temporary_path(), at("a.tmp.1"));
    first.write("first");
    second.write("second");
    second.commit();
    EXPECT_EQ(read(at("a")), "second");
    AtomicFile third(at("a"));
    third.write("third");
    EXPECT_EQ(read(at("a")), "second");
    first.commit();
    EXPECT_EQ(read(at("a")), "first");
    third.commit();
    EXPECT_EQ(read(at("a")), "third");
    EXPECT_EQ(files(), 1);
}

// Writing there would change a file of somebody else.
TEST_F(AtomicFileTest, LeavesLinksAlone) {
    write("precious", "kept");
    std::filesystem::create_symlink(at("precious"), at("a.tmp"));
    std::filesystem::create_hard_link(at("precious"), at("a.tmp.1"));
    write_file_atomically(at("a"), "new");
    EXPECT_EQ(read(at("a")), "new");
    EXPECT_EQ(read(at("precious")), "kept");
}

TEST_F(AtomicFileTest, AFailedReserveLeavesNothing) {
    constexpr std::uint64_t kTooMuch = std::uint64_t{1} << 60;
    EXPECT_THAT(error_of<IoError>([&] { AtomicFile(at("a")).reserve(kTooMuch); }),
                HasSubstr("a: needs 1152921504606846976 bytes (1152921.5 TB) of the disk, "));
    EXPECT_THAT(error_of<IoError>([&] { AtomicFile(at("a")).reserve(std::uint64_t{1} << 63); }),
                HasSubstr("File too large"));
    EXPECT_EQ(files(), 0);
}

TEST_F(AtomicFileTest, Errors) {
    EXPECT_THAT(error_of<IoError>([&] { write_file_atomically(at("no/a"), "x"); }),
                HasSubstr("no/a: cannot create: No such file or directory"));
    EXPECT_THAT(error_of<IoError>([&] { write_file_atomically(folder_, "x"); }), HasSubstr("Is a directory"));
    EXPECT_THAT(error_of<IoError>([&] { write_file_atomically(at("a/"), "x"); }),
                HasSubstr("not a file name"));
    EXPECT_EQ(files(), 0);
}

}  // namespace
}  // namespace aerogel
