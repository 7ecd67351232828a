// Any bytes as the measurements of `tune`: either an InvalidArgument, or figures that survive being written
// and read again.
#include "aerogel/error.h"
#include "quant/tune/journal.h"
#include "temporary_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const auto path = fuzz_file("measurements.json", {data, size});
        std::optional<std::vector<double>> before;
        {
            TuneJournal journal(path, "s");
            before = journal.find("a=W8");
            journal.add("b=W4", {0.5, 0.25});
        }
        const TuneJournal again(path, "s");
        if (again.find("a=W8") != before || again.find("b=W4") != std::vector{0.5, 0.25}) std::abort();
    } catch (const InvalidArgument&) {
        return 0;
    }
    return 0;
}
