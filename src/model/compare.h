// How close two videos, tensors or files of them are: the one answer behind `aerogel compare` and the Python
// call of that name.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "aerogel/tensor.h"
#include "model/video/metrics.h"

namespace aerogel {

struct Comparison {
    std::string name;
    Distance distance;
    std::optional<double> psnr;  ///< of videos only
    std::optional<double> ssim;
};

/// Distances over pixels in [0,1], PSNR and SSIM over 8-bit pixels. InvalidArgument when the sizes differ.
Comparison compare_frames(const std::string& name, const Frames& a, const Frames& b);

/// True for f32 [3,frames,height,width], not empty: values in [-1,1] are pixels.
bool is_video(const Tensor& tensor);
/// Two tensors of one shape (InvalidArgument otherwise) and of any real types; PSNR and SSIM besides when
/// `as_video` and both are videos.
Comparison compare_tensors(const std::string& name, const Tensor& a, const Tensor& b, bool as_video);

/// The same as a video, or, when both are u8 [frames,height,width,3], of the frames of a video.
Comparison compare_arrays(const std::string& name, const Tensor& a, const Tensor& b);

/// Two videos (.mp4, .gif, folder of PNG files, or the tensor "video" of a .safetensors where only one of
/// them is such a file): one row named "video". Two safetensors files: one row per tensor, in the order of
/// the first; InvalidArgument when the names differ. IoError.
std::vector<Comparison> compare_files(const std::filesystem::path& a, const std::filesystem::path& b);

}  // namespace aerogel
