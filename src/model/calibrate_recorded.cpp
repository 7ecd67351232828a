// Calibration from recorded inputs: the transformer runs once per record, no sampler, no text encoder.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "model/calibrate.h"

namespace aerogel {
namespace {

struct Records {
    explicit Records(const std::filesystem::path& path) : file(SafetensorsFile::open(path)) {
        count = info("hidden_states", 5).shape[0];
        const std::size_t axes = info("timestep").shape.size();
        check("timestep", axes == 1 || axes == 2, "[records] or [records,tokens]");
        info("encoder_hidden_states", 3);
        image = file.contains("encoder_hidden_states_image");
        if (image) info("encoder_hidden_states_image", 3);
        if (count == 0) check("hidden_states", false, "at least one record");
        steps = file.contains("step") ? given_steps() : ranks();
    }

    void check(const char* name, bool fits, const std::string& wanted) const {
        if (fits) return;
        const TensorInfo& tensor = file.info(name);
        throw InvalidArgument(fmt::format("[calibrate] {}: '{}' must be {}, got {}{}", file.path().string(),
                                          name, wanted, to_string(tensor.dtype), to_string(tensor.shape)));
    }

    // A float tensor of so many axes (0: any) with a row per record.
    const TensorInfo& info(const char* name, std::size_t axes = 0) const {
        if (!file.contains(name)) {
            throw InvalidArgument(fmt::format("[calibrate] {}: must have the tensor '{}', it has none",
                                              file.path().string(), name));
        }
        const TensorInfo& tensor = file.info(name);
        const bool typed =
            tensor.dtype == DType::f32 || tensor.dtype == DType::bf16 || tensor.dtype == DType::f16;
        check(name, typed && !tensor.shape.empty() && (axes == 0 || tensor.shape.size() == axes),
              fmt::format("f32, bf16 or f16 of {} axes", axes == 0 ? 1 : axes));
        check(name, count == 0 || tensor.shape[0] == count, fmt::format("of {} records", count));
        return tensor;
    }

    std::vector<int> given_steps() const {
        const Tensor stored = file.tensor("step");
        const bool typed = stored.dtype() == DType::i32 || stored.dtype() == DType::i64;
        check("step", typed && stored.shape() == Shape{count}, fmt::format("i32 or i64 [{}]", count));
        const Tensor wide = stored.to(DType::i64);
        std::vector<int> result;
        for (std::int64_t i = 0; i < count; ++i) {
            const std::int64_t step = wide.as<std::int64_t>()[i];
            check("step", step >= 0 && step < 100000, "in [0, 100000)");
            result.push_back(static_cast<int>(step));
        }
        return result;
    }

    std::vector<int> ranks() const {
        std::vector<float> times;
        for (std::int64_t i = 0; i < count; ++i) times.push_back(row("timestep", i).as<float>()[0]);
        std::vector<float> sorted = times;
        std::sort(sorted.begin(), sorted.end(), std::greater<>());
        sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
        std::vector<int> result;
        for (const float time : times) {
            const auto place = std::lower_bound(sorted.begin(), sorted.end(), time, std::greater<>());
            result.push_back(static_cast<int>(place - sorted.begin()));
        }
        return result;
    }

    // One record as f32, the first axis of size 1 ([1] for a plain timestep).
    Tensor row(const char* name, std::int64_t record) const {
        const Tensor all = file.tensor(name);
        Shape shape = all.shape();
        shape[0] = 1;
        const std::size_t bytes = all.bytes() / static_cast<std::size_t>(count);
        auto* data = static_cast<std::byte*>(all.data()) + static_cast<std::size_t>(record) * bytes;
        return Tensor(all.dtype(), shape, data, std::make_shared<Tensor>(all)).to(DType::f32);
    }

    SafetensorsFile file;
    std::int64_t count = 0;
    bool image = false;
    std::vector<int> steps;  // of each record
};

WanInput input_of(const Records& records, std::int64_t record) {
    WanInput input{records.row("hidden_states", record), records.row("timestep", record),
                   records.row("encoder_hidden_states", record), Tensor()};
    if (records.image) input.encoder_hidden_states_image = records.row("encoder_hidden_states_image", record);
    return input;
}

}  // namespace

CalibrationStats calibrate(const WanTransformer& model, const RecordedInputs& inputs) {
    const Records records(inputs.file);
    const int steps = *std::max_element(records.steps.begin(), records.steps.end()) + 1;
    std::vector<std::int64_t> chosen;
    for (std::int64_t i = 0; i < records.count; ++i) {
        const int step = records.steps[static_cast<std::size_t>(i)];
        const auto& wanted = inputs.timesteps;
        if (wanted.empty() || std::find(wanted.begin(), wanted.end(), step) != wanted.end())
            chosen.push_back(i);
    }
    if (chosen.empty()) {
        throw InvalidArgument(fmt::format("[calibrate] {}: none of its {} records is of a chosen timestep",
                                          inputs.file.string(), records.count));
    }
    CalibrationStats stats(steps, inputs.sample_rows);
    int done = 0;
    for (const std::int64_t record : chosen) {
        WanStep settings;
        settings.context.timestep_index = records.steps[static_cast<std::size_t>(record)];
        settings.on_linear_input = [&](const std::string& linear, const TensorView& x) {
            stats.observe(linear, settings.context.timestep_index, x);
        };
        model.forward(input_of(records, record), settings);
        if (inputs.progress && !inputs.progress(++done, static_cast<int>(chosen.size()))) {
            throw Cancelled("[calibrate] stopped");
        }
    }
    return stats;
}

}  // namespace aerogel
