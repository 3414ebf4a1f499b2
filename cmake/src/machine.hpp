// The machine under the clock, as far as Linux tells: its load, its cores, its sensors, and this process's memory.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace edgekd::bench {

// "aarch64-linux", "aarch64-android", …: what this program was built for.
std::string triple();
// The first processor's instruction sets as /proc/cpuinfo spells them.
std::vector<std::string> features();
std::size_t cores();

// Ticks since the system started, of the whole machine or of one CPU.
struct Ticks {
    double whole = 0;
    double idle = 0;
};
// The machine's first, then each CPU's; empty where the system does not tell.
std::vector<Ticks> ticks();
// Ticks that this process used.
double own_ticks();

// Run on `threads` CPUs only: the fastest cores first, one a core, the least used (`used[cpu]`) first. Which; empty if none.
std::vector<int> pin(std::size_t threads, const std::vector<double>& used);

// {"celsius", "mhz", "governor"} as JSON: the hottest zone, each of `cpus` that tells, the first one's.
std::string conditions(const std::vector<int>& cpus);

// Bytes of the largest resident set that this process ever had.
long long peak_memory();

// Instructions that all threads of this process run, in user space: from when it is made until stop(), by the processor's
// counters. Linux, where the system lets a process count itself (perf_event_paranoid of 2 or less).
class Instructions {
  public:
    Instructions();
    Instructions(const Instructions&) = delete;
    Instructions& operator=(const Instructions&) = delete;
    ~Instructions();

    // How many; below 0 if they were not counted, and why() says why.
    double stop();
    const std::string& why() const noexcept { return why_; }

  private:
    std::vector<int> counters_;  // one a thread that was there
    std::string why_;
};

// For who watches from outside: the first mark before what is counted, the second behind it. A system call that the kernel
// refuses, since it has none of this name: edgekd/devices/qemu_count.c looks for it.
void mark(int which);

}  // namespace edgekd::bench
