// Files that appear complete or not at all.
#include "core/atomic_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

class AtomicFileTest : public TemporaryFolder {};

TEST_F(AtomicFileTest, AppearsOnCommit) {
    write("a", "old");
    AtomicFile file(at("a"));
    EXPECT_EQ(file.temporary_path(), at("a.tmp." + std::to_string(::getpid())));
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
    write("a.tmp." + std::to_string(::getpid()), "a longer leftover");
    write_file_atomically(at("a"), "new");
    EXPECT_EQ(read(at("a")), "new");
    EXPECT_EQ(files(), 1);
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
