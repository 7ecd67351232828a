// How blocks of MXFP4 get their scale from their largest magnitude, where values are quantized as they come.
// layer: formats
#pragma once

#include <string_view>

namespace aerogel {

/// The scale 2^e of 32 values whose largest magnitude is m. Values are x / 2^e to the nearest of E2M1, ties
/// to even, at most 6; e is at least -127. The names are those of CANN's DynamicMxQuant, which devices run.
struct Mxfp4Scale {
    /// 0: e = floor(log2 m) - 2, as the OCP Microscaling specification has it; m / 2^e lies in [4, 8), and
    /// what is above 6 becomes 6. 2: by dst_type_max, which loses less there.
    int algorithm = 0;
    /// Of algorithm 2. 0 or 6: e is one more where m / 2^e is above 6; 7: above 7. Any other value of 6 .. 12
    /// (7.25 is what msModelSlim calls C7): the smallest e with m / dst_type_max <= 2^e, the division in
    /// float32.
    float dst_type_max = 0.0F;

    bool operator==(const Mxfp4Scale&) const = default;
};

/// InvalidArgument, in the name of `op`, for an algorithm that is neither 0 nor 2, and a dst_type_max of
/// algorithm 2 that is neither 0 nor in [6, 12].
void check_mxfp4_scale(std::string_view op, const Mxfp4Scale& scale);

}  // namespace aerogel
