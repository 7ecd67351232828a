// Calibration from recorded inputs: the transformer runs once per record, no sampler, no text encoder.
#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "model/calibrate.h"
#include "model/recorded_inputs.h"

namespace aerogel {

CalibrationStats calibrate(const Transformer& model, const RecordedInputs& inputs) {
    const RecordedInputFile records(inputs.file, "calibrate");
    const int steps = *std::max_element(records.steps().begin(), records.steps().end()) + 1;
    std::vector<std::int64_t> chosen;
    for (std::int64_t i = 0; i < records.count(); ++i) {
        const int step = records.steps()[static_cast<std::size_t>(i)];
        const auto& wanted = inputs.timesteps;
        if (wanted.empty() || std::find(wanted.begin(), wanted.end(), step) != wanted.end())
            chosen.push_back(i);
    }
    if (chosen.empty()) {
        throw InvalidArgument(fmt::format("[calibrate] {}: none of its {} records is of a chosen timestep",
                                          inputs.file.string(), records.count()));
    }
    CalibrationStats stats(steps, inputs.sample_rows);
    int done = 0;
    for (const std::int64_t record : chosen) {
        TransformerStep settings;
        settings.context.timestep_index = records.steps()[static_cast<std::size_t>(record)];
        settings.on_linear_input = [&](const std::string& linear, const TensorView& x) {
            stats.observe(linear, settings.context.timestep_index, x);
        };
        model.forward(records.input(record), settings);
        if (inputs.progress && !inputs.progress(++done, static_cast<int>(chosen.size()))) {
            throw Cancelled("[calibrate] stopped");
        }
    }
    return stats;
}

}  // namespace aerogel
