// Variational autoencoders of diffusers: latents to pixels and back. Latents are those that the transformer
// takes and gives: scaling_factor and shift_factor, latents_mean and latents_std, the batch norm and the
// 2x2 patches of Flux2 are applied in here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "aerogel/context.h"
#include "aerogel/linear.h"
#include "aerogel/tensor.h"

namespace aerogel {

/// How one call is computed. Zeros: chosen by the sizes and by the memory that is usable.
struct VaeOptions {
    /// Side of the squares, in pixels, that are coded one after the other and blended where they overlap. Any
    /// size that a whole picture fits into: at once.
    std::int64_t tile = 0;
    /// Frames of latents that are coded at once. It changes memory and speed, no result.
    std::int64_t chunk = 0;
    /// Called in between with the share that is done, 0 to 1; false stops, and the call throws Cancelled.
    std::function<bool(double done)> progress;
    Context call = {};
};

/// What a VAE makes of sizes. Latents are [1, channels, frames, height, width].
struct VaeShape {
    std::int64_t channels = 16;        ///< of latents, as the transformer sees them
    std::int64_t spatial_factor = 8;   ///< pixels per side of a latent
    std::int64_t temporal_factor = 1;  ///< frames of pixels per frame of latents, after the first one
    bool video = false;                ///< takes more than one frame

    /// f32 shapes. Pixels [1, 3, frames, height, width]. InvalidArgument where sizes are not whole: height
    /// and width must be divided by spatial_factor, frames - 1 by temporal_factor.
    Shape latents(std::int64_t frames, std::int64_t height, std::int64_t width) const;
    /// The pixels of latents of these sizes.
    Shape pixels(std::int64_t frames, std::int64_t height, std::int64_t width) const;
};

class Vae {
  public:
    /// The folder vae/ with config.json and weights, of a class of vae_classes(). Large weights are read when
    /// they are first used. IoError, InvalidArgument (file, key, expected, got).
    static std::unique_ptr<Vae> load(const std::filesystem::path& folder, Device device = {});
    Vae(const Vae&) = delete;
    Vae& operator=(const Vae&) = delete;
    ~Vae();

    const VaeShape& shape() const;
    Device device() const;
    /// Bytes of all weights as stored on disk. A convolution is packed, as float32, when it runs for the
    /// first time: who only decodes pays for no encoder.
    std::size_t weight_bytes() const;
    /// Linear::move_weight() of every convolution and matrix that has run.
    void move_weights(WeightPlace place);

    /// latents f32 [1, channels, frames, height, width] -> f32 [1, 3, frames', height', width'] in [-1, 1],
    /// on the device of the VAE. InvalidArgument for other shapes, Cancelled; IoError when a file of the
    /// weights has been shortened. Layers below the first that doubles the picture see it whole; the others
    /// see tiles where there are any, and are off at their seams alone: group norms take their statistics
    /// from the whole picture, which costs a pass through the tiles for each.
    Tensor decode(const TensorView& latents, const VaeOptions& options = {}) const;
    /// pixels f32 [1, 3, frames, height, width] in [-1, 1] -> latents, the mode of their distribution. Tiles
    /// as in decode().
    Tensor encode(const TensorView& pixels, const VaeOptions& options = {}) const;

  private:
    struct State;
    explicit Vae(std::unique_ptr<State> state);
    std::unique_ptr<State> state_;
};

/// The classes of diffusers (`_class_name` of config.json) that load() takes.
std::span<const std::string_view> vae_classes();

}  // namespace aerogel
