// What a Timings sums up.
#include "aerogel/timings.h"

#include <gtest/gtest.h>

#include <chrono>
#include <map>
#include <thread>

#include "aerogel/error.h"
#include "base/timed.h"

namespace aerogel {
namespace {

void spend(int milliseconds) {
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
}

void outer() {
    const Timed timed({.op = "outer", .operations = 10.0});
    spend(2);
    for (int i = 0; i < 3; ++i) {
        const Timed inner({.op = "inner", .kernel = "a", .arithmetic = Arithmetic::int8, .bytes = 5.0});
        spend(20);
    }
}

TEST(Timings, SumsEachOperationWithoutThoseWithinIt) {
    outer();  // nobody measures
    std::map<std::string, OperationTime> found;
    {
        const Timings timings;
        outer();
        std::thread(outer).join();
        { const Timed other({.op = "inner", .kernel = "b"}); }
        for (const OperationTime& operation : timings.operations())
            found[operation.op + operation.kernel] = operation;
        EXPECT_EQ(timings.operations().front().kernel, "a");  // the longest
    }
    outer();
    ASSERT_EQ(found.size(), 3U);
    EXPECT_EQ(found["outer"].calls, 2);
    EXPECT_EQ(found["outer"].operations, 20.0);
    EXPECT_EQ(found["innera"].calls, 6);
    EXPECT_EQ(found["innera"].bytes, 30.0);
    EXPECT_EQ(found["innera"].arithmetic, Arithmetic::int8);
    EXPECT_GE(found["innera"].seconds, 0.12);
    EXPECT_LT(found["outer"].seconds, found["innera"].seconds);
    EXPECT_EQ(found["innerb"].calls, 1);
    {
        const Timings failing;
        try {
            const Timed timed({.op = "fails"});
            throw Error("in its middle");
        } catch (const Error&) {
            const Timed timed({.op = "goes on"});
        }
        ASSERT_EQ(failing.operations().size(), 1U);
        EXPECT_EQ(failing.operations()[0].op, "goes on");
    }
    const Timings again;
    EXPECT_TRUE(again.operations().empty());
    EXPECT_THROW(Timings(), Error);
}

}  // namespace
}  // namespace aerogel
