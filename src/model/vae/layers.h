// The layers of VAEs, channels last. One half of a VAE is a list of them; a video goes through it in parts,
// and causal layers keep the last frames of a part for the next one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/linear.h"
#include "model/checkpoint.h"
#include "ops/convolution.h"

namespace aerogel {

/// f32 [frames, height, width, channels].
struct VaeExtent {
    Axes size;
    std::int64_t channels = 0;

    double bytes() const { return 4.0 * static_cast<double>(size.count() * channels); }
};

class TiledNorms;

/// A part of a video on its way.
struct VaePart {
    std::vector<Tensor>& memory;  ///< of the layers that keep frames, each at its own place
    bool first = true;            ///< begins with the first frame of the video
    bool last = true;             ///< no other part follows, so nothing is kept
    const Context& context;
    TiledNorms* norms = nullptr;  ///< of a picture that is seen in tiles

    /// A norm waits for the other tiles: what layers give now is of no use.
    bool stopped() const;
};

class VaeLayer {
  public:
    VaeLayer() = default;
    VaeLayer(const VaeLayer&) = delete;
    VaeLayer& operator=(const VaeLayer&) = delete;
    virtual ~VaeLayer() = default;
    /// x is the layer's own to change. Nothing that counts where the part has stopped.
    virtual Tensor run(Tensor x, const VaePart& part) const = 0;
    /// Of an x of this extent, behind the first frame. `bytes` rises to the memory that the layer takes, x
    /// and the result included, and `kept` by that of the frames it keeps.
    virtual VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const = 0;
    /// How many norms it has whose statistics are of the whole picture.
    virtual std::size_t group_norms() const { return 0; }
    /// Linear::move_weight() of what is packed.
    virtual void move_weights(WeightPlace) {}
};

using VaeLayers = std::vector<std::unique_ptr<VaeLayer>>;

/// Sizes of a convolution, named as in PyTorch.
struct ConvolutionSizes {
    std::int64_t in = 0;
    std::int64_t out = 0;
    Axes kernel = {1, 3, 3};
    bool flat = true;  ///< a Conv2d: its weight has no axis of frames
};

/// A convolution that is packed when it is used for the first time: who only decodes packs no encoder.
class VaeConvolution {
  public:
    VaeConvolution() = default;
    VaeConvolution(const ConvolutionSizes& sizes, Tensor weight, Tensor bias, const ConvolutionForm& form,
                   Device device);
    explicit operator bool() const { return state_ != nullptr; }
    const ConvolutionSizes& sizes() const { return sizes_; }
    const Convolution& get() const;
    /// As Linear::move_weight(), once it is packed.
    void move_weight(WeightPlace place);

  private:
    struct State;
    ConvolutionSizes sizes_;
    std::shared_ptr<State> state_;
};

/// Group norm with weight and bias, or, of one group, the RMS norm of each pixel.
struct VaeNorm {
    std::int64_t groups = 0;  ///< 0: RMS
    Tensor weight;
    Tensor bias;
    float epsilon = 1e-6F;

    /// y like x, may be x; untouched where the part stops here.
    void run(const Tensor& x, Tensor& y, bool silu, const VaePart& part) const;
    std::size_t group_norms() const { return groups > 0 ? 1 : 0; }
};

/// Hands out the layers of one half, and counts the places of their memory.
class VaeBuilder {
  public:
    explicit VaeBuilder(Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

    Device device() const { return checkpoint_.device(); }
    Checkpoint& checkpoint() { return checkpoint_; }
    std::size_t places() const { return places_; }
    std::size_t place() { return places_++; }
    VaeConvolution convolution(const std::string& name, const ConvolutionSizes& sizes,
                               const ConvolutionForm& form);
    /// The same with zeros around that keep the size; in time in front alone.
    VaeConvolution same(const std::string& name, const ConvolutionSizes& sizes);
    /// Two convolutions to sizes.out channels each, which the checkpoint has as one.
    std::pair<VaeConvolution, VaeConvolution> halves(const std::string& name, const ConvolutionSizes& sizes,
                                                     const ConvolutionForm& form);
    VaeNorm group_norm(const std::string& name, std::int64_t channels, std::int64_t groups);
    /// gamma [channels, 1, ...] of so many axes.
    VaeNorm rms_norm(const std::string& name, std::int64_t channels, std::size_t axes);
    /// Mapped [out, in], or a convolution of one tap of so many axes; bias.
    std::pair<Tensor, Tensor> matrix(const std::string& name, std::int64_t out, std::int64_t in,
                                     std::size_t axes);

  private:
    Checkpoint& checkpoint_;
    std::size_t places_ = 0;
};

/// y = convolution of x, which goes on from the frames remembered at `place` and leaves its last ones there.
/// y may be `add`.
struct CausalCall {
    const VaeConvolution& convolution;
    const Tensor& x;
    MutableView y;
    TensorView add = {};
    std::optional<std::size_t> place = {};
};
void run_causal(const CausalCall& call, const VaePart& part);

/// The last `count` frames of `before` (or of nothing) and x, or as many as there are: a copy.
Tensor last_frames(const Tensor& before, const TensorView& x, std::int64_t count, const Context& context);

/// Uninitialised, with the device of x.
Tensor pixels_like(const Tensor& x, const Axes& size, std::int64_t channels);

Axes size_of(const Tensor& x);

/// A copy of some entries of the first axis; undefined where x is.
Tensor copied_rows(const Tensor& x, std::int64_t first, std::int64_t count);

/// A convolution; with `place`, a causal one.
class ConvolutionLayer final : public VaeLayer {
  public:
    ConvolutionLayer(VaeConvolution convolution, const ConvolutionForm& form,
                     std::optional<std::size_t> place = {});
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;
    void move_weights(WeightPlace place) override { convolution_.move_weight(place); }

  private:
    VaeConvolution convolution_;
    ConvolutionForm form_;
    std::optional<std::size_t> place_;
};

/// A norm and SiLU.
class NormLayer final : public VaeLayer {
  public:
    explicit NormLayer(VaeNorm norm) : norm_(std::move(norm)) {}
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;
    std::size_t group_norms() const override { return norm_.group_norms(); }

  private:
    VaeNorm norm_;
};

/// x (or its projection) + conv2(silu(norm2(conv1(silu(norm1(x)))))).
class ResidualLayer final : public VaeLayer {
  public:
    struct Parts {
        VaeNorm norm1, norm2;
        VaeConvolution conv1, conv2;
        VaeConvolution shortcut;            ///< where the channels change
        std::optional<std::size_t> places;  ///< of two memories, of causal convolutions
    };
    explicit ResidualLayer(Parts parts) : parts_(std::move(parts)) {}
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;
    std::size_t group_norms() const override {
        return parts_.norm1.group_norms() + parts_.norm2.group_norms();
    }
    void move_weights(WeightPlace place) override;

  private:
    Parts parts_;
};

/// Self-attention of the pixels of each frame, of one head: as wide as no attention kernel takes.
class VaeAttentionLayer final : public VaeLayer {
  public:
    struct Parts {
        VaeNorm norm;
        std::pair<Tensor, Tensor> q, k, v, out;  ///< weight and bias
        Device device;
    };
    explicit VaeAttentionLayer(Parts parts);
    Tensor run(Tensor x, const VaePart& part) const override;
    VaeExtent measure(const VaeExtent& x, double& bytes, double& kept) const override;
    void move_weights(WeightPlace place) override;

  private:
    /// y += attention of normed.
    void run_frame(const TensorView& normed, const MutableView& y, const Context& context) const;
    VaeNorm norm_;
    std::unique_ptr<Linear> q_, k_, v_, out_;
};

}  // namespace aerogel
