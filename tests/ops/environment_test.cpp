// A wrong setting is an exception of the first operation, not the end of the process.
#include <gtest/gtest.h>

#include <cstdlib>

#include "aerogel/attention.h"
#include "aerogel/error.h"
#include "aerogel/linear.h"
#include "aerogel/sparse_attention.h"

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

void plan_with_wrong_threads() {
    setenv("AEROGEL_NUM_THREADS", "many", 1);
    const Tensor q = Tensor::zeros(DType::f32, {1, 528, 2, 8});
    try {
        plan_sparse(q, q, {.type = "rf_v1", .sparsity = 0.8, .block_size = 16}, {.latent = {33, 4, 4}}, {});
    } catch (const InvalidArgument&) {
        std::exit(3);
    }
    std::exit(4);
}

TEST(EnvironmentDeathTest, WrongThreadCountIsAnExceptionOfASparsePlan) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(plan_with_wrong_threads(), testing::ExitedWithCode(3), "");
}

}  // namespace
}  // namespace aerogel
