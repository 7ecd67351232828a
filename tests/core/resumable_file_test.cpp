// Files that are written in several runs: a run ends without commit() as a kill would end it.
#include "core/resumable_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <utility>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ResumableFileTest : public TemporaryFolder {
  protected:
    // A file that has begun.
    struct Begun : ResumableFile {
        Begun(std::filesystem::path path, const std::string& key, std::uint64_t size)
            : ResumableFile(std::move(path)) {
            begin(key, size);
        }
    };
    void first_run(const std::string& key = "k") const {
        Begun file(at("a"), key, 4);
        file.write_at(0, "wxyz", 4);
        file.note("one");
        file.note("two");
    }
};

TEST_F(ResumableFileTest, GoesOnWithTheSameKey) {
    first_run();
    EXPECT_FALSE(std::filesystem::exists(at("a")));
    Begun file(at("a"), "k", 4);
    EXPECT_THAT(file.notes(), ElementsAre("one", "two"));
    char bytes[2] = {};
    file.read_at(1, bytes, 2);
    EXPECT_EQ(std::string(bytes, 2), "xy");
    file.write_at(1, "!", 1);
    file.note("three");
    file.commit();
    EXPECT_EQ(read(at("a")), "w!yz");
    EXPECT_EQ(read(journal_path_of(at("a"))), "aerogel journal 1 k\none\ntwo\nthree\ncomplete\n");
    file.forget();
    EXPECT_EQ(files(), 1);
}

TEST_F(ResumableFileTest, BeginsAnewWithAnotherKeyOrSize) {
    first_run();
    {
        Begun file(at("a"), "other", 4);
        EXPECT_THAT(file.notes(), IsEmpty());
        char bytes[4] = {};
        file.read_at(0, bytes, 4);
        EXPECT_EQ(std::string(bytes, 4), std::string(4, '\0'));
        file.note("three");
    }
    EXPECT_THAT(Begun(at("a"), "other", 4).notes(), ElementsAre("three"));
    EXPECT_THAT(Begun(at("a"), "other", 5).notes(), IsEmpty());
    EXPECT_THAT(Begun(at("a"), "other", 4).notes(), IsEmpty());
}

TEST_F(ResumableFileTest, BeginsAnewWithoutItsBytes) {
    first_run();
    std::filesystem::remove(part_path_of(at("a")));
    EXPECT_THAT(Begun(at("a"), "k", 4).notes(), IsEmpty());
}

TEST_F(ResumableFileTest, LinesWithoutAnEndDoNotCount) {
    first_run();
    write("a.journal", read(at("a.journal")) + "thr");
    {
        Begun file(at("a"), "k", 4);
        EXPECT_THAT(file.notes(), ElementsAre("one", "two"));
        file.note("four");
    }
    EXPECT_THAT(Begun(at("a"), "k", 4).notes(), ElementsAre("one", "two", "four"));
}

TEST_F(ResumableFileTest, OneProcessAtATime) {
    const Begun file(at("a"), "k", 4);
    EXPECT_THAT(error_of<IoError>([&] { ResumableFile(at("a")); }),
                HasSubstr("another process is writing it"));
}

TEST_F(ResumableFileTest, WithoutAKeyNothingIsContinued) {
    first_run("");
    EXPECT_THAT(Begun(at("a"), "", 4).notes(), IsEmpty());
}

TEST_F(ResumableFileTest, FindsTheFileUnderItsFinalName) {
    {
        Begun file(at("a"), "k", 4);
        file.write_at(0, "wxyz", 4);
        file.note("one");
        file.commit();
    }
    {
        Begun file(at("a"), "k", 4);
        EXPECT_TRUE(file.committed());
        EXPECT_THAT(file.notes(), ElementsAre("one", "complete"));
        char bytes[4] = {};
        file.read_at(0, bytes, 4);
        EXPECT_EQ(std::string(bytes, 4), "wxyz");
        file.commit();
        file.forget();
    }
    EXPECT_EQ(read(at("a")), "wxyz");
    EXPECT_EQ(files(), 1);
}

// The file of that name belongs to an earlier export.
TEST_F(ResumableFileTest, AnotherFileOfThatNameIsNotContinued) {
    write("a", "old!");
    first_run();
    std::filesystem::remove(part_path_of(at("a")));
    Begun file(at("a"), "k", 4);
    EXPECT_FALSE(file.committed());
    file.write_at(0, "wxyz", 4);
    EXPECT_EQ(read(at("a")), "old!");
}

TEST_F(ResumableFileTest, TooLargeForTheDiskLeavesNothing) {
    EXPECT_THAT(error_of<IoError>([&] { Begun(at("a"), "k", std::uint64_t{1} << 60); }),
                HasSubstr("a: needs 1152921504606846976 bytes"));
    EXPECT_EQ(files(), 0);
}

TEST_F(ResumableFileTest, ForgetLeavesNothing) {
    Begun file(at("a"), "k", 4);
    file.forget();
    EXPECT_EQ(files(), 0);
    EXPECT_THAT(error_of<IoError>([&] { ResumableFile(at("no/a")); }), HasSubstr("cannot create"));
}

}  // namespace
}  // namespace aerogel
