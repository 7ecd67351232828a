// Whatever is wrong with a path, users of the library see an aerogel::IoError.
#include "core/paths.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/temporary_folder.h"

namespace aerogel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PathsTest : public TemporaryFolder {};

TEST_F(PathsTest, WhatIsThere) {
    const auto file = write("a", "x");
    std::filesystem::create_hard_link(file, at("b"));
    std::filesystem::create_symlink(at("nowhere"), at("c"));
    EXPECT_TRUE(path_exists(file) && is_file(file) && !is_folder(file));
    EXPECT_TRUE(path_exists(folder_) && !is_file(folder_) && is_folder(folder_));
    EXPECT_FALSE(path_exists(at("c")) || path_exists(file / "below") || is_file("") || is_folder(at("no")));
    EXPECT_TRUE(is_same_file(file, at("b")));
    EXPECT_FALSE(is_same_file(file, folder_) || is_same_file(at("no"), at("no")));
    EXPECT_THAT(folder_entries(folder_), ElementsAre(at("a"), at("b"), at("c")));
}

TEST_F(PathsTest, Errors) {
    std::filesystem::create_symlink(at("loop"), at("loop"));
    for (const auto& question : {path_exists, is_file, is_folder}) {
        EXPECT_THAT(error_of<IoError>([&] { question(at("loop")); }),
                    HasSubstr("loop: cannot look at it: Too many levels of symbolic links"));
        EXPECT_THAT(error_of<IoError>([&] { question(at(std::string(256, 'n'))); }),
                    HasSubstr("File name too long"));
    }
    EXPECT_THAT(error_of<IoError>([&] { folder_entries(at("loop")); }), HasSubstr("cannot list the folder"));
    EXPECT_THAT(error_of<IoError>([&] { folder_entries(write("a", "")); }), HasSubstr("Not a directory"));
    EXPECT_THAT(error_of<IoError>([&] { make_folders(at("a")); }), HasSubstr("cannot make the folder"));
    EXPECT_THAT(error_of<IoError>([&] { make_folders(at("a/b")); }), HasSubstr("cannot make the folder"));
}

TEST_F(PathsTest, FoldersAndFiles) {
    make_folders(at("x/y"));
    make_folders(at("x/y"));
    EXPECT_TRUE(is_folder(at("x/y")));
    EXPECT_THAT(folder_entries(at("x/y")), IsEmpty());
    remove_file(write("x/y/z", ""));
    remove_file(at("x/y/z"));
    EXPECT_FALSE(path_exists(at("x/y/z")));
}

TEST_F(PathsTest, NewFoldersGoAgainWhereNothingLiesInThem) {
    const auto deep = at("kept") / "made" / "deep";
    std::filesystem::create_directory(at("kept"));
    {
        const NewFolders folders(deep);
        EXPECT_TRUE(is_folder(deep));
    }
    EXPECT_THAT(folder_entries(at("kept")), IsEmpty());
    {
        const NewFolders folders(deep / "");
        std::filesystem::create_directory(at("kept") / "made" / "of_others");
    }
    EXPECT_THAT(folder_entries(at("kept") / "made"), ElementsAre(at("kept") / "made" / "of_others"));
    NewFolders(deep).keep();
    EXPECT_TRUE(is_folder(deep));
    { const NewFolders folders(deep), none(""); }
    EXPECT_TRUE(is_folder(deep));
    EXPECT_THAT(error_of<IoError>([&] { const NewFolders folders(at("new") / std::string(256, 'n')); }),
                HasSubstr("File name too long"));
    EXPECT_FALSE(path_exists(at("new")));
}

}  // namespace
}  // namespace aerogel
