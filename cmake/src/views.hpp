// Views: what a runtime made of an app's buffers, kept so that calls with the same ones make nothing new.
#pragma once

#include "signature.hpp"

#include <array>

namespace edgekd::core {

// The last few buffers of one port. Calls with the same buffer (one, or two in turns) make no new view. A view is an address
// and a shape, so it cannot grow stale. `Runtime` has a `View`, a pointer: `make(tensor)` gives one, `release(view)` takes it
// back.
template <class Runtime>
class Views {
  public:
    using View = typename Runtime::View;

    explicit Views(const Runtime& runtime) : runtime_(runtime) {}
    Views(const Views&) = delete;
    Views& operator=(const Views&) = delete;
    ~Views() {
        for (const Held& held : held_) runtime_.release(held.view);
    }

    // The view of a tensor; `fresh` is set if it was made now.
    View of(const Tensor& tensor, bool& fresh) {
        for (const Held& held : held_)
            if (held.view != nullptr && held.same(tensor)) return held.view;
        Held& held = held_[next_];
        next_ = (next_ + 1) % held_.size();
        runtime_.release(held.view);
        held.view = nullptr;
        held.view = runtime_.make(tensor);
        held.tensor = tensor;
        fresh = true;
        return held.view;
    }

  private:
    struct Held {
        Tensor tensor;
        View view = nullptr;

        bool same(const Tensor& other) const noexcept {
            if (tensor.data != other.data) return false;
            for (std::size_t i = 0; i < other.rank; ++i)
                if (tensor.shape[i] != other.shape[i]) return false;
            return true;
        }
    };

    const Runtime& runtime_;
    std::array<Held, 4> held_{};
    std::size_t next_ = 0;
};

}  // namespace edgekd::core
