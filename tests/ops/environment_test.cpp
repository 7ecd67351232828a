// A wrong setting is an exception of the first operation, not the end of the process.
#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "aerogel/attention.h"
#include "aerogel/error.h"
#include "aerogel/linear.h"

namespace aerogel {
namespace {

// In a child process, because the pool is made once.
void run_with_wrong_threads() {
    setenv("AEROGEL_NUM_THREADS", "many", 1);
    Tensor x = Tensor::zeros(DType::f32, {2, 4}), y = Tensor::zeros(DType::f32, {2, 3});
    try {
        FloatLinear(Tensor::zeros(DType::f32, {3, 4}), {}).forward(x, y, {});
    } catch (const InvalidArgument&) {
        std::exit(3);
    }
    std::exit(4);
}

TEST(EnvironmentDeathTest, WrongThreadCountIsAnExceptionOfTheFirstOperation) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(run_with_wrong_threads(), testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace aerogel
