// YAML of a recipe. RecipeOutline is a first look at the text, before anything is built of it: limits on
// depth and size, where an alias counts as much as what it stands for, and which parts refer to which.
// RecipeNode is a value with its place in the file, so that every error can name both.
#pragma once

#include <yaml-cpp/yaml.h>

#include <initializer_list>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

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

class RecipeNode {
  public:
    RecipeNode(const YAML::Node& node, std::string file, std::string place)
        : node_(node), file_(std::move(file)), place_(std::move(place)) {}

    /// "spec.process[0].qconfig"
    const std::string& place() const { return place_; }
    bool has(const char* key) const;
    /// InvalidArgument when it is missing.
    RecipeNode at(const char* key) const;
    /// InvalidArgument when this is no list. Missing keys are empty lists.
    std::vector<RecipeNode> items(const char* key) const;
    std::vector<std::string> keys() const;

    /// InvalidArgument on a value of another kind.
    std::string text() const;
    bool flag() const;
    std::int64_t integer() const;
    double number() const;

    /// InvalidArgument when this is no mapping or has another key, naming the nearest of `known`.
    void check_keys(const std::vector<std::string>& known) const;
    /// "[recipe] FILE:LINE: PLACE: what"
    [[noreturn]] void fail(const std::string& what) const;
    [[noreturn]] void refuse(const std::string& what) const;

  private:
    std::string where() const;
    template <typename T>
    T as(const char* kind) const;

    YAML::Node node_;
    std::string file_;
    std::string place_;
};

}  // namespace aerogel
