// The table of a layer's arrays: every row has a place of its own, and layers as named arrays come back as
// they were.
#include "quant/layer_arrays.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "aerogel/error.h"

namespace aerogel {
namespace {

TEST(LayerArrays, EveryNameAndMemberIsThereOnce) {
    QuantizedLinearWeights layer;
    std::set<std::string_view> names;
    std::set<const Tensor*> members;
    for (const LayerArray& array : layer_arrays()) {
        EXPECT_TRUE(names.insert(array.name).second) << array.name;
        EXPECT_EQ(layer_array(array.name).name, array.name);
        if (array.form == ArrayForm::ignored) continue;
        EXPECT_TRUE(array.has_member()) << array.name;
        EXPECT_TRUE(members.insert(&array.in(layer)).second) << array.name;
        EXPECT_TRUE(array.form == ArrayForm::weight || array.shape != nullptr) << array.name;
    }
    EXPECT_EQ(layer_arrays().front().name, "weight");
    EXPECT_THROW(layer_array("weights"), InvalidArgument);
}

TEST(LayerArrays, StoredNamesFollowTheLayerOrItsWeight) {
    EXPECT_EQ(stored_name(layer_array("weight"), "a", "a.linear"), "a.linear.weight");
    EXPECT_EQ(stored_name(layer_array("mul_scale"), "a", "a.linear"), "a.div.mul_scale");
    EXPECT_EQ(stored_name(layer_array("svd_lowrank_l1"), "a", "a.linear"), "a.svd_lowrank_l1");
}

// A layer that has every array, whether its scheme would take them or not.
QuantizedLinearWeights full_layer() {
    QuantizedLinearWeights layer;
    layer.scheme = "W8A8";
    layer.weight.format = Format::int8;
    layer.weight.rows = 4;
    layer.weight.columns = 8;
    const ArraySizes sizes{
        .n = 4, .k = 8, .groups = 1, .dual_blocks = 1, .rotation_block = 2, .rank = 3, .steps = 5};
    for (const LayerArray& array : layer_arrays()) {
        if (!array.has_member()) continue;
        const Shape shape = array.form == ArrayForm::weight ? Shape{4, 8} : array.whole_shape(sizes);
        array.in(layer) = Tensor::zeros(array.form == ArrayForm::weight ? DType::i8 : DType::f32, shape);
    }
    return layer;
}

TEST(LayerArrays, NamedArraysComeBack) {
    const QuantizedLinearWeights layer = full_layer();
    const NamedArrays named = named_arrays(layer);
    const QuantizedLinearWeights again = layer_of_arrays({"W8A8", 8, 0}, named);
    EXPECT_EQ(again.scheme, "W8A8");
    EXPECT_EQ(again.weight.columns, 8);
    EXPECT_EQ(again.steps(), 5);
    std::size_t count = 0;
    for (const LayerArray& array : layer_arrays()) {
        if (!array.has_member()) continue;
        EXPECT_EQ(named.at(count++).first, array.name);
        EXPECT_EQ(array.in(again).shape(), array.in(layer).shape()) << array.name;
        EXPECT_EQ(array.in(again).dtype(), array.in(layer).dtype()) << array.name;
    }
    const ArraySizes sizes = sizes_of(again);
    EXPECT_EQ(sizes.rank, 3);
    EXPECT_EQ(sizes.rotation_block, 2);
    EXPECT_EQ(sizes.dual_blocks, 1);
}

TEST(LayerArrays, OtherNamesAreRefused) {
    NamedArrays named = named_arrays(full_layer());
    named.emplace_back("weight_scales", Tensor::zeros(DType::f32, {4, 1}));
    EXPECT_THROW(layer_of_arrays({"W8A8", 8, 0}, named), InvalidArgument);
    EXPECT_THROW(layer_of_arrays({"W8A8", 8, 0}, {}), InvalidArgument);
}

// What each scheme stores, in the words of FORMAT's tables.
std::string stored_by(std::string_view scheme) {
    std::string names;
    for (const LayerArray& array : layer_arrays()) {
        if (array.part != nullptr || !array.has_member() || !array.fits(scheme_row("test", scheme))) continue;
        names += (names.empty() ? "" : " ") + std::string(array.name);
    }
    return names;
}

TEST(LayerArrays, OfSchemes) {
    EXPECT_EQ(stored_by("W8A8_DYNAMIC"), "weight weight_scale weight_offset");
    EXPECT_EQ(stored_by("W4A16"), "weight weight_scale weight_offset");
    EXPECT_EQ(stored_by("WFP8AFP8_DYNAMIC"), "weight weight_scale weight_offset");
    EXPECT_EQ(stored_by("W8A16_FP8"), "weight weight_scale");
    EXPECT_EQ(stored_by("W4A4_MXFP4"), "weight weight_scale");
    EXPECT_EQ(stored_by("W4A4_MXFP4_DUALSCALE"), "weight weight_scale weight_dual_scale");
    EXPECT_EQ(stored_by("W4A4_STATIC"),
              "weight weight_scale weight_offset input_scale input_offset quant_bias deq_scale");
    EXPECT_EQ(stored_by("W8A8_TIMESTEP"), stored_by("W8A8"));
    for (const SchemeRow& row : schemes())
        EXPECT_TRUE(stored_by(row.name).starts_with("weight ")) << row.name;
}

}  // namespace
}  // namespace aerogel
