// Lets torch pass fake CUDA tensors without a GPU through its C++ bindings and its autograd engine, which ask
// every device for its current stream. Nothing here computes: all streams are the default one, events never wait.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {
using namespace c10;

struct Guard final : impl::DeviceGuardImplInterface {
  Device device() const { return Device(DeviceType::CUDA, 0); }
  Stream stream() const { return Stream(Stream::DEFAULT, device()); }
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device) const override { return device(); }
  Device getDevice() const override { return device(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  Stream getStream(Device) const noexcept override { return stream(); }
  Stream getDefaultStream(Device) const override { return stream(); }
  Stream getStreamFromGlobalPool(Device, bool) const override { return stream(); }
  Stream getNewStream(Device, int) const override { return stream(); }
  Stream exchangeStream(Stream) const noexcept override { return stream(); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const Stream&, const DeviceIndex, const EventFlag) const override {}
  void block(void*, const Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept override {}
  bool queryStream(const Stream&) const override { return true; }
  void synchronizeStream(const Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const DeviceIndex) const override {}
  void recordDataPtrOnStream(const DataPtr&, const Stream&) const override {}
};

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex getCurrentDevice() const override { return 0; }
};

Guard guard;
Hooks hooks;
const impl::DeviceGuardImplInterface* guard_before = nullptr;
void* hooks_before = nullptr;

// The hooks are created only once, at first use: they can only be changed in place.
void*& methods(const at::CUDAHooksInterface& of) {
  return *reinterpret_cast<void**>(const_cast<at::CUDAHooksInterface*>(&of));
}
}  // namespace

extern "C" void adastate_pretend() {
  auto& slot = impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)];
  guard_before = slot.load();
  slot.store(&guard);
  hooks_before = methods(at::detail::getCUDAHooks());
  methods(at::detail::getCUDAHooks()) = methods(hooks);
}

extern "C" void adastate_restore() {
  impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)].store(guard_before);
  methods(at::detail::getCUDAHooks()) = hooks_before;
}
