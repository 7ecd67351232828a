// Any bytes as a tokenizer.json: either refused, or a tokenizer whose ids all have a token.
#include "aerogel/error.h"
#include "aerogel/tokenizer.h"
#include "temporary_file.h"

namespace {

void check(const aerogel::Tokenizer& tokenizer, const aerogel::Encoding& encoding) {
    if (encoding.ids.size() != encoding.mask.size()) std::abort();
    tokenizer.decode(encoding.ids, false);
    for (const std::int32_t id : encoding.ids) {
        if (id < 0 || id >= tokenizer.size()) std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace aerogel;
    try {
        const Tokenizer tokenizer = Tokenizer::load(fuzz_file("tokenizer/tokenizer.json", {data, size}));
        for (const char* text : {"", "a", " ab  abc\n", "e\xCC\x81\xE7\x8C\xAB<end> <x>\xF0\x9F\x91\x8D",
                                 "\xE2\x96\x81"
                                 "a"}) {
            const Encoding encoding = tokenizer.encode(text);
            check(tokenizer, encoding);
            const std::int64_t length = static_cast<std::int64_t>(encoding.ids.size()) + 3;
            if (tokenizer.pad_id())
                check(tokenizer, tokenizer.encode(text, {.max_length = length, .pad = true}));
        }
    } catch (const InvalidArgument&) {
        return 0;
    } catch (const Unsupported&) {
        return 0;
    }
    return 0;
}
