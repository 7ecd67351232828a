// Runs the suites. A CPU level that AEROGEL_CPU asks for and this machine lacks is not a failure of the code:
// the run says so and exits with kSkipped, which ctest shows as skipped.
#include <gtest/gtest.h>

#include <cstdio>

#include "aerogel/error.h"
#include "base/cpu_features.h"

int main(int argc, char** argv) {
    constexpr int kSkipped = 77;
    testing::InitGoogleTest(&argc, argv);
    try {
        aerogel::cpu_level();
    } catch (const aerogel::InvalidArgument& error) {
        std::fprintf(stderr, "skipped: %s\n", error.what());
        return kSkipped;
    }
    return RUN_ALL_TESTS();
}
