// A first look at a YAML text, before anything is built of it: limits on depth and size, where an alias
// counts as much as what it stands for, and which parts refer to which.
#pragma once

#include <map>
#include <set>
#include <string>

namespace aerogel {

class RecipeOutline {
  public:
    /// `where` ("[recipe] FILE") begins errors. InvalidArgument when the text is nested too deeply, holds too
    /// many values or an alias of what it is in; YAML::Exception when it is no YAML.
    RecipeOutline(const std::string& text, const std::string& where);

    /// The keys of the file's mapping whose values (or parts of them) the value of `key` refers to by
    /// "*name", directly or through others.
    std::set<std::string> used_by(const std::string& key) const;

  private:
    std::map<std::string, std::set<std::string>> uses_;
};

}  // namespace aerogel
