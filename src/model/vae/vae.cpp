// The table of VAEs, the checks of their calls, and the order in which parts and tiles go through the layers.
#include "model/vae/vae.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "aerogel/cancellation.h"
#include "aerogel/error.h"
#include "base/memory.h"
#include "core/device_memory.h"
#include "core/views.h"
#include "model/vae/families.h"
#include "model/vae/tiles.h"
#include "ops/elementwise.h"

namespace aerogel {
namespace {

constexpr std::array kFamilies = {
    VaeFamily{"AutoencoderKL", load_image_vae},
    VaeFamily{"AutoencoderKLFlux2", load_flux2_vae},
    VaeFamily{"AutoencoderKLQwenImage", load_video_vae},
    VaeFamily{"AutoencoderKLWan", load_video_vae},
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

// Pixels of the least side of a tile that is chosen, and latents that are decoded at once at least.
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
    Stream(const VaeHalf& half, const LayerSpan& span, TiledNorms* norms = nullptr)
        : half_(half), span_(span), norms_(norms), memory_(half.places) {}

    // Undefined where a norm waits for other tiles.
    Tensor next(Tensor x, bool is_last, Progress& progress, const Context& context) {
        const VaePart part = {memory_, is_first_, is_last, context, norms_};
        for (std::size_t i = span_.first; i < span_.last; ++i) {
            x = half_.layers[i]->run(std::move(x), part);
            if (part.stopped()) {
                progress.step();
                return {};
            }
            progress.step(static_cast<double>(i - span_.first + 1) /
                          static_cast<double>(span_.last - span_.first));
        }
        is_first_ = false;
        return x;
    }

  private:
    const VaeHalf& half_;
    LayerSpan span_;
    TiledNorms* norms_;
    std::vector<Tensor> memory_;
    bool is_first_ = true;
};

struct Frames {
    std::int64_t first;
    std::int64_t count;
};

// [frames, height, width, channels] of a part of every frame of [1, channels, frames, height, width].
Tensor channels_last(const TensorView& x, const Frames& frames, const TileRect& rect,
                     const Context& context) {
    const Shape strides = strides_of(x);
    const Shape shape = {frames.count, rect.height, rect.width, x.dim(1)};
    Tensor y(DType::f32, shape, x.device);
    const std::int64_t at = frames.first * strides[2] + rect.line * strides[3] + rect.column * strides[4];
    copy(part_of(x, at, shape, {strides[2], strides[3], strides[4], strides[1]}), y, context);
    return y;
}

Tensor channels_last(const TensorView& x, const Frames& frames, const Context& context) {
    return channels_last(x, frames, {0, 0, x.dim(3), x.dim(4)}, context);
}

// The way back: frames of y from `first` on; y [1, channels, frames, height, width], contiguous.
void put_channels_last(const Tensor& x, const MutableView& y, std::int64_t first, const Context& context) {
    const Shape strides = strides_of(y);
    copy(x, part_of(y, first * strides[2], x.shape(), {strides[2], strides[3], strides[4], strides[1]}),
         context);
}

// run(line, column, norms) for every tile, again and again until the statistics of all group norms are known.
template <typename Run>
void for_tiles(const TileGrid& grid, std::size_t group_norms, Device device, const Run& run) {
    TiledNorms norms(grid);
    do {
        for (std::size_t i = 0; i < grid.lines.starts.size(); ++i) {
            for (std::size_t j = 0; j < grid.columns.starts.size(); ++j) {
                norms.begin_tile(i, j);
                run(i, j, group_norms > 0 ? &norms : nullptr);
            }
        }
    } while (norms.end_pass(device));
}

// Each one `count` times: channels that come last share the weight of their pixel.
std::vector<float> repeated(const std::vector<float>& values, std::int64_t count) {
    std::vector<float> all;
    for (const float value : values) all.insert(all.end(), static_cast<std::size_t>(count), value);
    return all;
}

void check_options(const VaeOptions& options) {
    if (options.tile < 0 || options.chunk < 0)
        throw InvalidArgument(fmt::format("[vae] tile and chunk must not be negative, got {} and {}",
                                          options.tile, options.chunk));
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

    // Memory of some layers whose first one gets x.
    double bytes_of(const VaeHalf& half, const LayerSpan& span, const VaeExtent& x) const {
        double bytes = 0.0;
        measure(half, span.first, span.last, x, bytes);
        return bytes;
    }

    VaeExtent extent_after(const VaeHalf& half, std::size_t layers, const VaeExtent& x) const {
        double bytes = 0.0;
        return measure(half, 0, layers, x, bytes);
    }

    static std::size_t group_norms(const VaeHalf& half, const LayerSpan& span) {
        std::size_t count = 0;
        for (std::size_t i = span.first; i < span.last; ++i) count += half.layers[i]->group_norms();
        return count;
    }

    std::int64_t chunk(const VaeOptions& options, std::int64_t frames, std::int64_t latents) const {
        if (options.chunk > 0) return std::min(options.chunk, frames);
        return std::clamp<std::int64_t>((kLeastLatents + latents - 1) / latents, 1, frames);
    }

    // Half of what is usable, without the weights: where the device tells what is free, they lie there
    // already.
    double most_bytes() const {
        if (const auto free = free_bytes(device)) return 0.5 * static_cast<double>(*free);
        return 0.5 * static_cast<double>(usable_memory_bytes()) - 2.0 * static_cast<double>(weight_bytes);
    }

    // How a call is cut: layers that see tiles, the tiles in places between these layers and the others, and
    // pixels per place.
    struct Cut {
        LayerSpan span;
        TileGrid grid;
        std::int64_t scale;
    };

    // Tiles of at least so many pixels a side as few as the memory allows; bytes(side) of a tile.
    template <typename Bytes>
    static std::int64_t side_for(const VaeExtent& places, std::int64_t scale, double most,
                                 const Bytes& bytes) {
        std::int64_t side = std::max(places.size.height, places.size.width);
        while (side * scale > kLeastTile && bytes(side) > most) side -= (side + 7) / 8;
        return side;
    }

    Cut cut_decoder(const VaeOptions& options, const VaeExtent& latents) const;
    Cut cut_encoder(const VaeOptions& options, const VaeExtent& pixels) const;
    Tensor decode(const TensorView& latents, Tensor out, const VaeOptions& options) const;
    void decode_tiles(const std::vector<Tensor>& low, Tensor& out, const Cut& cut, Progress& progress,
                      const Context& context) const;
    Tensor encode(const TensorView& pixels, Tensor out, const VaeOptions& options) const;
    std::vector<Tensor> encode_tiles(const TensorView& pixels, const std::vector<Frames>& chunks,
                                     const Cut& cut, Progress& progress, const Context& context) const;
};

// Of pictures each group norm that sees tiles costs a pass through them, so as many layers see all of the
// picture as memory allows.
Vae::State::Cut Vae::State::cut_decoder(const VaeOptions& options, const VaeExtent& latents) const {
    const VaeHalf& half = parts.decoder;
    const std::size_t all = half.layers.size();
    std::size_t whole = half.tiled;
    double most = most_bytes();
    const bool fits = options.tile == 0 && bytes_of(half, {0, all}, latents) <= most;
    if (options.tile == 0 && !fits && !parts.shape.video) {
        most /= 2.0;
        while (whole + 1 < all && bytes_of(half, {0, whole + 1}, latents) <= most) ++whole;
    }
    const VaeExtent low = extent_after(half, whole, latents);
    const std::int64_t scale = parts.shape.spatial_factor * latents.size.height / low.size.height;
    const auto bytes = [&](std::int64_t side) {
        VaeExtent tile = low;
        tile.size.height = std::min(low.size.height, side);
        tile.size.width = std::min(low.size.width, side);
        return bytes_of(half, {whole, all}, tile);
    };
    const std::int64_t side = options.tile > 0 ? std::max<std::int64_t>(options.tile / scale, 4)
                              : fits           ? std::max(low.size.height, low.size.width)
                                               : side_for(low, scale, most, bytes);
    return {{whole, all}, {TileAxis::cut(low.size.height, side), TileAxis::cut(low.size.width, side)}, scale};
}

Vae::State::Cut Vae::State::cut_encoder(const VaeOptions& options, const VaeExtent& pixels) const {
    const VaeHalf& half = parts.encoder;
    const VaeExtent low = extent_after(half, half.tiled, pixels);
    const std::int64_t scale = pixels.size.height / low.size.height;
    const auto bytes = [&](std::int64_t side) {
        VaeExtent tile = pixels;
        tile.size.height = std::min(pixels.size.height, side * scale);
        tile.size.width = std::min(pixels.size.width, side * scale);
        return bytes_of(half, {0, half.tiled}, tile);
    };
    const std::int64_t side = options.tile > 0 ? std::max<std::int64_t>(options.tile / scale, 4)
                                               : side_for(low, scale, most_bytes(), bytes);
    return {
        {0, half.tiled}, {TileAxis::cut(low.size.height, side), TileAxis::cut(low.size.width, side)}, scale};
}

// Every tile of low pictures, chunk after chunk, and where it belongs.
void Vae::State::decode_tiles(const std::vector<Tensor>& low, Tensor& out, const Cut& cut, Progress& progress,
                              const Context& context) const {
    const VaeHalf& half = parts.decoder;
    const TileAxis& lines = cut.grid.lines;
    const TileAxis& columns = cut.grid.columns;
    const Shape pictures = {out.dim(1), out.dim(2), out.dim(3), out.dim(4)};
    clear(out.mutable_view());
    for_tiles(cut.grid, group_norms(half, cut.span), device,
              [&](std::size_t i, std::size_t j, TiledNorms* norms) {
                  Stream stream(half, cut.span, norms);
                  const TileRect rect = {lines.starts[i], columns.starts[j], lines.size, columns.size};
                  std::int64_t frame = 0;
                  for (const Tensor& picture : low) {
                      const bool last = &picture == &low.back();
                      const Tensor y = stream.next(cropped(picture, rect, context), last, progress, context);
                      if (!y.defined()) return;
                      Tensor planes(DType::f32, {1, 3, y.dim(0), y.dim(1), y.dim(2)}, device);
                      put_channels_last(y, planes, 0, context);
                      blend({.picture = reshaped(out.mutable_view(), pictures),
                             .tile = reshaped(planes.view(), {3, y.dim(0), y.dim(1), y.dim(2)}),
                             .frame = frame,
                             .line = rect.line * cut.scale,
                             .column = rect.column * cut.scale,
                             .down = lines.weights(i, cut.scale),
                             .across = columns.weights(j, cut.scale)},
                            context);
                      frame += y.dim(0);
                  }
              });
}

Tensor Vae::State::decode(const TensorView& latents, Tensor out, const VaeOptions& options) const {
    const VaeHalf& half = parts.decoder;
    const std::int64_t chunk_frames = chunk(options, latents.dim(2), latents.dim(3) * latents.dim(4));
    const std::vector<Frames> chunks = cut_frames(latents.dim(2), chunk_frames, chunk_frames);
    const Cut cut = cut_decoder(options, {{chunk_frames, latents.dim(3), latents.dim(4)}, latents.dim(1)});
    const std::size_t tiles = cut.grid.count();
    const std::size_t passes = tiles > 1 ? group_norms(half, cut.span) + 1 : 1;
    Progress progress(options, static_cast<std::int64_t>(chunks.size() * (tiles * passes + 1)));
    Stream first(half, {0, cut.span.first}), rest(half, cut.span);
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
    if (tiles > 1) decode_tiles(pictures, out, cut, progress, options.call);
    check_result(out, file, options.call);
    clamp(out.mutable_view(), -1.0F, 1.0F, options.call);
    return out;
}

// What the layers behind the tiled ones get, of every chunk.
std::vector<Tensor> Vae::State::encode_tiles(const TensorView& pixels, const std::vector<Frames>& chunks,
                                             const Cut& cut, Progress& progress,
                                             const Context& context) const {
    const VaeHalf& half = parts.encoder;
    const TileAxis& lines = cut.grid.lines;
    const TileAxis& columns = cut.grid.columns;
    std::vector<Tensor> low(chunks.size());
    const auto put = [&](std::size_t chunk, const Tensor& y, std::size_t i, std::size_t j) {
        const std::int64_t channels = y.dim(3);
        const Shape whole = {y.dim(0), lines.total, columns.total, channels};
        if (!low[chunk].defined()) low[chunk] = Tensor::zeros(DType::f32, whole, device);
        blend({.picture = reshaped(low[chunk].mutable_view(), {1, whole[0], whole[1], whole[2] * channels}),
               .tile = reshaped(y.view(), {1, y.dim(0), y.dim(1), y.dim(2) * channels}),
               .line = lines.starts[i],
               .column = columns.starts[j] * channels,
               .down = lines.weights(i, 1),
               .across = repeated(columns.weights(j, 1), channels)},
              context);
    };
    for_tiles(cut.grid, group_norms(half, cut.span), device,
              [&](std::size_t i, std::size_t j, TiledNorms* norms) {
                  Stream stream(half, cut.span, norms);
                  const TileRect rect = {lines.starts[i] * cut.scale, columns.starts[j] * cut.scale,
                                         lines.size * cut.scale, columns.size * cut.scale};
                  for (std::size_t chunk = 0; chunk < chunks.size(); ++chunk) {
                      const Tensor y = stream.next(channels_last(pixels, chunks[chunk], rect, context),
                                                   chunk + 1 == chunks.size(), progress, context);
                      if (!y.defined()) return;
                      put(chunk, y, i, j);
                  }
              });
    return low;
}

Tensor Vae::State::encode(const TensorView& pixels, Tensor out, const VaeOptions& options) const {
    const VaeHalf& half = parts.encoder;
    const std::int64_t frames_factor = parts.shape.temporal_factor;
    const std::int64_t later = chunk(options, out.dim(2), out.dim(3) * out.dim(4)) * frames_factor;
    const std::vector<Frames> chunks = cut_frames(pixels.dim(2), later - frames_factor + 1, later);
    const Cut cut = cut_encoder(options, {{later, pixels.dim(3), pixels.dim(4)}, 3});
    const std::size_t tiles = cut.grid.count();
    const std::size_t passes = tiles > 1 ? group_norms(half, cut.span) + 1 : 1;
    Progress progress(options, static_cast<std::int64_t>(chunks.size() * (tiles * passes + 1)));
    std::vector<Tensor> low(chunks.size());
    if (tiles > 1) low = encode_tiles(pixels, chunks, cut, progress, options.call);
    Stream first(half, cut.span), rest(half, {cut.span.last, half.layers.size()});
    std::int64_t frame = 0;
    for (std::size_t i = 0; i < chunks.size(); ++i) {
        const bool last = i + 1 == chunks.size();
        if (tiles == 1)
            low[i] = first.next(channels_last(pixels, chunks[i], options.call), last, progress, options.call);
        const Tensor y = rest.next(std::move(low[i]), last, progress, options.call);
        put_channels_last(y, out, frame, options.call);
        frame += y.dim(0);
    }
    check_result(out, file, options.call);
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

const VaeShape& Vae::shape() const {
    return state_->parts.shape;
}

Device Vae::device() const {
    return state_->device;
}

std::size_t Vae::weight_bytes() const {
    return state_->weight_bytes;
}

void Vae::move_weights(WeightPlace place) {
    for (const VaeHalf* half : {&state_->parts.decoder, &state_->parts.encoder})
        for (const auto& layer : half->layers) layer->move_weights(place);
}

Tensor Vae::decode(const TensorView& latents, const VaeOptions& options) const {
    const VaeShape& sizes = shape();
    if (latents.dtype != DType::f32 || latents.shape.size() != 5 || latents.dim(0) != 1 ||
        latents.dim(1) != sizes.channels || latents.device != device())
        throw InvalidArgument(
            fmt::format("[vae] latents must be f32 [1,{},frames,height,width] on {}, got {} on {}",
                        sizes.channels, device().describe(), latents.describe(), latents.device.describe()));
    check_options(options);
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
    check_options(options);
    Tensor out(DType::f32, sizes.latents(pixels.dim(2), pixels.dim(3), pixels.dim(4)), device());
    if (pixels.contiguous()) require_finite("pixels", pixels, options.call);
    out = state_->encode(pixels, std::move(out), options);
    state_->file.check_intact();
    return out;
}

}  // namespace aerogel
