// Runs a fuzz target without a fuzzing engine: every file of the corpus, then mutations of them drawn
// from a fixed seed, so that each run of the test suite does the same.
//   NAME_fuzz PATH... [--mutations N] [--seed N]      PATH: a file or a folder of files
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Bytes = std::vector<std::uint8_t>;

Bytes read(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

class Mutator {
  public:
    Mutator(const std::vector<Bytes>& corpus, std::uint64_t seed) : corpus_(corpus), random_(seed) {}

    Bytes next() {
        Bytes bytes = corpus_[below(corpus_.size())];
        for (std::size_t step = 1 + below(4); step-- > 0;) change(bytes);
        return bytes;
    }

  private:
    std::size_t below(std::size_t end) { return end == 0 ? 0 : static_cast<std::size_t>(random_() % end); }

    void change(Bytes& bytes) {
        static const char* const kWords[] = {
            "{",          "}",       "[",    "]",    "\"",   ",",
            ":",          "\\u0000", "-1",   "1e9",  "null", "18446744073709551615",
            "4294967296", "\xff",    "\x80", "[[[[", "0"};
        const auto at = static_cast<std::ptrdiff_t>(below(bytes.size() + 1));
        const auto rest = static_cast<std::size_t>(static_cast<std::ptrdiff_t>(bytes.size()) - at);
        const auto position = bytes.begin() + at;
        switch (below(6)) {
            case 0:  // flip a bit
                if (rest != 0)
                    bytes[static_cast<std::size_t>(at)] ^= static_cast<std::uint8_t>(1U << below(8));
                break;
            case 1:  // any byte
                if (rest != 0) bytes[static_cast<std::size_t>(at)] = static_cast<std::uint8_t>(below(256));
                break;
            case 2:  // cut out
                bytes.erase(position, position + static_cast<std::ptrdiff_t>(
                                                     below(std::min<std::size_t>(rest, 16) + 1)));
                break;
            case 3: {  // a word the grammar knows
                const std::string word = kWords[below(std::size(kWords))];
                bytes.insert(position, word.begin(), word.end());
                break;
            }
            case 4: {  // repeat a piece
                const Bytes piece(
                    position, position + static_cast<std::ptrdiff_t>(std::min<std::size_t>(rest, below(64))));
                bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(below(bytes.size() + 1)),
                             piece.begin(), piece.end());
                break;
            }
            default:  // end here
                bytes.resize(static_cast<std::size_t>(at));
        }
    }

    const std::vector<Bytes>& corpus_;
    std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
    std::uint64_t mutations = 20'000;
    std::uint64_t seed = 1;
    std::vector<std::filesystem::path> paths;
    for (int i = 1; i < argc; ++i) {
        const std::string argument = argv[i];
        const bool number = argument == "--mutations" || argument == "--seed";
        if (number && i + 1 < argc) {
            (argument == "--seed" ? seed : mutations) = std::strtoull(argv[++i], nullptr, 10);
        } else if (std::filesystem::is_directory(argument)) {
            for (const auto& entry : std::filesystem::directory_iterator(argument))
                paths.push_back(entry.path());
        } else {
            paths.emplace_back(argument);
        }
    }
    std::sort(paths.begin(), paths.end());  // folders list in any order, the run must not depend on it
    std::vector<Bytes> corpus;
    for (const auto& path : paths) corpus.push_back(read(path));
    if (corpus.empty()) {
        std::fprintf(stderr, "usage: %s PATH... [--mutations N] [--seed N]\n", argv[0]);
        return 1;
    }
    for (const Bytes& bytes : corpus) LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    Mutator mutator(corpus, seed);
    for (std::uint64_t i = 0; i < mutations; ++i) {
        const Bytes bytes = mutator.next();
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%zu files and %llu mutations\n", corpus.size(), static_cast<unsigned long long>(mutations));
    return 0;
}
