// Calibration of int8 attention: the range of q, k and v per head, without the few largest values.
#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "aerogel/attention.h"
#include "quant/algorithms/minmax.h"

namespace aerogel {

/// The shortest interval that holds int(ratio * n) of the n values (after msModelSlim's fa3). Takes the
/// values by copy, as it sorts them. InvalidArgument when there are none or ratio is not in (0, 1].
InputRange shortest_range(std::vector<float> values, double ratio);

/// Over all forwards, per attention: the union of the ranges that hold .9999 of the values of q and k, and
/// all of v.
class AttentionRanges {
  public:
    /// q, k, v f32 [batch, tokens, heads, head_dim], contiguous. InvalidArgument when a value is not finite.
    void observe(const std::string& attention, const TensorView& q, const TensorView& k, const TensorView& v);
    bool contains(const std::string& attention) const { return ranges_.contains(attention); }
    /// Scales max(|min|, |max|) / 127 f32 [heads]; no offsets. InvalidArgument when it never ran.
    AttentionScales scales(const std::string& attention) const;

  private:
    using PerHead = std::vector<InputRange>;
    std::map<std::string, std::array<PerHead, 3>> ranges_;
};

}  // namespace aerogel
