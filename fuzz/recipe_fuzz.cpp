// Any bytes as a recipe: either a refusal, or entries that make a plan for layers of usual names.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "aerogel/error.h"
#include "quant/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const std::string text(reinterpret_cast<const char*>(data), size);
        const Recipe recipe = parse_recipe(text, "fuzz.yaml");
        const RecipePlan plan = plan_of(recipe, {"blocks.0.attn1.to_q", "blocks.1.ffn.net.2", "proj_out"});
        for (const auto& [name, options] : plan.layers) {
            if (name == "proj_out" || options.scheme == nullptr || options.low_rank < 0) std::abort();
        }
    } catch (const InvalidArgument&) {
        return 0;
    } catch (const Unsupported&) {
        return 0;
    }
    return 0;
}
