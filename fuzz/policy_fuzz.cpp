// Any bytes as a policy of timesteps: either an InvalidArgument, or a policy with a strategy for every step.
#include "aerogel/error.h"
#include "aerogel/timestep.h"
#include "temporary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const auto policy = TimestepPolicyConfig::read(fuzz_file("policy.json", {data, size}));
        for (const int step : {-1, 0, 7, 99'999}) {
            if (policy.get_strategy(step, "fa").empty()) std::abort();
            if (policy.context(step).timestep_index != step) std::abort();
        }
    } catch (const InvalidArgument&) {
        return 0;
    }
    return 0;
}
