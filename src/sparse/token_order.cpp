// Builds the token orders; each is O(tokens).
#include "sparse/token_order.h"

#include <cmath>

namespace aerogel {
namespace {

constexpr std::int64_t kWindow = 8;

// Collects the tokens of one video after the other by frame, row and column; finish() puts all others, in
// the order of the sequence, behind them.
class OrderBuilder {
  public:
    explicit OrderBuilder(const SparseGeometry& geometry) : geometry_(geometry) {
        order_.reserve(static_cast<std::size_t>(geometry.tokens));
    }

    void begin(const VideoSpan& video) { video_ = video; }
    const LatentShape& latent() const { return video_.latent; }

    void add(std::int64_t frame, std::int64_t row, std::int64_t column) {
        const std::int64_t video_token = (frame * latent().height + row) * latent().width + column;
        order_.push_back(static_cast<std::int32_t>(video_.start + video_token));
    }

    void add_rows(std::int64_t frame, std::int64_t row_begin, std::int64_t row_end) {
        for (std::int64_t row = row_begin; row < row_end; ++row) {
            for (std::int64_t column = 0; column < latent().width; ++column) add(frame, row, column);
        }
    }

    void add_frame(std::int64_t frame) { add_rows(frame, 0, latent().height); }

    TokenOrder finish() {
        std::int64_t next = 0;
        for (const VideoSpan& video : geometry_.videos) {
            add_others(next, video.start);
            next = video.start + video.latent.tokens();
        }
        add_others(next, geometry_.tokens);
        return std::move(order_);
    }

  private:
    void add_others(std::int64_t first, std::int64_t last) {
        for (std::int64_t token = first; token < last; ++token)
            order_.push_back(static_cast<std::int32_t>(token));
    }

    const SparseGeometry& geometry_;
    VideoSpan video_;
    TokenOrder order_;
};

void add_window(OrderBuilder& order, std::int64_t frame, std::int64_t top, std::int64_t left) {
    for (std::int64_t row = top; row < top + kWindow; ++row) {
        for (std::int64_t column = left; column < left + kWindow; ++column) order.add(frame, row, column);
    }
}

void add_windowed_frame(OrderBuilder& order, std::int64_t frame) {
    const LatentShape& latent = order.latent();
    const std::int64_t rows = latent.height / kWindow * kWindow;
    const std::int64_t columns = latent.width / kWindow * kWindow;
    for (std::int64_t top = 0; top < rows; top += kWindow) {
        for (std::int64_t left = 0; left < columns; left += kWindow) add_window(order, frame, top, left);
    }
    order.add_rows(frame, rows, latent.height);
    for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t column = columns; column < latent.width; ++column) order.add(frame, row, column);
    }
}

std::int64_t first_free_frame(const SparseGeometry& geometry) {
    return geometry.protect_first_frame ? 1 : 0;
}

}  // namespace

TokenOrder raster_order(const SparseGeometry& geometry) {
    OrderBuilder order(geometry);
    for (const VideoSpan& video : geometry.videos) {
        order.begin(video);
        for (std::int64_t frame = 0; frame < video.latent.frames; ++frame) order.add_frame(frame);
    }
    return order.finish();
}

TokenOrder windowed_order(const SparseGeometry& geometry) {
    OrderBuilder order(geometry);
    for (const VideoSpan& video : geometry.videos) {
        order.begin(video);
        const auto& latent = video.latent;
        const bool remainder = latent.height % kWindow != 0 || latent.width % kWindow != 0;
        if (remainder) order.add_frame(0);
        for (std::int64_t frame = remainder ? 1 : 0; frame < latent.frames; ++frame)
            add_windowed_frame(order, frame);
    }
    return order.finish();
}

TokenOrder frame_last_order(const SparseGeometry& geometry) {
    const auto& latent = geometry.latent();
    const std::int64_t first = first_free_frame(geometry);
    OrderBuilder order(geometry);
    order.begin(geometry.videos.front());
    if (first == 1) order.add_frame(0);
    for (std::int64_t row = 0; row < latent.height; ++row) {
        for (std::int64_t column = 0; column < latent.width; ++column) {
            for (std::int64_t frame = first; frame < latent.frames; ++frame) order.add(frame, row, column);
        }
    }
    return order.finish();
}

bool on_checkerboard(std::int64_t row, std::int64_t column, double sparsity) {
    std::int64_t threshold = 0;
    for (int bit = 0; bit < 3; ++bit) {
        const std::int64_t low = (row >> bit) & 1;
        threshold = (threshold << 2) | ((((column >> bit) & 1) ^ low) << 1) | low;
    }
    return static_cast<double>(threshold) < std::ceil(64.0 * (1.0 - sparsity));
}

TokenOrder checkerboard_order(const SparseGeometry& geometry) {
    const auto& latent = geometry.latent();
    const std::int64_t first = first_free_frame(geometry);
    OrderBuilder order(geometry);
    order.begin(geometry.videos.front());
    if (first == 1) order.add_frame(0);
    for (const bool kept : {true, false}) {
        for (std::int64_t frame = first; frame < latent.frames; ++frame) {
            for (std::int64_t row = 0; row < latent.height; ++row) {
                for (std::int64_t column = 0; column < latent.width; ++column) {
                    if (on_checkerboard(row, column, geometry.sparsity) == kept)
                        order.add(frame, row, column);
                }
            }
        }
    }
    return order.finish();
}

std::int64_t checkerboard_tokens(const SparseGeometry& geometry) {
    const auto& latent = geometry.latent();
    std::int64_t count = 0;
    for (std::int64_t row = 0; row < latent.height; ++row) {
        for (std::int64_t column = 0; column < latent.width; ++column)
            count += on_checkerboard(row, column, geometry.sparsity) ? 1 : 0;
    }
    return count * (latent.frames - first_free_frame(geometry));
}

TokenOrder inverse_order(const TokenOrder& order) {
    TokenOrder inverse(order.size());
    for (std::size_t place = 0; place < order.size(); ++place)
        inverse[static_cast<std::size_t>(order[place])] = static_cast<std::int32_t>(place);
    return inverse;
}

}  // namespace aerogel
