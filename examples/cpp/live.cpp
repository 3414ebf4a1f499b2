// live: grey frames from stdin, one byte a pixel, classified as they come, with double buffering: while the student looks at
// one frame, the next is read. A line a frame: its number and its class.
//
//     ffmpeg -i /dev/video0 -vf scale=28:28,format=gray -f rawvideo - | live
#include "pgm.hpp"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <thread>

// Two frames that change hands: the reader fills one while the other is looked at.
class Frames {
  public:
    explicit Frames(std::size_t pixels) { frames_.fill(std::vector<unsigned char>(pixels)); }

    // Read frames until the input ends. No frame is skipped: it waits while both are taken.
    void read(std::FILE* input) {
        for (std::size_t next = 0;; next ^= 1) {
            wait([&] { return filled_ < 2; });
            std::vector<unsigned char>& frame = frames_[next];
            const bool whole = std::fread(frame.data(), 1, frame.size(), input) == frame.size();
            change([&] { whole ? void(++filled_) : void(ended_ = true); });
            if (!whole) return;
        }
    }

    // The next frame, until it is given back; null when there are no more.
    const std::vector<unsigned char>* take() {
        wait([&] { return filled_ > 0 || ended_; });
        return filled_ > 0 ? &frames_[taken_++ & 1] : nullptr;
    }
    void give_back() {
        change([&] { --filled_; });
    }

  private:
    template <class Until>
    void wait(Until until) {
        std::unique_lock<std::mutex> hold(mutex_);
        changed_.wait(hold, until);
    }
    template <class Change>
    void change(Change how) {
        const std::lock_guard<std::mutex> hold(mutex_);
        how();
        changed_.notify_all();
    }

    std::array<std::vector<unsigned char>, 2> frames_;
    std::mutex mutex_;
    std::condition_variable changed_;
    int filled_ = 0;
    bool ended_ = false;
    std::size_t taken_ = 0;
};

int main() {
    edgekd::Student student;
    if (const auto opened = student.open_linked("classes"); !opened)
        return std::fprintf(stderr, "error: %s\n", opened.message()), 1;
    std::vector<float> input(student.input().count), logits(student.output().count);
    Frames frames(input.size());
    std::thread reader([&] { frames.read(stdin); });
    int code = 0;
    for (std::size_t number = 0; const auto* frame = frames.take(); ++number) {
        const auto ready = student.preprocess(*frame, input);
        frames.give_back();  // its pixels are in `input` now
        const auto ran = ready ? student.run(input, logits) : ready;
        if (!ran && code == 0) code = (std::fprintf(stderr, "error: %s\n", ran.message()), 1);
        if (code != 0) continue;
        const auto best = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
        const char* label = student.label(best);
        std::printf("%zu %s\n", number, label != nullptr ? label : "?");
    }
    reader.join();
    return code;
}
