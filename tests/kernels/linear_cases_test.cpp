// The arrays of linear problems; see linear_cases.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <memory>
#include <random>
#include <sstream>

#include "aerogel/number_types.h"
#include "kernels/cpu_kernels.h"
#include "kernels/golden.h"
#include "kernels/linear_cases.h"
#include "kernels/linear_weights.h"
#include "kernels/reference/activations.h"
#include "kernels/reference/kernels.h"

namespace aerogel::testing {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr std::int64_t kGap = 5;
constexpr unsigned char kPoison = 0xFF;  // NaN as float, bf16 and f16

/// Heap memory of exactly this size, aligned to 64 bytes, full of NaNs.
class Memory {
  public:
    explicit Memory(std::size_t bytes)
        : bytes_(static_cast<std::byte*>(
              std::aligned_alloc(64, (std::max<std::size_t>(bytes, 1) + 63) / 64 * 64))) {
        std::memset(bytes_.get(), kPoison, bytes);
    }
    std::byte* get() const { return bytes_.get(); }

  private:
    struct Free {
        void operator()(std::byte* p) const { std::free(p); }
    };
    std::unique_ptr<std::byte, Free> bytes_;
};

float rounded_to(DType dtype, float value) {
    if (dtype == DType::f16) return to_float(to_float16(value));
    return dtype == DType::bf16 ? to_float(to_bfloat16(value)) : value;
}

constexpr float kInputScale = 0.013F;

/// Half numbers times the row's scale; column 0 is the row's largest, which makes that scale.
float tie_value(Activation activation, std::int64_t row, std::int64_t p) {
    const float top = activation == Activation::per_token_int4 ? 7 : 127;
    const float largest = 1.0F + static_cast<float>(row * row % 977) * 0.37F;
    const float scale = activation == Activation::per_tensor ? kInputScale : largest / top;
    const auto whole = static_cast<float>((row + p * 5) % static_cast<std::int64_t>(2 * top)) - top;
    return p == 0 ? largest : (whole + 0.5F) * scale;
}

/// What a row of a special fill holds at column p.
float special_value(std::int64_t row, std::int64_t p, std::int64_t k, float normal) {
    switch (row % 8) {
        case 0:
            return 0;
        case 1:
            return p == k - 1 ? kNan : normal;
        case 2:
            return p == k / 2 ? std::numeric_limits<float>::infinity() : normal;
        case 3:
            return normal * 1e-41F;
        case 4:
            return p == 0 ? 1.4e-45F * 190 : 0;
        case 5:
            return normal * 1e15F;
        case 6:
            return normal * 1e34F;
        default:
            return normal;
    }
}

}  // namespace

std::string LinearCase::describe() const {
    constexpr const char* kFills[] = {"normal", "extreme", "ties", "special"};
    return problem.describe() + (bias ? " bias" : "") + (mul_scale ? " mul_scale" : "") +
           (strided ? " strided" : "") + " fill=" + kFills[static_cast<int>(fill)];
}

std::vector<LinearShape> linear_shapes() {
    std::ifstream file(AEROGEL_SOURCE_DIR "/tests/problems/linear.txt");
    std::vector<LinearShape> shapes;
    for (std::string line; std::getline(file, line);) {
        if (line.empty() || line[0] == '#') continue;
        LinearShape shape;
        std::istringstream words(line);
        for (std::string word; words >> word;) {
            const std::size_t equals = word.find('=');
            const std::string key = word.substr(0, equals);
            if (key == "speed") shape.speed = true;
            const std::int64_t value = shape.speed ? 0 : std::stoll(word.substr(equals + 1));
            if (key == "m") shape.m = value;
            if (key == "n") shape.n = value;
            if (key == "k") shape.k = value;
            if (key == "group") shape.group = value;
        }
        shapes.push_back(shape);
    }
    return shapes;
}

std::vector<LinearCase> linear_cases(const LinearShape& shape) {
    std::vector<LinearCase> cases;
    int turn = static_cast<int>(shape.m + shape.n + shape.k);
    std::int64_t schemes = 0;
    const auto add = [&](Format format, Activation activation, std::int64_t group, bool offset) {
        // Large shapes take one fill per scheme: the reference is slow. So is an emulated device, where every
        // scheme meets every fill in some shape; few are wide enough for products of fp8.
        const bool slow = takes_time() && activation != Activation::per_token_fp8;
        const bool one = slow || shape.m * shape.n * shape.k > 3'000'000;
        constexpr std::array kFills = {Fill::normal, Fill::extreme, Fill::special};
        const std::int64_t mixed = schemes++ + shape.m / 3 + shape.n + shape.k / 32;
        const Fill only = kFills[static_cast<std::size_t>(mixed) % kFills.size()];
        for (const Fill fill : kFills) {
            turn += 1;
            if (one && fill != only) continue;
            LinearCase c;
            c.problem = {shape.m, shape.n,    shape.k, DType::f32, DType::f32,
                         format,  activation, group,   offset};
            if (turn % 2 == 1) c.problem.x = DType::bf16;
            if (turn / 2 % 4 == 1) c.problem.y = DType::bf16;
            if (turn / 2 % 4 == 3) c.problem.y = DType::f16;
            c.bias = turn % 3 != 0;
            c.mul_scale = turn % 5 < 2;
            c.strided = turn / 3 % 2 == 1;
            c.fill = fill;
            cases.push_back(c);
        }
    };
    for (const Format format : {Format::f32, Format::bf16}) add(format, Activation::none, 0, false);
    for (const Format format : {Format::int8, Format::int4}) {
        for (const bool offset : {false, true}) {
            add(format, Activation::none, 0, offset);
            if (shape.group != 0) add(format, Activation::none, shape.group, offset);
        }
    }
    for (const Format format : {Format::fp8_e4m3, Format::fp8_e5m2}) {
        add(format, Activation::none, shape.group, false);
    }
    for (const Format format : {Format::mxfp8, Format::mxfp4}) add(format, Activation::none, kMxBlock, false);
    add(Format::fp8_e4m3, Activation::per_token_fp8, 0, false);
    if (shape.group != 0) add(Format::fp8_e4m3, Activation::per_token_fp8, shape.group, false);
    add(Format::mxfp8, Activation::mxfp8, kMxBlock, false);
    add(Format::mxfp4, Activation::mxfp8, kMxBlock, false);
    add(Format::mxfp4, Activation::mxfp4, kMxBlock, false);
    add(Format::mxfp4_dual, Activation::mxfp4_dual, kMxBlock, false);
    for (int i = 0; i < 2; ++i) {
        add(Format::int8, Activation::per_token, 0, false);
        add(Format::int8, Activation::per_tensor, 0, false);
    }
    add(Format::int4, Activation::per_token, 0, false);
    add(Format::int4, Activation::per_token_int4, 0, false);
    if (shape.group == 0) return cases;
    add(Format::int8, Activation::per_token, shape.group, false);
    add(Format::int4, Activation::per_token, shape.group, false);
    add(Format::int4, Activation::per_token_int4, shape.group, false);
    return cases;
}

LinearArrays::LinearArrays(const LinearCase& linear_case)
    : case_(linear_case),
      x_stride_(linear_case.problem.k + (linear_case.strided ? kGap : 0)),
      y_stride_(linear_case.problem.n + (linear_case.strided ? kGap : 0)),
      weight_(WeightMaker(case_.problem, case_.fill).make()) {
    const LinearProblem& p = case_.problem;
    fill_x();
    std::mt19937 random(7);
    std::uniform_real_distribution<float> real(0.5F, 1.5F);
    std::uniform_int_distribution<std::int32_t> integer(-100000, 100000);
    for (std::int64_t j = 0; j < p.n; ++j) {
        bias_.push_back(real(random) * (j % 2 == 0 ? 3.0F : -3.0F));
        quant_bias_.push_back(integer(random));
        deq_scale_.push_back(real(random) * 1e-3F);
    }
    if (p.n > 2) quant_bias_[2] = std::numeric_limits<std::int32_t>::max();  // the sum wraps around
    for (std::int64_t i = 0; i < p.k; ++i) mul_scale_.push_back(real(random));
    for (const float value : x_)
        x_half_.push_back(p.x == DType::f16 ? to_float16(value).bits : to_bfloat16(value).bits);
}

void LinearArrays::fill_x() {
    const LinearProblem& p = case_.problem;
    std::mt19937 random(static_cast<unsigned>(p.m * 31 + p.n * 7 + p.k));
    std::normal_distribution<float> normal;
    // The last row ends where the memory ends.
    x_.assign(static_cast<std::size_t>((p.m - 1) * x_stride_ + p.k), kNan);
    for (std::int64_t i = 0; i < p.m; ++i) {
        for (std::int64_t j = 0; j < p.k; ++j) {
            float value = normal(random);
            if (case_.fill == Fill::special) value = special_value(i, j, p.k, value);
            if (case_.fill == Fill::extreme) value = extreme_value(i, j);
            if (case_.fill == Fill::ties) value = tie_value(p.activation, i, j);
            x_[static_cast<std::size_t>(i * x_stride_ + j)] = rounded_to(p.x, value);
        }
    }
}

LinearArgs LinearArrays::arguments() const {
    const LinearProblem& p = case_.problem;
    LinearArgs args;
    args.x =
        p.x == DType::f32 ? static_cast<const void*>(x_.data()) : static_cast<const void*>(x_half_.data());
    args.x_stride = x_stride_;
    args.y_stride = y_stride_;
    if (case_.mul_scale) args.mul_scale = mul_scale_.data();
    if (p.activation == Activation::per_tensor) {
        args.input_scale = case_.fill == Fill::extreme ? 1.0F : kInputScale;
        args.input_offset = case_.fill == Fill::extreme ? 0.0F : -11.0F;
        args.quant_bias = quant_bias_.data();
        args.deq_scale = deq_scale_.data();
    } else if (case_.bias) {
        args.bias = bias_.data();
    }
    return args;
}

std::vector<float> LinearArrays::run(const LinearKernel& kernel, std::string& complaint) const {
    const LinearProblem& p = case_.problem;
    LinearProblem packing = p;
    packing.m = 0;
    const Memory packed(kernel.packed_bytes(packing));
    kernel.pack(packing, weight_, packed.get());
    const Memory workspace(kernel.workspace_bytes(p));
    const std::size_t y_size = size_of(p.y);
    const std::size_t bytes = static_cast<std::size_t>((p.m - 1) * y_stride_ + p.n) * y_size;
    constexpr std::size_t kMargin = 64;
    std::vector<unsigned char> y(bytes + 2 * kMargin, kPoison);
    LinearArgs args = arguments();
    args.packed = packed.get();
    args.workspace = workspace.get();
    args.y = y.data() + kMargin;
    kernel.run(p, args);
    std::vector<float> values;
    for (std::int64_t i = 0; i < p.m; ++i) {
        for (std::int64_t j = 0; j < p.n; ++j) {
            unsigned char* at = y.data() + kMargin + static_cast<std::size_t>(i * y_stride_ + j) * y_size;
            std::uint32_t bits = 0;
            std::memcpy(&bits, at, y_size);
            const auto half = static_cast<std::uint16_t>(bits);
            values.push_back(p.y == DType::f16
                                 ? to_float(Float16{half})
                                 : std::bit_cast<float>(p.y == DType::bf16 ? bits << 16 : bits));
            std::memset(at, kPoison, y_size);
        }
    }
    if (std::any_of(y.begin(), y.end(), [](unsigned char byte) { return byte != kPoison; })) {
        complaint += "memory around y was written; ";
    }
    return values;
}

float LinearArrays::x_at(std::int64_t i, std::int64_t p) const {
    const float x = x_[static_cast<std::size_t>(i * x_stride_ + p)];
    return case_.mul_scale ? x * mul_scale_[static_cast<std::size_t>(p)] : x;
}

double LinearArrays::x_norm(std::int64_t i) const {
    const LinearProblem& p = case_.problem;
    std::vector<float> x;
    for (std::int64_t c = 0; c < p.k; ++c) x.push_back(x_at(i, c));
    const std::int64_t width = activation_width(p);
    std::vector<float> factors(static_cast<std::size_t>(activation_factors(p)), 1.0F);
    if (p.activation != Activation::none) quantize_row(p, {x.data(), factors.data(), width});
    double sum = 0;
    for (std::int64_t c = 0; c < p.k; ++c) {
        const double value = static_cast<double>(x[static_cast<std::size_t>(c)]) *
                             static_cast<double>(factors[static_cast<std::size_t>(c / width)]);
        sum += value * value;
    }
    return std::sqrt(sum);
}

std::vector<double> LinearArrays::w_norms() const {
    const Tensor w = dequantize(weight_);
    const std::int64_t k = case_.problem.k;
    std::vector<double> norms;
    for (const float* row = w.as<float>(); row != w.as<float>() + w.count(); row += k) {
        double sum = 0;
        for (std::int64_t p = 0; p < k; ++p) sum += static_cast<double>(row[p]) * static_cast<double>(row[p]);
        norms.push_back(std::sqrt(sum));
    }
    return norms;
}

const std::vector<float>& LinearArrays::reference() const {
    std::string ignored;
    if (reference_.empty()) reference_ = run(reference::kLinear, ignored);
    return reference_;
}

/// An infinite f16 says of a sum only that it was at least 65520.
static double at_least(DType dtype, float y) {
    return static_cast<double>(dtype == DType::f16 ? std::clamp(y, -65520.0F, 65520.0F) : y);
}

// k products and sums, and x' times its factor, each with half a unit of rounding of at most |x||w| + |bias|
// or, down at the bottom, half a denormal; then the rounding of y itself on both sides.
const std::vector<double>& LinearArrays::bounds() const {
    const LinearProblem& p = case_.problem;
    if (is_integer(p.activation) || !bounds_.empty()) return bounds_;
    const std::vector<float>& wanted = reference();
    const std::vector<double> w_norm = w_norms();
    const double unit = std::ldexp(1.0, -24);
    const double steps = static_cast<double>(p.k) + 2;
    const double output = p.y == DType::bf16  ? std::ldexp(1.0, -8)
                          : p.y == DType::f16 ? std::ldexp(1.0, -11)
                                              : unit;
    const double smallest = p.y == DType::f16 ? std::ldexp(1.0, -25) : 0;
    for (std::int64_t i = 0; i < p.m; ++i) {
        const double norm = x_norm(i);
        for (std::int64_t j = 0; j < p.n; ++j) {
            const double size = norm * w_norm[static_cast<std::size_t>(j)] +
                                std::abs(static_cast<double>(bias_[static_cast<std::size_t>(j)]));
            const double y = std::abs(at_least(p.y, wanted[static_cast<std::size_t>(i * p.n + j)]));
            bounds_.push_back(steps * (unit * size + std::ldexp(1.0, -149)) + 2 * (output * y + smallest));
        }
    }
    return bounds_;
}

std::string LinearArrays::compare(const std::vector<float>& got) const {
    const LinearProblem& p = case_.problem;
    const std::vector<float>& wanted = reference();
    const std::vector<double>& bound = bounds();
    for (std::size_t i = 0; i < wanted.size(); ++i) {
        const float a = wanted[i], b = got[i];
        if (std::isnan(a) && std::isnan(b)) continue;
        if (std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b)) continue;
        if (!bound.empty()) {
            const double error = std::abs(at_least(p.y, a) - at_least(p.y, b));
            if (std::isfinite(bound[i]) && error <= bound[i]) continue;
        }
        const auto n = static_cast<std::size_t>(p.n);
        std::ostringstream text;
        text << "y[" << i / n << "," << i % n << "] is " << b << ", wanted " << a << " within "
             << (bound.empty() ? 0.0 : bound[i]);
        return text.str();
    }
    return "";
}

std::string LinearArrays::check(const LinearKernel& kernel) const {
    std::string complaint;
    const std::vector<float> got = run(kernel, complaint);
    complaint += compare(got);
    const std::string name = std::string(kernel.name) + " " + case_.describe();
    complaint += golden_difference(name, got, bounds());
    return complaint.empty() ? "" : name + ": " + complaint;
}

TEST(LinearCases, CoverEverySchemeAndType) {
    const auto shapes = linear_shapes();
    ASSERT_GE(shapes.size(), 20U);
    int bf16_in = 0, bf16_out = 0, f16_out = 0, strided = 0, scaled = 0, unbiased = 0;
    for (const LinearShape& shape : shapes) {
        for (const LinearCase& c : linear_cases(shape)) {
            EXPECT_EQ(linear_limits(c.problem), "");
            bf16_in += c.problem.x == DType::bf16;
            bf16_out += c.problem.y == DType::bf16;
            f16_out += c.problem.y == DType::f16;
            strided += c.strided;
            scaled += c.mul_scale;
            unbiased += !c.bias;
        }
    }
    for (const int count : {bf16_in, bf16_out, f16_out, strided, scaled, unbiased}) EXPECT_GE(count, 50);
}

}  // namespace aerogel::testing
