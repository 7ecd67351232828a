// Pairing up what is compared.
#include "model/compare.h"

#include <fmt/format.h>

#include "aerogel/error.h"
#include "aerogel/safetensors.h"
#include "core/finite.h"

namespace aerogel {
namespace fs = std::filesystem;
namespace {

// Distances of what is not finite say nothing.
void check_finite(const std::string& name, const Tensor& tensor, const std::string& which) {
    const std::string problem = finite_problem(name, tensor);
    if (!problem.empty()) throw InvalidArgument(fmt::format("[compare] {} ({})", problem, which));
}

std::vector<Comparison> compare_tensor_files(const fs::path& path_a, const fs::path& path_b) {
    const SafetensorsFile a = SafetensorsFile::open(path_a), b = SafetensorsFile::open(path_b);
    std::vector<Comparison> rows;
    for (const auto& name : a.names()) {
        if (!b.contains(name))
            throw InvalidArgument(fmt::format("[compare] '{}' is in {} only", name, path_a.string()));
        rows.push_back(compare_tensors(name, a.tensor(name), b.tensor(name), name == "video"));
    }
    for (const auto& name : b.names()) {
        if (!a.contains(name))
            throw InvalidArgument(fmt::format("[compare] '{}' is in {} only", name, path_b.string()));
    }
    a.check_intact();
    b.check_intact();
    return rows;
}

// A raw "video" tensor may be compared with an encoded video too.
Frames frames_of(const fs::path& path) {
    if (is_frames_path(path)) return read_frames(path);
    const SafetensorsFile file = SafetensorsFile::open(path);
    const Tensor video = file.tensor("video");
    check_finite("video", video, path.string());
    Frames frames = to_frames(video);
    file.check_intact();
    return frames;
}

}  // namespace

Comparison compare_frames(const std::string& name, const Frames& a, const Frames& b) {
    if (a.count != b.count || a.height != b.height || a.width != b.width) {
        throw InvalidArgument(
            fmt::format("[compare] the videos differ in size: {} frames of {}x{}, and {} frames of {}x{}",
                        a.count, a.width, a.height, b.count, b.width, b.height));
    }
    return {name, distance(a, b), psnr(a, b), ssim(a, b)};
}

bool is_video(const Tensor& tensor) {
    return tensor.dtype() == DType::f32 && tensor.shape().size() == 4 && tensor.dim(0) == 3 &&
           tensor.count() != 0;
}

Comparison compare_tensors(const std::string& name, const Tensor& a, const Tensor& b, bool as_video) {
    if (a.shape() != b.shape()) {
        throw InvalidArgument(
            fmt::format("[compare] '{}' differs in shape: {} and {}", name, a.describe(), b.describe()));
    }
    check_finite(name, a, "the first");
    check_finite(name, b, "the second");
    const Tensor x = a.to(DType::f32), y = b.to(DType::f32);
    const auto count = static_cast<std::size_t>(x.count());
    Comparison row{name, distance({x.as<float>(), count}, {y.as<float>(), count}), {}, {}};
    if (as_video && is_video(a) && is_video(b)) {
        const Frames left = to_frames(a), right = to_frames(b);
        row.psnr = psnr(left, right);
        row.ssim = ssim(left, right);
    }
    return row;
}

Comparison compare_arrays(const std::string& name, const Tensor& a, const Tensor& b) {
    const auto is_frames = [](const Tensor& tensor) {
        return tensor.dtype() == DType::u8 && tensor.shape().size() == 4 && tensor.dim(3) == 3 &&
               tensor.count() != 0;
    };
    const auto frames = [](const Tensor& tensor) -> Frames {
        const auto* first = tensor.as<std::uint8_t>();
        return {tensor.dim(0), tensor.dim(1), tensor.dim(2), {first, first + tensor.count()}};
    };
    if (is_frames(a) && is_frames(b)) return compare_frames(name, frames(a), frames(b));
    return compare_tensors(name, a, b, true);
}

std::vector<Comparison> compare_files(const fs::path& a, const fs::path& b) {
    if (!is_frames_path(a) && !is_frames_path(b)) return compare_tensor_files(a, b);
    return {compare_frames("video", frames_of(a), frames_of(b))};
}

}  // namespace aerogel
