// Inputs to tune on: of sampling runs, or out of a file.
#include <fmt/format.h>

#include <algorithm>

#include "aerogel/error.h"
#include "model/recorded_inputs.h"
#include "model/tune.h"

namespace aerogel {
namespace {

Tensor kept(const Tensor& tensor) {
    return tensor.defined() ? tensor.clone() : Tensor();
}

TransformerInput kept(const TransformerInput& input) {
    TransformerInput copy;
    copy.hidden_states = kept(input.hidden_states);
    copy.timestep = kept(input.timestep);
    copy.encoder_hidden_states = kept(input.encoder_hidden_states);
    copy.encoder_hidden_states_image = kept(input.encoder_hidden_states_image);
    copy.guidance = kept(input.guidance);
    copy.condition = kept(input.condition);
    return copy;
}

// The steps of one caption that become records: of record r it is step (r + 1/2) / records of the way, and
// the captions take turns.
std::vector<int> steps_of(int caption, int captions, int records, int steps) {
    std::vector<int> chosen;
    for (int record = caption; record < records; record += captions)
        chosen.push_back(
            static_cast<int>((2 * record + 1) * static_cast<std::int64_t>(steps) / (2 * records)));
    return chosen;
}

}  // namespace

std::vector<TuneRecord> tune_records(const Pipeline& pipeline, const TuneCaptions& from) {
    if (from.captions.empty()) throw InvalidArgument("[tune] there are no captions to measure on");
    if (pipeline.experts() != 1) {
        throw InvalidArgument(
            "[tune] the model has two transformers: give the folder of one of them and inputs recorded in "
            "its steps");
    }
    GenerateOptions generate;
    generate.sampling = from.sampling;
    generate.decode = false;
    generate = pipeline.with_defaults(std::move(generate));
    const int steps = *generate.sampling.steps, captions = static_cast<int>(from.captions.size());
    if (from.records > steps * captions || from.records < 1) {
        throw InvalidArgument(
            fmt::format("[tune] records must be in 1 .. {} ({} captions of {} steps), got {}",
                        steps * captions, captions, steps, from.records));
    }
    const int used = std::min(captions, from.records);
    std::vector<TuneRecord> records;
    for (int caption = 0; caption < used; ++caption) {
        std::map<int, TuneRecord>
            of_step;  // a pass of all frames follows that of the first one, and replaces it
        const std::vector<int> chosen = steps_of(caption, used, from.records, steps);
        generate.on_transformer_input = [&](int step, const TransformerInput& input) {
            if (std::find(chosen.begin(), chosen.end(), step) != chosen.end())
                of_step[step] = {kept(input), step};
        };
        generate.progress = [&](int step, int, double) {
            return !from.progress || from.progress(caption * steps + step, used * steps);
        };
        generate.prompt = from.captions[static_cast<std::size_t>(caption)];
        generate.sampling.seed = from.sampling.seed + static_cast<std::uint64_t>(caption);
        pipeline.generate(generate);
        for (auto& [step, record] : of_step) records.push_back(std::move(record));
    }
    return records;
}

std::vector<TuneRecord> tune_records(const std::filesystem::path& file, int records) {
    const RecordedInputFile recorded(file, "tune");
    const std::int64_t count = std::min<std::int64_t>(recorded.count(), records);
    std::vector<TuneRecord> result;
    for (std::int64_t i = 0; i < count; ++i) {
        const std::int64_t at = (2 * i + 1) * recorded.count() / (2 * count);
        result.push_back({recorded.input(at), recorded.steps()[static_cast<std::size_t>(at)]});
    }
    return result;
}

}  // namespace aerogel
