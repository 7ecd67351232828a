// What to quantize in memory, and what became of each module: shared by models here and in Python.
// layer: quant
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "aerogel/rotation.h"

namespace aerogel {

/// Quantization of a float model in memory: no files, no data (OnlineQuantConfig of MindIE SD 3.1.0, for
/// every scheme that needs no calibration). Layers get the bits that `aerogel quantize` would have written.
struct OnlineQuantConfig {
    std::string quant_type = "W8A8_DYNAMIC";  ///< "W4A4_MXFP4_SVD" sets low_rank = 32
    /// {pattern of layer names, scheme}, the first that matches wins; "W16A16" leaves a layer float,
    /// attention too, "W8A8" is W8A8_DYNAMIC here, as there are no calibrated scales. These layers have none
    /// of the choices below.
    std::vector<std::pair<std::string, std::string>> fallback_layers = {};
    std::vector<std::string> include = {};  ///< patterns; empty: the Linears of all blocks except small ones
    std::vector<std::string> exclude = {};  ///< stay float; wins over include
    std::string algorithm = "minmax";       ///< an algorithm that needs no recorded inputs
    /// Columns that share a weight scale; 0 = the whole row; -1 = the scheme's default: 64 (or 32) for int4
    /// weights where they divide the columns, else the whole row.
    std::int64_t group_size = -1;
    bool symmetric = true;  ///< false: weights with offsets
    /// Columns per transform; -1: the largest possible (of convrot 256 at most), 0: none.
    std::int64_t rotation_block = 0;
    RotationKind rotation_kind = RotationKind::hadamard;
    /// Quantized attention: FP8_DYNAMIC, MXFP8_DYNAMIC, MXFP4_DYNAMIC (q and k rotated by one seeded Hadamard
    /// matrix) or INT8_DYNAMIC; empty: none.
    std::string fa_quant_type = {};
    /// Patterns of attention modules; empty: self-attention of all blocks.
    std::vector<std::string> fa_layers = {};
    std::int64_t low_rank = 0;  ///< rank of the branch beside the quantized residual, 0: none
};

/// What happened to each Linear and each attention that was to be quantized.
struct QuantizeReport {
    struct Layer {
        std::string name = {};
        std::string scheme = {};  ///< "W8A8_DYNAMIC", or "FLOAT"
        std::string why =
            {};  ///< why it stayed as it was ("marked FLOAT", "not in the description"), else empty
        std::int64_t group_size = 0;  ///< columns that share a weight scale; 0 = the whole row, or float
    };
    std::vector<Layer> layers = {};
    std::string because = {};  ///< why it was quantized where nobody asked for it, else empty
    std::size_t bytes_before = 0;
    std::size_t bytes_after = 0;
};

}  // namespace aerogel
