// The fit is least squares over the places of one decoded picture, whose pixels are averaged over each place.
#include "model/preview.h"

#include <Eigen/Dense>
#include <algorithm>

#include "base/random.h"

namespace aerogel {
namespace {

constexpr std::int64_t kSide = 24;
constexpr double kRidge = 1e-3;  // channels outnumber what smooth latents can tell apart

using Matrix = Eigen::MatrixXd;

// Noise at half the resolution, doubled: neighbours are alike, as in pictures. Of variance 1.
Tensor smooth_latents(std::int64_t channels) {
    constexpr std::int64_t kCoarse = kSide / 2;
    std::vector<float> coarse(static_cast<std::size_t>(channels * kCoarse * kCoarse));
    fill_normal(coarse, 0);
    Tensor latents(DType::f32, {1, channels, 1, kSide, kSide});
    float* to = latents.mutable_as<float>();
    for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t y = 0; y < kSide; ++y) {
            for (std::int64_t x = 0; x < kSide; ++x)
                *to++ = coarse[static_cast<std::size_t>((c * kCoarse + y / 2) * kCoarse + x / 2)];
        }
    }
    return latents;
}

// Columns are places: the channels of each, then 1.
Matrix channels_of(const Tensor& latents, std::int64_t frame) {
    const std::int64_t channels = latents.dim(1), frames = latents.dim(2);
    const std::int64_t places = latents.dim(3) * latents.dim(4);
    Matrix matrix(channels + 1, places);
    const float* from = latents.as<float>();
    for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t i = 0; i < places; ++i)
            matrix(c, i) = double{from[(c * frames + frame) * places + i]};
    }
    matrix.row(channels).setOnes();
    return matrix;
}

// Mean colors of each place, [3, places].
Matrix colors_of(const Tensor& pixels) {
    const std::int64_t height = pixels.dim(3), width = pixels.dim(4), side = height / kSide;
    Matrix colors = Matrix::Zero(3, kSide * kSide);
    const float* from = pixels.as<float>();
    for (std::int64_t color = 0; color < 3; ++color) {
        for (std::int64_t y = 0; y < height; ++y) {
            for (std::int64_t x = 0; x < width; ++x)
                colors(color, y / side * kSide + x / side) +=
                    double{*from++} / static_cast<double>(side * side);
        }
    }
    return colors;
}

}  // namespace

LatentPreview::LatentPreview(const Vae& vae) {
    const Tensor latents = smooth_latents(vae.shape().channels);
    const Matrix colors = colors_of(vae.decode(latents.to(vae.device())).to(Device::cpu));
    const Matrix x = channels_of(latents, 0);
    Matrix normal = x * x.transpose();
    normal.diagonal().array() += kRidge * static_cast<double>(x.cols());
    const Matrix found = normal.ldlt().solve(x * colors.transpose());
    for (Eigen::Index c = 0; c < found.rows(); ++c)
        weights_.push_back({found(c, 0), found(c, 1), found(c, 2)});
}

Tensor LatentPreview::picture(const Tensor& latents) const {
    const Matrix x = channels_of(latents, latents.dim(2) / 2);
    Tensor picture(DType::f32, {3, 1, latents.dim(3), latents.dim(4)});
    float* to = picture.mutable_as<float>();
    for (std::size_t color = 0; color < 3; ++color) {
        for (Eigen::Index place = 0; place < x.cols(); ++place) {
            double value = 0.0;
            for (Eigen::Index c = 0; c < x.rows(); ++c)
                value += weights_[static_cast<std::size_t>(c)][color] * x(c, place);
            *to++ = static_cast<float>(std::clamp(value, -1.0, 1.0));
        }
    }
    return picture;
}

}  // namespace aerogel
