// Any bytes as a profile of heads: either an InvalidArgument, or a profile with a type for every head and
// step, which survives being written and read again.
#include "aerogel/error.h"
#include "aerogel/sparse_profile.h"
#include "temporary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const auto path = fuzz_file("profile.json", {data, size});
        const SparseProfile profile = SparseProfile::read(path);
        profile.write(path);
        const SparseProfile again = SparseProfile::read(path);
        if (again.layers.size() != profile.layers.size() || again.steps != profile.steps) std::abort();
        for (std::size_t i = 0; i < profile.layers.size(); ++i) {
            for (const int step : {0, profile.steps - 1, profile.steps}) {
                const auto types = profile.head_types(static_cast<int>(i), step);
                if (types.size() != profile.layers[i].size()) std::abort();
                if (types != again.head_types(static_cast<int>(i), step)) std::abort();
            }
        }
    } catch (const InvalidArgument&) {
        return 0;
    }
    return 0;
}
