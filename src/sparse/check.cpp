// Argument checks of sparse_attention.
#include "sparse/check.h"

#include <cmath>
#include <limits>
#include <string>

#include "aerogel/error.h"

namespace aerogel {
namespace {

[[noreturn]] void fail(const std::string& what) {
    throw InvalidArgument("[sparse_attention] " + what);
}

std::string describe(const LatentShape& latent) {
    return to_string(Shape{latent.frames, latent.height, latent.width});
}

void check_arrays(const SparseArrays& call) {
    const auto& q = call.q;
    if (q.dtype != DType::f32 && q.dtype != DType::bf16)
        fail("q, k, v and o must be f32 or bf16, got q " + q.describe());
    if (q.shape.size() != 4) fail("q must have 4 axes, got " + q.describe());
    const struct {
        const char* name;
        const TensorView& view;
    } all[] = {{"q", q}, {"k", call.k}, {"v", call.v}, {"o", call.o}};
    for (const auto& [name, view] : all) {
        const std::string got = std::string(name) + " " + view.describe();
        if (view.dtype != q.dtype || view.shape != q.shape)
            fail(std::string(name) + " must have the type and shape of q " + q.describe() + ", got " + got);
        if (view.device != Device::cpu) fail(std::string(name) + " must be on the CPU");
        if (!view.strides.empty() && view.strides.size() != 4)
            fail(std::string(name) + " must have 4 strides, got " + std::to_string(view.strides.size()));
        if (!view.strides.empty() && view.strides[3] != 1 && view.shape[3] > 1)
            fail("the last axis of " + got + " must be contiguous, got stride " +
                 std::to_string(view.strides[3]));
        for (const std::int64_t size : view.shape) {
            if (size < 1) fail("no axis may be empty, got " + got);
        }
        if (view.data == nullptr) fail(std::string(name) + " has no data");
    }
    if (q.dim(3) > 256) fail("head_dim must be at most 256, got " + q.describe());
}

void check_options(const SparseOptions& options) {
    if (!(options.sparsity >= 0.0 && options.sparsity < 1.0))
        fail("sparsity must be at least 0 and less than 1, got " + std::to_string(options.sparsity));
    if (options.block_size < 16 || options.block_size > 128)
        fail("block_size must be 16 to 128, got " + std::to_string(options.block_size));
    if (!(options.min_recall >= 0.0 && options.min_recall <= 1.0))
        fail("min_recall must be 0 to 1, got " + std::to_string(options.min_recall));
    if (!std::isfinite(options.scale)) fail("scale must be finite, got " + std::to_string(options.scale));
    if (options.txt_len < 0) fail("txt_len must not be negative, got " + std::to_string(options.txt_len));
}

}  // namespace

SparseGeometry checked_geometry(const SparseArrays& call, const SparseOptions& options) {
    check_arrays(call);
    check_options(options);
    SparseGeometry geometry{options.latent_shape, options.txt_len, options.block_size, options.sparsity,
                            options.protect_first_frame};
    if (options.type == SparseType::none) return geometry;
    const LatentShape& latent = options.latent_shape;
    if (latent.frames < 1 || latent.height < 1 || latent.width < 1)
        fail("latent_shape must be positive, got " + describe(latent));
    const std::int64_t tokens = call.q.dim(options.layout == AttentionLayout::bnsd ? 2 : 1);
    const std::int64_t video = tokens - options.txt_len;
    // Divisions, because the product of a wrong shape may overflow.
    if (video < 1 || video % latent.frames != 0 || video / latent.frames % latent.height != 0 ||
        video / latent.frames / latent.height != latent.width)
        fail("the sequence must hold txt_len + latent_shape tokens: " + std::to_string(options.txt_len) +
             " + " + describe(latent) + ", got " + std::to_string(tokens) + " (q " + call.q.describe() + ")");
    if (tokens > std::numeric_limits<std::int32_t>::max())
        fail("at most 2147483647 tokens, got " + std::to_string(tokens));
    return geometry;
}

}  // namespace aerogel
