// Looking for the value that spoiled a prediction.
#include "sparse/finite.h"

#include <cmath>
#include <string>

#include "aerogel/error.h"

namespace aerogel {

void fail_not_finite(const HeadRows& q, const HeadRows& k) {
    const std::string mend =
        ", so no mask can be predicted; give finite numbers, a mask, or the sparse type none";
    for (const HeadRows* side : {&q, &k}) {
        HeadRows rows = *side;
        rows.order = nullptr;
        for (std::int64_t i = 0; i < rows.maps() * rows.tokens; ++i) {
            float values[256] = {};
            rows.add_row(rows.rows(i / rows.tokens).at(i % rows.tokens), values);
            for (const float x : values) {
                if (!std::isfinite(x))
                    throw InvalidArgument(std::string("[sparse_attention] ") + (side == &k ? "k" : "q") +
                                          " is " + std::to_string(x) + " at batch " +
                                          std::to_string(i / rows.tokens / rows.heads) + ", head " +
                                          std::to_string(i / rows.tokens % rows.heads) + ", token " +
                                          std::to_string(i % rows.tokens) + mend);
            }
        }
    }
    throw InvalidArgument("[sparse_attention] the sums over q and k overflow float32" + mend);
}

}  // namespace aerogel
