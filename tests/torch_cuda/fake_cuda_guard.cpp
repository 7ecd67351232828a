// What torch's C++ side asks of a kind of device besides operations, for the device "cuda" of fake_cuda.py in
// a torch that was built without CUDA. Streams are Python's business there: autograd sees one of each device.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <cstdlib>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::Stream;

struct FakeCudaGuard final : c10::impl::DeviceGuardImplInterface {
    c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
    Device exchangeDevice(Device device) const override {
        const Device before = getDevice();
        setDevice(device);
        return before;
    }
    Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
    void setDevice(Device) const override {}
    void uncheckedSetDevice(Device) const noexcept override {}
    Stream getStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
    Stream getDefaultStream(Device device) const override { return Stream(Stream::DEFAULT, device); }
    Stream exchangeStream(Stream stream) const override { return stream; }
    DeviceIndex deviceCount() const noexcept override {
        const char* gpus = std::getenv("AEROGEL_FAKE_GPUS");
        return static_cast<DeviceIndex>(gpus == nullptr ? 1 : std::atoi(gpus));
    }
    void record(void**, const Stream&, DeviceIndex, c10::EventFlag) const override {}
    void block(void*, const Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
    void destroyEvent(void*, DeviceIndex) const noexcept override {}
    bool queryStream(const Stream&) const override { return true; }
    void synchronizeStream(const Stream&) const override {}
    void synchronizeEvent(void*) const override {}
    void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const override {}
};

// There is an accelerator, which autograd asks.
struct CUDAHooks final : at::CUDAHooksInterface {
    explicit CUDAHooks(at::CUDAHooksArgs) {}
    void init() const override {}
    bool hasCUDA() const override { return true; }
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasPrimaryContext(DeviceIndex) const override { return true; }
    DeviceIndex deviceCount() const override { return FakeCudaGuard().deviceCount(); }
    DeviceIndex getCurrentDevice() const override { return 0; }
};
// A macro of torch, which expects this namespace.
}  // namespace
namespace at {
REGISTER_CUDA_HOOKS(CUDAHooks)
}
namespace {

const c10::impl::DeviceGuardImplRegistrar registered(c10::DeviceType::CUDA, new FakeCudaGuard);

}  // namespace
