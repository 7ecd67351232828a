// RecordedInputFile: checks of its tensors, and one record at a time.
#include "model/recorded_inputs.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <span>
#include <utility>

#include "aerogel/error.h"

namespace aerogel {

RecordedInputFile::RecordedInputFile(const std::filesystem::path& path, std::string operation)
    : file_(SafetensorsFile::open(path)), operation_(std::move(operation)) {
    count_ = info("hidden_states", 5).shape[0];
    const std::size_t axes = info("timestep").shape.size();
    check("timestep", axes == 1 || axes == 2, "[records] or [records,tokens]");
    info("encoder_hidden_states", 3);
    image_ = file_.contains("encoder_hidden_states_image");
    if (image_) info("encoder_hidden_states_image", 3);
    if (file_.contains("guidance")) info("guidance", 1);
    if (count_ == 0) check("hidden_states", false, "at least one record");
    steps_ = file_.contains("step") ? given_steps() : ranks();
    file_.check_intact();
}

TransformerInput RecordedInputFile::input(std::int64_t record) const {
    TransformerInput input{row("hidden_states", record), row("timestep", record),
                           row("encoder_hidden_states", record), Tensor()};
    if (image_) input.encoder_hidden_states_image = row("encoder_hidden_states_image", record);
    if (file_.contains("guidance")) input.guidance = row("guidance", record);
    file_.check_intact();
    return input;
}

void RecordedInputFile::check(const char* name, bool fits, const std::string& wanted) const {
    if (fits) return;
    const TensorInfo& tensor = file_.info(name);
    throw InvalidArgument(fmt::format("[{}] {}: '{}' must be {}, got {}{}", operation_, file_.path().string(),
                                      name, wanted, to_string(tensor.dtype), to_string(tensor.shape)));
}

// A float tensor of so many axes (0: any) with a row per record.
const TensorInfo& RecordedInputFile::info(const char* name, std::size_t axes) const {
    if (!file_.contains(name)) {
        throw InvalidArgument(fmt::format("[{}] {}: must have the tensor '{}', it has none", operation_,
                                          file_.path().string(), name));
    }
    const TensorInfo& tensor = file_.info(name);
    const bool typed =
        tensor.dtype == DType::f32 || tensor.dtype == DType::bf16 || tensor.dtype == DType::f16;
    check(name, typed && !tensor.shape.empty() && (axes == 0 || tensor.shape.size() == axes),
          fmt::format("f32, bf16 or f16 of {} axes", axes == 0 ? 1 : axes));
    // Zero sizes would let a small file name any number of records.
    const auto rows = std::span(tensor.shape).subspan(1);
    check(name, std::count(rows.begin(), rows.end(), 0) == 0, "without sizes of 0 after the first axis");
    check(name, count_ == 0 || tensor.shape[0] == count_, fmt::format("of {} records", count_));
    return tensor;
}

std::vector<int> RecordedInputFile::given_steps() const {
    const Tensor stored = file_.tensor("step");
    const bool typed = stored.dtype() == DType::i32 || stored.dtype() == DType::i64;
    check("step", typed && stored.shape() == Shape{count_}, fmt::format("i32 or i64 [{}]", count_));
    const Tensor wide = stored.to(DType::i64);
    std::vector<int> result;
    for (std::int64_t i = 0; i < count_; ++i) {
        const std::int64_t step = wide.as<std::int64_t>()[i];
        check("step", step >= 0 && step < 100000, "in [0, 100000)");
        result.push_back(static_cast<int>(step));
    }
    return result;
}

std::vector<int> RecordedInputFile::ranks() const {
    std::vector<float> times;
    for (std::int64_t i = 0; i < count_; ++i) {
        const Tensor time = row("timestep", i);
        times.push_back(*std::max_element(time.as<float>(), time.as<float>() + time.count()));
    }
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

Tensor RecordedInputFile::row(const char* name, std::int64_t record) const {
    const Tensor all = file_.tensor(name);
    Shape shape = all.shape();
    shape[0] = 1;
    return Tensor(all.dtype(), shape, all.view().data_at(record * element_count(shape)), nullptr)
        .to(DType::f32);
}

}  // namespace aerogel
