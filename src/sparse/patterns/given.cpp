// A mask that the caller gives, over blocks of the sequence as it is.
#include "sparse/patterns/pattern.h"

namespace aerogel {

namespace head_patterns {
extern const HeadPattern kGiven = {.name = "given", .cells = natural_cells};
}  // namespace head_patterns

}  // namespace aerogel
