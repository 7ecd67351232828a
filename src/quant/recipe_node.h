// A value of a recipe with its place in the file, so that every error can name both.
#pragma once

#include <yaml-cpp/yaml.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace aerogel {

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
