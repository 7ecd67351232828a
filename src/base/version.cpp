// The version the library was built with; a header from another version shows up as a difference
// between this answer and aerogel::kVersion.
#include "aerogel/version.h"

namespace aerogel {

const char* version() noexcept {
    return kVersion;
}

}  // namespace aerogel
