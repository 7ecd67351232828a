// Programs that are run: what they take and print, and how they end: by themselves, hanging, talking,
// failing, or with us.
#include "model/video/subprocess.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>

#include "aerogel/error.h"
#include "base/cancellation.h"

namespace aerogel {
namespace {

using ::testing::HasSubstr;

Subprocess::Options shell(const std::string& script, bool reads = false) {
    return {.arguments = {"sh", "-c", script}, .reads = reads};
}

std::string read_all(Subprocess& program) {
    std::string text;
    std::array<std::byte, 100> chunk{};
    while (const std::size_t got = program.read(chunk))
        text.append(reinterpret_cast<const char*>(chunk.data()), got);
    return text;
}

std::string failure(const std::function<void()>& work) {
    try {
        work();
    } catch (const IoError& error) {
        return error.what();
    }
    return "";
}

void write_much(Subprocess& program) {
    const std::vector<std::byte> bytes(1 << 20);
    for (int i = 0; i < 8; ++i) program.write(bytes);
}

/// False once the process is gone or only waits to be reaped by somebody else.
bool lives(pid_t process) {
    return kill(process, 0) == 0;
}

TEST(Subprocess, PrintsWhatIsReadAndReadsWhatIsWritten) {
    EXPECT_EQ(run_and_read({"printf", "a\\nb"}, 100), "a\nb");
    Subprocess counter(shell("test $(wc -c) = 8388608", true));
    write_much(counter);
    counter.finish();
    EXPECT_EQ(run_and_read({"sh", "-c", "wc -c"}, 100), "0\n");  // it cannot wait for a terminal
}

TEST(Subprocess, FailuresAreOneLineWithItsLastWords) {
    EXPECT_EQ(
        failure([] {
            run_and_read({"sh", "-c", "printf 'one\\ntwo\\033[31m red\\033[0m\\r\\n' >&2; exit 3"}, 100);
        }),
        "[sh] failed: one; two red");
    EXPECT_EQ(failure([] { run_and_read({"false"}, 100); }), "[false] failed: it printed no message");
#if !defined(__SANITIZE_THREAD__)  // which makes a fork of vfork, so that the child cannot tell why
    EXPECT_THAT(failure([] { run_and_read({"no-such-program"}, 100); }),
                HasSubstr("cannot start 'no-such-program': No such file or directory"));
#endif
    EXPECT_THROW(run_and_read({"sh", "-c", "printf 12345"}, 4), InvalidArgument);
}

TEST(Subprocess, OneThatEndsEarlyIsAnErrorAndNoSignal) {
    auto* const before = std::signal(SIGPIPE, SIG_DFL);
    Subprocess program(shell("exec <&-; echo gone >&2; exit 0", true));
    EXPECT_EQ(failure([&] { write_much(program); }), "[sh] ended early: gone");
    EXPECT_EQ(std::signal(SIGPIPE, before), SIG_DFL);  // what the process had is as it was
}

TEST(Subprocess, OneThatTalksWithoutEndNeverBlocksOrFillsMemory) {
    Subprocess program(shell("head -c 3000000 /dev/zero >&2; printf x"));
    EXPECT_EQ(read_all(program), "x");
    program.finish();
}

TEST(Subprocess, HangsEndAfterATime) {
    const std::string wanted = "[sh] made no progress for 0.3 s and was stopped: waiting";
    Subprocess::Options reader = shell("echo waiting >&2; exec sleep 1000"),
                        writer = shell("echo waiting >&2; exec sleep 1000", true);
    Subprocess::Options late = shell("echo waiting >&2; cat >/dev/null; exec sleep 1000", true);
    reader.patience = writer.patience = late.patience = 0.3;
    Subprocess reads(reader), writes(writer), finishes(late);
    EXPECT_EQ(failure([&] { read_all(reads); }), wanted);
    EXPECT_EQ(failure([&] { write_much(writes); }), wanted);
    EXPECT_EQ(failure([&] { finishes.finish(); }), wanted);
}

TEST(Subprocess, CancellingEndsItAndAllItStarted) {
    pid_t grandchild = 0;
    {
        Subprocess program(shell("sleep 1000 & echo $!; wait"));
        std::array<std::byte, 32> digits{};
        const std::size_t got = program.read(digits);
        grandchild = std::stoi(std::string(reinterpret_cast<const char*>(digits.data()), got));
        EXPECT_TRUE(lives(grandchild));
        const auto yes = [] { return true; };
        const CancellationQuestion in_use(yes);
        EXPECT_THROW(read_all(program), Cancelled);
    }
    for (int i = 0; i < 3000 && lives(grandchild); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
    EXPECT_FALSE(lives(grandchild));
}

TEST(Subprocess, AGrandchildThatHoldsThePipesDoesNotHoldUs) {
    Subprocess program(shell("sleep 1000 & printf done"));
    EXPECT_EQ(read_all(program), "done");
    program.finish();
}

TEST(Subprocess, WhatItSaidIsSafeToPrint) {
    EXPECT_EQ(one_line("\n\x1b]0;title\x07 \xc3\xa9\xff\tx\n\n\xc2\x9b"
                       "31m y\n"),
              "0;title? \xc3\xa9??x; ?31m y");
    EXPECT_EQ(one_line(""), "it printed no message");
    EXPECT_EQ(one_line("\x1b"), "it printed no message");
    EXPECT_EQ(one_line(std::string(5000, 'a')), "..." + std::string(600, 'a'));
}

}  // namespace
}  // namespace aerogel
