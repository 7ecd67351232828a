// What a quantized pair holds and what is wrong with it, without running anything.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "quant/load.h"

namespace aerogel {

struct PairInspection {
    struct Layer {
        std::string name;
        std::string scheme;
        Shape shape;            ///< of the weight matrix; of its stored array where it cannot be read
        std::size_t bytes = 0;  ///< of all its tensors
        bool runs = false;      ///< false: the scheme is not supported, or there is a problem
        bool smoothed = false;
        std::size_t steps = 0;  ///< sets of static scales
    };
    struct FloatTensor {
        std::string name;
        DType dtype = DType::f32;
        Shape shape;
        std::string why;  ///< "marked FLOAT" or "not in the description"
    };
    std::vector<Layer> layers;
    std::vector<FloatTensor> floats;
    std::vector<std::string> problems;
    std::vector<std::string> notes;
    std::size_t bytes = 0;  ///< of all tensors in the weight file

    /// Number of layers of each scheme.
    std::map<std::string, std::size_t> scheme_counts() const;
    /// Stored bits (scales included) per weight of the quantized layers; 0 without any.
    double bits_per_weight() const;
};

PairInspection inspect_pair(const QuantizedPair& pair);

}  // namespace aerogel
