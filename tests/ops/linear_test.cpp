// The checks around linear kernels, the float layer, and the choice of a kernel.
#include "ops/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "aerogel/error.h"
#include "aerogel/linear.h"
#include "base/cpu_features.h"
#include "ops/dispatch.h"

namespace aerogel {
namespace {

Tensor wave(const Shape& shape, float step) {
    Tensor tensor(DType::f32, shape);
    for (std::int64_t i = 0; i < tensor.count(); ++i)
        tensor.mutable_as<float>()[i] = std::sin(static_cast<float>(i) * step);
    return tensor;
}

Tensor nans(const Shape& shape) {
    Tensor tensor(DType::f32, shape);
    std::fill_n(tensor.mutable_as<float>(), tensor.count(), std::numeric_limits<float>::quiet_NaN());
    return tensor;
}

template <typename Expected, typename Call>
std::string message_of(Call&& call) {
    try {
        call();
    } catch (const Expected& error) {
        return error.what();
    }
    return "no error";
}

/// |y - (x w^T + bias)| <= (k + 2) eps (|x||w| + |bias|), all sums in double.
void expect_product(const Tensor& x, const Tensor& w, const Tensor& bias, const float* y,
                    std::int64_t y_stride) {
    const std::int64_t n = w.dim(0), k = w.dim(1), m = x.count() / k;
    for (std::int64_t i = 0; i < m; ++i) {
        for (std::int64_t j = 0; j < n; ++j) {
            double sum = static_cast<double>(bias.as<float>()[j]), size = std::abs(sum);
            for (std::int64_t p = 0; p < k; ++p) {
                const double term = static_cast<double>(x.as<float>()[i * k + p]) *
                                    static_cast<double>(w.as<float>()[j * k + p]);
                sum += term;
                size += std::abs(term);
            }
            const double bound = static_cast<double>(k + 2) * std::ldexp(size, -23);
            EXPECT_NEAR(static_cast<double>(y[i * y_stride + j]), sum, bound) << i << "," << j;
        }
    }
}

/// Sets a variable for one test.
class Variable {
  public:
    Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
    ~Variable() { unsetenv(name_); }
    Variable(const Variable&) = delete;
    Variable& operator=(const Variable&) = delete;

  private:
    const char* name_;
};

// Rounded once from float32: 2049 is a tie in float16, 70000 is beyond it.
TEST(FloatLinear, WritesFloat16) {
    Tensor weight = Tensor::zeros(DType::f32, {3, 1});
    const float values[3] = {2049, 70000, -0.1F};
    std::copy(values, values + 3, weight.mutable_as<float>());
    const FloatLinear linear(weight, Tensor());
    Tensor x = Tensor::zeros(DType::f32, {1, 1});
    x.mutable_as<float>()[0] = 1;
    Tensor y = Tensor::zeros(DType::f16, {1, 3});
    linear.forward(x, y, {});
    const Tensor wide = y.to(DType::f32);
    EXPECT_EQ(wide.as<float>()[0], 2048);
    EXPECT_EQ(wide.as<float>()[1], std::numeric_limits<float>::infinity());
    EXPECT_EQ(wide.as<float>()[2], -0.0999755859375F);
    EXPECT_THROW(linear.forward(x, Tensor::zeros(DType::i32, {1, 3}), {}), InvalidArgument);
}

TEST(FloatLinear, FlattensLeadingAxes) {
    const Tensor w = wave({37, 50}, 0.3F), bias = wave({37}, 1.1F), x = wave({2, 3, 50}, 0.7F);
    const FloatLinear layer(w, bias);
    EXPECT_EQ(layer.in_features(), 50);
    EXPECT_EQ(layer.out_features(), 37);
    EXPECT_EQ(layer.weight_bytes(), (37 * 50 + 37) * sizeof(float));
    EXPECT_EQ(layer.scheme(), "FLOAT");
    Tensor y = nans({2, 3, 37});
    layer.forward(x, y, {});
    expect_product(x, w, bias, y.as<float>(), 37);
}

TEST(FloatLinear, TakesRowsThatLieApart) {
    const Tensor w = wave({5, 8}, 0.3F), bias = wave({5}, 1.1F), x = wave({3, 8}, 0.7F);
    Tensor wide_x = nans({3, 11}), wide_y = nans({3, 9});
    for (int i = 0; i < 24; ++i) wide_x.mutable_as<float>()[i / 8 * 11 + i % 8] = x.as<float>()[i];
    const TensorView x_view = {DType::f32, {3, 8}, wide_x.data(), {11, 1}, Device::cpu};
    const MutableView y_view = {DType::f32, {3, 5}, wide_y.mutable_data(), {9, 1}, Device::cpu};
    FloatLinear(w, bias).forward(x_view, y_view, {});
    expect_product(x, w, bias, wide_y.as<float>(), 9);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(wide_y.as<float>()[i * 9 + 5]));
}

TEST(FloatLinear, HalfWeightsGiveTheResultOfTheirValues) {
    const Tensor x = wave({4, 33}, 0.7F), bias = wave({7}, 0.9F);
    for (const DType dtype : {DType::bf16, DType::f16}) {
        const Tensor w = wave({7, 33}, 0.3F).to(dtype), widened = w.to(DType::f32);
        Tensor y = nans({4, 7});
        const FloatLinear layer(w, bias);
        layer.forward(x, y, {});
        EXPECT_EQ(layer.weight_bytes(), 7U * 33 * 2 + 7 * 4);
        expect_product(x, widened, bias, y.as<float>(), 7);
    }
}

TEST(FloatLinear, NoRowsIsNoWork) {
    const FloatLinear layer(wave({5, 8}, 0.3F), Tensor());
    layer.forward(Tensor(DType::f32, {0, 8}), Tensor(DType::f32, {0, 5}), {});
}

TEST(FloatLinear, BadArgumentsNameBothSides) {
    const auto make = [](const Tensor& w, const Tensor& bias) {
        return message_of<InvalidArgument>([&] { FloatLinear(w, bias); });
    };
    EXPECT_EQ(make(wave({6}, 1), Tensor()), "[linear] the weight must be a matrix, got f32[6]");
    EXPECT_EQ(make(Tensor(), Tensor()), "[linear] the weight must be a matrix, got nothing");
    EXPECT_EQ(make(Tensor(DType::i8, {2, 2}), Tensor()),
              "[linear] a float weight must be f32, bf16 or f16, got i8[2,2]");
    EXPECT_EQ(make(wave({2, 3}, 1), wave({3}, 1)), "[linear] bias must be [2], got f32[3] (weight f32[2,3])");
    const FloatLinear layer(wave({5, 8}, 0.3F), Tensor());
    const auto run = [&](const TensorView& x, const MutableView& y) {
        return message_of<InvalidArgument>([&] { layer.forward(x, y, {}); });
    };
    EXPECT_EQ(run(wave({2, 7}, 1), nans({2, 5})), "[linear] x must have 8 columns, got x f32[2,7]");
    EXPECT_EQ(run(wave({2, 8}, 1), nans({2, 8})), "[linear] y must have 5 columns, got y f32[2,8]");
    EXPECT_EQ(run(wave({2, 8}, 1), nans({3, 5})),
              "[linear] x and y must have as many rows (x f32[2,8], y f32[3,5])");
    EXPECT_EQ(run(Tensor(DType::i8, {2, 8}), nans({2, 5})), "[linear] x i8[2,8] must be f32 or bf16");
    const Tensor x = wave({8, 8}, 1);
    EXPECT_EQ(run({DType::f32, {2, 8}, x.data(), {1, 8}, Device::cpu}, nans({2, 5})),
              "[linear] x f32[2,8] must be contiguous, or 2-D with contiguous rows");
    EXPECT_EQ(run({DType::f32, {2, 8}, x.data(), {}, Device::cuda}, nans({2, 5})),
              "[linear] x f32[2,8] must be on the CPU");
}

TEST(FloatLinear, ViewsOfNothingAndOfTooMuchAreRefused) {
    const FloatLinear layer(wave({5, 8}, 0.3F), Tensor());
    const Tensor x = wave({4, 8}, 1);
    Tensor y = nans({4, 5});
    const auto run = [&](const auto& change) {
        TensorView in = x;
        MutableView out = y;
        change(in, out);
        return message_of<InvalidArgument>([&] { layer.forward(in, out, {}); });
    };
    constexpr std::int64_t kHuge = std::int64_t{1} << 62;
    const auto shapes = [](Shape in, Shape out) {
        return [=](TensorView& to, MutableView& from) { to.shape = in, from.shape = out; };
    };
    EXPECT_EQ(run([](TensorView& in, MutableView&) { in.data = nullptr; }),
              "[linear] x f32[4,8] has no data");
    EXPECT_EQ(run([](TensorView&, MutableView& out) { out.data = nullptr; }),
              "[linear] y f32[4,5] has no data");
    EXPECT_EQ(run(shapes({-4, 8}, {-4, 5})), "[tensor] negative size in shape [-4,8]");
    EXPECT_EQ(run(shapes({-2, -2, 8}, {-2, -2, 5})), "[tensor] negative size in shape [-2,-2,8]");
    EXPECT_EQ(run(shapes({kHuge, 4, 8}, {kHuge, 4, 5})),
              "[tensor] the element count of shape [4611686018427387904,4,8] overflows");
    for (const Shape& strides : {Shape{8}, Shape{8, 1, 1}})
        EXPECT_EQ(run([&](TensorView& in, MutableView&) { in.strides = strides; }),
                  "[linear] x f32[4,8] must be contiguous, or 2-D with contiguous rows");
}

TEST(FloatLinear, WritesEachElementOnceAndNoneOfX) {
    const FloatLinear layer(wave({8, 8}, 0.3F), Tensor());
    Tensor x = wave({4, 8}, 1), y = nans({4, 8});
    const auto run = [&](const MutableView& out) {
        return message_of<InvalidArgument>([&] { layer.forward(x, out, {}); });
    };
    EXPECT_EQ(run(x), "[linear] x f32[4,8] and y f32[4,8] must not share memory");
    for (const std::int64_t stride : {0, 7, -7})
        EXPECT_EQ(run({DType::f32, {4, 8}, y.mutable_data(), {stride, 1}, Device::cpu}),
                  "[linear] the rows of y f32[4,8] must not overlap, got a row every " +
                      std::to_string(stride) + " elements");
    // Halves of the rows of one array lie between each other.
    Tensor both = wave({4, 16}, 1);
    layer.forward({DType::f32, {4, 8}, both.data(), {16, 1}, Device::cpu},
                  {DType::f32, {4, 8}, both.mutable_as<float>() + 8, {16, 1}, Device::cpu}, {});
}

TEST(FloatLinear, AStoredWeightIsWhatWasAnnounced) {
    StoredWeight stored;
    stored.shape = {5, 8};
    EXPECT_EQ(message_of<InvalidArgument>([&] { FloatLinear(stored, Tensor()); }),
              "[linear] a stored weight needs `read`, which gives it");
    const auto run = [&](const Tensor& read) {
        stored.read = [=] { return read; };
        const FloatLinear layer(stored, Tensor());
        Tensor y = nans({2, 5});
        return message_of<InvalidArgument>([&] { layer.forward(wave({2, 8}, 1), y, {}); });
    };
    EXPECT_EQ(run(wave({5, 8}, 1)), "no error");
    EXPECT_EQ(run(wave({5, 7}, 1)), "[linear] the weight that is read must be f32[5,8], got f32[5,7]");
    EXPECT_EQ(run(wave({5, 8}, 1).to(DType::bf16)),
              "[linear] the weight that is read must be f32[5,8], got bf16[5,8]");
    EXPECT_EQ(run(Tensor()), "[linear] the weight that is read must be f32[5,8], got nothing");
    stored.shape = {-5, 8};
    EXPECT_EQ(message_of<InvalidArgument>([&] { FloatLinear(stored, Tensor()); }),
              "[linear] a weight needs at least one row and one column, got f32[-5,8]");
}

TEST(PackedLinear, ChecksTheCall) {
    QuantizedTensor weight;
    weight.format = Format::int8;
    weight.rows = 2;
    weight.columns = 4;
    weight.data = Tensor::zeros(DType::i8, {2, 4});
    const auto make = [&](Activation activation) {
        return message_of<InvalidArgument>([&] { PackedLinear(weight, activation); });
    };
    EXPECT_EQ(make(Activation::none), "[linear] int8 weight: scale must be f32[2,1], got nothing");
    weight.scale = wave({2, 1}, 1);
    const PackedLinear packed(weight, Activation::per_token);
    Tensor x = wave({1, 4}, 1), y = nans({1, 2});
    const auto run = [&](Activation activation) {
        return message_of<InvalidArgument>([&] { packed.run(x, y, activation, {}); });
    };
    EXPECT_EQ(run(Activation::none),
              "[linear] the weight was packed for n=2 k=4 x=f32 y=f32 w=int8 act=per_token, not for none "
              "activations");
    EXPECT_EQ(run(Activation::per_tensor), "[linear] static activation scales need quant_bias and deq_scale");
    EXPECT_EQ(run(Activation::per_token), "no error");
}

TEST(PackedLinear, NoKernelTakesIt) {
    QuantizedTensor weight;
    weight.rows = weight.columns = 2;
    weight.data = wave({2, 2}, 1);
    const std::string text = message_of<Unsupported>([&] { PackedLinear(weight, Activation::per_token); });
    EXPECT_EQ(text.rfind("[linear] no kernel takes n=2 k=2 x=f32 y=f32 w=f32 act=per_token: ", 0), 0U)
        << text;
    EXPECT_NE(text.find("reference.linear: per_token activations need int8 or int4 weights"),
              std::string::npos)
        << text;
}

TEST(Dispatch, ForcesTheKernelThatIsNamed) {
    const Tensor w = wave({5, 8}, 0.3F);
    QuantizedTensor weight;
    weight.rows = 5;
    weight.columns = 8;
    weight.data = w;
    {
        const Variable forced("AEROGEL_KERNEL", "reference.linear");
        EXPECT_EQ(PackedLinear(weight, Activation::none).kernel_name(), "reference.linear");
    }
    {
        const Variable forced("AEROGEL_KERNEL", "cpu.avx2.w8a8");
        const std::string text = message_of<Unsupported>([&] { PackedLinear(weight, Activation::none); });
        EXPECT_EQ(text.rfind("[linear] the kernel forced by AEROGEL_KERNEL refuses ", 0), 0U) << text;
        EXPECT_EQ(text.find("reference.linear"), std::string::npos) << text;
    }
    {
        const Variable forced("AEROGEL_KERNEL", "reference.attention");  // another operation's
        EXPECT_EQ(PackedLinear(weight, Activation::none).kernel_name(),
                  cpu_level() >= CpuLevel::avx512 ? "cpu.avx512.f32"
                  : cpu_level() >= CpuLevel::avx2 ? "cpu.avx2.f32"
                                                  : "cpu.baseline.f32");
    }
}

TEST(Dispatch, UnknownKernelsAreAnErrorThatListsThem) {
    const Variable forced("AEROGEL_KERNEL", "cpu.mmx.linear");
    const std::string text = message_of<InvalidArgument>([&] { FloatLinear(wave({2, 2}, 1), Tensor()); });
    EXPECT_EQ(text.rfind("[environment] AEROGEL_KERNEL must be one of ", 0), 0U) << text;
    for (const std::string& name : all_kernel_names()) EXPECT_NE(text.find(name), std::string::npos) << name;
    EXPECT_NE(text.find("got 'cpu.mmx.linear'"), std::string::npos) << text;
}

TEST(Dispatch, TakesTheFirstThatDoesNotRefuse) {
    const std::vector<std::string_view> names = {"a", "b"};
    EXPECT_EQ(choose_kernel("op", "p", names, [](std::size_t) { return ""; }), 0U);
    EXPECT_EQ(choose_kernel("op", "p", names, [](std::size_t i) { return i == 0 ? "no" : ""; }), 1U);
    EXPECT_EQ(message_of<Unsupported>([&] {
                  choose_kernel("op", "p", names, [](std::size_t i) { return i == 0 ? "no" : "never"; });
              }),
              "[op] no kernel takes p: a: no; b: never");
}

}  // namespace
}  // namespace aerogel
