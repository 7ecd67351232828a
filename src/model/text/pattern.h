// Regular expressions of tokenizer files, by PCRE2, with the meaning that they have in Hugging Face's
// tokenizers (Oniguruma's syntax). The patterns come from anywhere: their length and the work on one text are
// limited.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

class Pattern {
  public:
    struct Part {
        std::size_t begin;
        std::size_t end;
        bool matches;
    };

    /// `where` begins the error: InvalidArgument when the expression is wrong or too long, Unsupported when
    /// it has what translated_pattern() does not know.
    Pattern(std::string expression, const std::string& where);
    /// The text (valid UTF-8) cut into matches and what lies between them; parts may be empty.
    /// InvalidArgument when the pattern needs too many steps on it: 10 million, and 100 for every byte.
    std::vector<Part> split(std::string_view text) const;

  private:
    struct Program;
    std::shared_ptr<const Program> program_;
};

}  // namespace aerogel
