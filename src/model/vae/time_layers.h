// The layers of Wan's VAE that change the number of frames, and the blocks of Wan 2.2 whose shortcut repeats
// or averages pixels. The first frame of a video stands alone: it is never doubled nor joined with others.
#pragma once

#include "model/vae/layers.h"

namespace aerogel {

/// Two frames for each one behind the first; diffusers' time_conv of upsample3d.
class TimeUpLayer final : public VaeLayer {
  public:
    /// The halves compute the first and the second of the two.
    TimeUpLayer(std::pair<VaeConvolution, VaeConvolution> halves, std::size_t place);
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;
    void move_weights(WeightPlace place) override;

  private:
    std::pair<VaeConvolution, VaeConvolution> halves_;
    std::size_t place_;
};

/// One frame for each two behind the first; time_conv of downsample3d.
class TimeDownLayer final : public VaeLayer {
  public:
    static constexpr ConvolutionForm kForm = {.stride = {2, 1, 1}, .padding = {1, 0, 0}};
    TimeDownLayer(VaeConvolution convolution, std::size_t place);
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;
    void move_weights(WeightPlace place) override { convolution_.move_weight(place); }

  private:
    VaeConvolution convolution_;
    std::size_t place_;
};

/// Layers, a convolution of a doubled picture, and x repeated (DupUp3D).
class RepeatingUpLayer final : public VaeLayer {
  public:
    /// Whether so many channels can become so many others.
    static bool fits(std::int64_t in, std::int64_t out, std::int64_t frames_factor);
    RepeatingUpLayer(VaeLayers layers, VaeConvolution doubled, std::int64_t in, std::int64_t frames_factor);
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;
    void move_weights(WeightPlace place) override;

  private:
    void repeat(const Tensor& x, Tensor& y, bool first, const Context& context) const;
    VaeLayers layers_;
    VaeConvolution doubled_;
    std::int64_t frames_factor_;
    std::int64_t repeats_;
};

/// Layers, and x averaged over pixels and channels (AvgDown3D).
class AveragingDownLayer final : public VaeLayer {
  public:
    struct Factors {
        std::int64_t in, out;
        std::int64_t frames, sides;  ///< 1 or 2
    };
    AveragingDownLayer(VaeLayers layers, const Factors& factors, Device device);
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;
    void move_weights(WeightPlace place) override;

  private:
    VaeLayers layers_;
    Factors factors_;
    VaeConvolution average_first_, average_;
};

/// Squares of pixels as channels, and back.
class PatchLayer final : public VaeLayer {
  public:
    enum class Order : std::uint8_t { lines_first, columns_first };  ///< channel * size^2 + ...
    enum class Way : std::uint8_t { to_channels, to_pixels };
    PatchLayer(std::int64_t size, Order order, Way way) : size_(size), order_(order), way_(way) {}
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;

  private:
    std::int64_t size_;
    Order order_;
    Way way_;
};

}  // namespace aerogel
