// Any bytes as calibration statistics: either an InvalidArgument, or ranges that are finite in every step.
#include <cmath>

#include "aerogel/error.h"
#include "quant/calibration.h"
#include "temporary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const CalibrationStats stats = CalibrationStats::load(fuzz_file("stats.safetensors", {data, size}));
        for (const std::string& layer : stats.layer_names()) {
            for (const InputRange& range : stats.ranges_by_step(layer)) {
                if (!std::isfinite(range.min) || !std::isfinite(range.max)) std::abort();
            }
            CalibrationStats twice = stats;
            twice.merge(stats);
            if (twice.forwards(layer, 0) != 2 * stats.forwards(layer, 0)) std::abort();
        }
    } catch (const InvalidArgument&) {
        return 0;
    }
    return 0;
}
