// The table of VAEs, the checks of their calls, and the order in which parts and tiles go through the layers.
#include "model/vae/vae.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "aerogel/cancellation.h"
#include "aerogel/error.h"
#include "core/device_memory.h"
#include "core/views.h"
#include "model/vae/families.h"
#include "model/vae/tiles.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr std::array kFamilies = {
    VaeFamily{"AutoencoderKL", image_vae_shape, load_image_vae},
    VaeFamily{"AutoencoderKLFlux2", flux2_vae_shape, load_flux2_vae},
    VaeFamily{"AutoencoderKLQwenImage", video_vae_shape, load_video_vae},
    VaeFamily{"AutoencoderKLWan", video_vae_shape, load_video_vae},
};

constexpr auto kVaeClasses = [] {
    std::array<std::string_view, kFamilies.size()> names;
    std::transform(kFamilies.begin(), kFamilies.end(), names.begin(),
                   [](const VaeFamily& row) { return row.class_name; });
    return names;
}();

const VaeFamily& family_of(const JsonNode& config) {
    const std::string& name = config.at("_class_name").word(kVaeClasses);
    return *std::find_if(kFamilies.begin(), kFamilies.end(),
                         [&](const VaeFamily& family) { return family.class_name == name; });
}

// Pixels of the least side of a tile that is chosen, and of latents that are decoded at once at least.
constexpr std::int64_t kLeastTile = 256, kLeastLatents = 2048;

// Tells how far a call is, and stops it.
class Progress {
  public:
    Progress(const VaeOptions& options, std::int64_t steps) : told_(options.progress), steps_(steps) {}

    void step(double of_step = 1.0) {
        if (!told_) return;
        if (!told_(std::min(1.0, (static_cast<double>(done_) + of_step) / static_cast<double>(steps_))))
            throw Cancelled("[vae] the caller's progress function said stop");
        if (of_step >= 1.0) ++done_;
    }

  private:
    const std::function<bool(double)>& told_;
    std::int64_t steps_;
    std::int64_t done_ = 0;
};

// One video on its way through some layers of a half.
class Stream {
  public:
    Stream(const VaeHalf& half, std::size_t first, std::size_t last)
        : half_(half), first_(first), last_(last), memory_(half.places) {}

    Tensor next(Tensor x, bool is_last, Progress& progress, const Context& context) {
        const VaePart part = {memory_, is_first_, is_last, context};
        for (std::size_t i = first_; i < last_; ++i) {
            x = half_.layers[i]->run(std::move(x), part);
            progress.step(static_cast<double>(i - first_ + 1) / static_cast<double>(last_ - first_));
        }
        is_first_ = false;
        return x;
    }

  private:
    const VaeHalf& half_;
    std::size_t first_, last_;
    std::vector<Tensor> memory_;
    bool is_first_ = true;
};

struct Frames {
    std::int64_t first;
    std::int64_t count;
};

// [frames, height, width, channels] of [1, channels, frames, height, width].
Tensor channels_last(const TensorView& x, const Frames& frames, const Context& context) {
    const Shape strides = strides_of(x);
    const Shape shape = {frames.count, x.dim(3), x.dim(4), x.dim(1)};
    Tensor y(DType::f32, shape, x.device);
    copy(part_of(x, frames.first * strides[2], shape, {strides[2], strides[3], strides[4], strides[1]}), y,
         context);
    return y;
}

// The way back: frames of y from `first` on; y [1, channels, frames, height, width], contiguous.
void put_channels_last(const Tensor& x, const MutableView& y, std::int64_t first, const Context& context) {
    const Shape strides = strides_of(y);
    copy(x, part_of(y, first * strides[2], x.shape(), {strides[2], strides[3], strides[4], strides[1]}),
         context);
}

// A tile of every frame.
Tensor cropped(const Tensor& x, const TileGrid& grid, std::size_t line, std::size_t column,
               const Context& context) {
    const Shape shape = {x.dim(0), grid.lines.size, grid.columns.size, x.dim(3)};
    const Shape strides = strides_of(x.view());
    const std::int64_t at = grid.lines.starts[line] * strides[1] + grid.columns.starts[column] * strides[2];
    Tensor y(DType::f32, shape, x.device());
    copy(part_of(x.view(), at, shape, strides), y, context);
    return y;
}

void require_finite(const char* what, const TensorView& x, const Context& context) {
    if (!all_finite(x, context))
        throw InvalidArgument(fmt::format("[vae] {} must be finite, got NaN or infinity", what));
}

// Of pixels or latents that the layers gave.
void check_result(const Tensor& y, const WeightFile& file, const Context& context) {
    if (all_finite(y, context)) return;
    file.check_intact();
    throw InvalidArgument(fmt::format(
        "[vae] {}: the result is not finite; its weights must be, and not too large", file.path().string()));
}

std::vector<Frames> cut_frames(std::int64_t frames, std::int64_t first, std::int64_t chunk) {
    std::vector<Frames> parts;
    for (std::int64_t at = 0; at < frames;) {
        const std::int64_t count = std::min(at == 0 ? first : chunk, frames - at);
        parts.push_back({at, count});
        at += count;
    }
    return parts;
}

}  // namespace

struct Vae::State {
    VaeParts parts;
    WeightFile file;
    Device device;
    std::size_t weight_bytes = 0;

    VaeExtent measure(const VaeHalf& half, std::size_t first, std::size_t last, VaeExtent x,
                      double& bytes) const {
        double kept = 0.0;
        for (std::size_t i = first; i < last; ++i) x = half.layers[i]->measure(x, bytes, kept);
        bytes += kept;
        return x;
    }

    // Memory of the layers that see tiles, of tiles of so many latents a side, at most all of them.
    double tiled_bytes(const VaeExtent& low, std::int64_t side) const {
        VaeExtent tile = low;
        tile.size.height = std::min(low.size.height, side);
        tile.size.width = std::min(low.size.width, side);
        double bytes = 0.0;
        measure(parts.decoder, parts.decoder.tiled, parts.decoder.layers.size(), tile, bytes);
        return bytes;
    }

    // What comes out of the layers that see the whole picture.
    VaeExtent low_extent(const VaeExtent& latents) const {
        double bytes = 0.0;
        return measure(parts.decoder, 0, parts.decoder.tiled, latents, bytes);
    }

    std::int64_t chunk(const VaeOptions& options, std::int64_t frames, std::int64_t latents) const {
        if (options.chunk > 0) return std::min(options.chunk, frames);
        return std::clamp<std::int64_t>((kLeastLatents + latents - 1) / latents, 1, frames);
    }

    // Pixels per place of what the layers that see tiles begin with.
    std::int64_t scale(const VaeExtent& latents, const VaeExtent& low) const {
        return parts.shape.spatial_factor * latents.size.height / low.size.height;
    }

    std::int64_t tile(const VaeOptions& options, const VaeExtent& low, std::int64_t scale) const {
        if (options.tile > 0) return std::max<std::int64_t>(options.tile / scale, 4);
        const double most =
            0.5 * static_cast<double>(memory_bytes(device)) - 2.0 * static_cast<double>(weight_bytes);
        std::int64_t side = std::max(low.size.height, low.size.width);
        while (side * scale > kLeastTile && tiled_bytes(low, side) > most) side -= (side + 7) / 8;
        return side;
    }

    Tensor decode(const TensorView& latents, Tensor out, const VaeOptions& options) const;
    void decode_tiles(const std::vector<Tensor>& low, Tensor& out, const TileGrid& grid, Progress& progress,
                      const Context& context) const;
};

// Every tile of low pictures, chunk after chunk, and where it belongs.
void Vae::State::decode_tiles(const std::vector<Tensor>& low, Tensor& out, const TileGrid& grid,
                              Progress& progress, const Context& context) const {
    const VaeHalf& half = parts.decoder;
    const std::int64_t scale = out.dim(3) / grid.lines.total;
    const Shape pictures = {out.dim(1), out.dim(2), out.dim(3), out.dim(4)};
    clear(out.mutable_view());
    for (std::size_t i = 0; i < grid.lines.starts.size(); ++i) {
        for (std::size_t j = 0; j < grid.columns.starts.size(); ++j) {
            Stream stream(half, half.tiled, half.layers.size());
            std::int64_t frame = 0;
            for (std::size_t part = 0; part < low.size(); ++part) {
                Tensor x = cropped(low[part], grid, i, j, context);
                const Tensor y = stream.next(std::move(x), part + 1 == low.size(), progress, context);
                Tensor planes(DType::f32, {1, 3, y.dim(0), y.dim(1), y.dim(2)}, device);
                put_channels_last(y, planes, 0, context);
                blend({.picture = reshaped(out.mutable_view(), pictures),
                       .tile = reshaped(planes.view(), {3, y.dim(0), y.dim(1), y.dim(2)}),
                       .frame = frame,
                       .line = grid.lines.starts[i] * scale,
                       .column = grid.columns.starts[j] * scale,
                       .down = grid.lines.weights(i, scale),
                       .across = grid.columns.weights(j, scale)},
                      context);
                frame += y.dim(0);
            }
        }
    }
}

Tensor Vae::State::decode(const TensorView& latents, Tensor out, const VaeOptions& options) const {
    const VaeHalf& half = parts.decoder;
    const std::int64_t chunk_frames = chunk(options, latents.dim(2), latents.dim(3) * latents.dim(4));
    const std::vector<Frames> chunks = cut_frames(latents.dim(2), chunk_frames, chunk_frames);
    const VaeExtent whole = {{chunk_frames, latents.dim(3), latents.dim(4)}, latents.dim(1)};
    const VaeExtent low = low_extent(whole);
    const std::int64_t side = tile(options, low, scale(whole, low));
    const TileGrid grid = {TileAxis::cut(low.size.height, side), TileAxis::cut(low.size.width, side)};
    const std::size_t tiles = grid.count();
    Progress progress(options, static_cast<std::int64_t>(chunks.size() * (tiles + 1)));
    Stream first(half, 0, half.tiled), rest(half, half.tiled, half.layers.size());
    std::vector<Tensor> pictures;
    std::int64_t frame = 0;
    for (const Frames& frames : chunks) {
        const bool last = &frames == &chunks.back();
        Tensor x = first.next(channels_last(latents, frames, options.call), last, progress, options.call);
        if (tiles > 1) {
            pictures.push_back(std::move(x));
            continue;
        }
        x = rest.next(std::move(x), last, progress, options.call);
        put_channels_last(x, out, frame, options.call);
        frame += x.dim(0);
    }
    if (tiles > 1) decode_tiles(pictures, out, grid, progress, options.call);
    check_result(out, file, options.call);
    clamp(out.mutable_view(), -1.0F, 1.0F, options.call);
    return out;
}

std::span<const std::string_view> vae_classes() {
    return kVaeClasses;
}

Vae::Vae(std::unique_ptr<State> state) : state_(std::move(state)) {}

Vae::~Vae() = default;

std::unique_ptr<Vae> Vae::load(const std::filesystem::path& folder, Device device) {
    const JsonNode config = JsonNode::read(folder / "config.json", "vae");
    const VaeFamily& family = family_of(config);
    Checkpoint checkpoint = Checkpoint::open("vae", folder, {.device = device});
    VaeParts parts = family.load(config, checkpoint);
    checkpoint.finish();
    checkpoint.file().check_intact();
    return std::unique_ptr<Vae>(new Vae(std::make_unique<State>(
        State{std::move(parts), checkpoint.file(), device, checkpoint.bytes_taken()})));
}

VaeShape Vae::read_shape(const std::filesystem::path& folder) {
    const JsonNode config = JsonNode::read(folder / "config.json", "vae");
    return family_of(config).shape(config);
}

const VaeShape& Vae::shape() const {
    return state_->parts.shape;
}

Device Vae::device() const {
    return state_->device;
}

std::size_t Vae::weight_bytes() const {
    return state_->weight_bytes;
}

double Vae::decode_bytes(std::int64_t frames, std::int64_t height, std::int64_t width) const {
    const Shape latents = shape().latents(frames, height, width);
    const std::int64_t chunk = state_->chunk({}, latents[2], latents[3] * latents[4]);
    const VaeExtent whole = {{chunk, latents[3], latents[4]}, latents[1]};
    const VaeExtent low = state_->low_extent(whole);
    const std::int64_t side = state_->tile({}, low, state_->scale(whole, low));
    return state_->tiled_bytes(low, side) + 2.0 * static_cast<double>(state_->weight_bytes);
}

Tensor Vae::decode(const TensorView& latents, const VaeOptions& options) const {
    const VaeShape& sizes = shape();
    if (latents.dtype != DType::f32 || latents.shape.size() != 5 || latents.dim(0) != 1 ||
        latents.dim(1) != sizes.channels || latents.device != device())
        throw InvalidArgument(
            fmt::format("[vae] latents must be f32 [1,{},frames,height,width] on {}, got {} on {}",
                        sizes.channels, device().describe(), latents.describe(), latents.device.describe()));
    if (options.tile < 0 || options.chunk < 0)
        throw InvalidArgument(fmt::format("[vae] tile and chunk must not be negative, got {} and {}",
                                          options.tile, options.chunk));
    Tensor out(DType::f32, sizes.pixels(latents.dim(2), latents.dim(3), latents.dim(4)), device());
    if (latents.contiguous()) require_finite("latents", latents, options.call);
    out = state_->decode(latents, std::move(out), options);
    state_->file.check_intact();
    return out;
}

Tensor Vae::encode(const TensorView& pixels, const VaeOptions& options) const {
    const VaeShape& sizes = shape();
    if (pixels.dtype != DType::f32 || pixels.shape.size() != 5 || pixels.dim(0) != 1 || pixels.dim(1) != 3 ||
        pixels.device != device())
        throw InvalidArgument(
            fmt::format("[vae] pixels must be f32 [1,3,frames,height,width] on {}, got {} on {}",
                        device().describe(), pixels.describe(), pixels.device.describe()));
    Tensor out(DType::f32, sizes.latents(pixels.dim(2), pixels.dim(3), pixels.dim(4)), device());
    if (pixels.contiguous()) require_finite("pixels", pixels, options.call);
    const VaeHalf& half = state_->parts.encoder;
    const std::int64_t chunk = state_->chunk(options, out.dim(2), out.dim(3) * out.dim(4));
    const std::int64_t later = chunk * sizes.temporal_factor;
    const auto parts = cut_frames(pixels.dim(2), later - sizes.temporal_factor + 1, later);
    Progress progress(options, static_cast<std::int64_t>(parts.size()));
    Stream stream(half, 0, half.layers.size());
    std::int64_t frame = 0;
    for (const Frames& frames : parts) {
        const bool last = &frames == &parts.back();
        const Tensor y =
            stream.next(channels_last(pixels, frames, options.call), last, progress, options.call);
        put_channels_last(y, out, frame, options.call);
        frame += y.dim(0);
    }
    check_result(out, state_->file, options.call);
    state_->file.check_intact();
    return out;
}

}  // namespace aerogel
