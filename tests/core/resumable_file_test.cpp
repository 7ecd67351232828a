// Files that are written in several runs: a run ends without commit() as a kill would end it.
#include "core/resumable_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ResumableFileTest : public TemporaryFolder {
  protected:
    void first_run(const std::string& key = "k") const {
        ResumableFile file(at("a"), key, 4);
        file.write_at(0, "wxyz", 4);
        file.note("one");
        file.note("two");
    }
};

TEST_F(ResumableFileTest, GoesOnWithTheSameKey) {
    first_run();
    EXPECT_FALSE(std::filesystem::exists(at("a")));
    ResumableFile file(at("a"), "k", 4);
    EXPECT_THAT(file.notes(), ElementsAre("one", "two"));
    char bytes[2] = {};
    file.read_at(1, bytes, 2);
    EXPECT_EQ(std::string(bytes, 2), "xy");
    file.write_at(1, "!", 1);
    file.note("three");
    file.commit();
    EXPECT_EQ(read(at("a")), "w!yz");
    EXPECT_EQ(read(journal_path_of(at("a"))), "aerogel journal 1 k\none\ntwo\nthree\n");
    file.forget();
    EXPECT_EQ(files(), 1);
}

TEST_F(ResumableFileTest, BeginsAnewWithAnotherKeyOrSize) {
    first_run();
    {
        ResumableFile file(at("a"), "other", 4);
        EXPECT_THAT(file.notes(), IsEmpty());
        char bytes[4] = {};
        file.read_at(0, bytes, 4);
        EXPECT_EQ(std::string(bytes, 4), std::string(4, '\0'));
        file.note("three");
    }
    EXPECT_THAT(ResumableFile(at("a"), "other", 4).notes(), ElementsAre("three"));
    EXPECT_THAT(ResumableFile(at("a"), "other", 5).notes(), IsEmpty());
    EXPECT_THAT(ResumableFile(at("a"), "other", 4).notes(), IsEmpty());
}

TEST_F(ResumableFileTest, BeginsAnewWithoutItsBytes) {
    first_run();
    std::filesystem::remove(part_path_of(at("a")));
    EXPECT_THAT(ResumableFile(at("a"), "k", 4).notes(), IsEmpty());
}

TEST_F(ResumableFileTest, LinesWithoutAnEndDoNotCount) {
    first_run();
    write("a.journal", read(at("a.journal")) + "thr");
    {
        ResumableFile file(at("a"), "k", 4);
        EXPECT_THAT(file.notes(), ElementsAre("one", "two"));
        file.note("four");
    }
    EXPECT_THAT(ResumableFile(at("a"), "k", 4).notes(), ElementsAre("one", "two", "four"));
}

TEST_F(ResumableFileTest, OneProcessAtATime) {
    const ResumableFile file(at("a"), "k", 4);
    EXPECT_THAT(error_of<IoError>([&] { ResumableFile(at("a"), "k", 4); }),
                HasSubstr("another process is writing it"));
}

TEST_F(ResumableFileTest, ForgetLeavesNothing) {
    ResumableFile file(at("a"), "k", 4);
    file.forget();
    EXPECT_EQ(files(), 0);
    EXPECT_THAT(error_of<IoError>([&] { ResumableFile(at("no/a"), "k", 4); }), HasSubstr("cannot create"));
}

}  // namespace
}  // namespace aerogel
