// classifier IMAGE.pgm: what is in it, and how long that took. The bundle is inside the program.
#include "pgm.hpp"

#include <algorithm>
#include <chrono>

int main(int count, char** words) {
    if (count != 2) return std::fprintf(stderr, "usage: classifier IMAGE.pgm\n"), 2;

    edgekd::Student student;
    if (const auto opened = student.open_linked("classes"); !opened)
        return std::fprintf(stderr, "error: %s\n", opened.message()), 1;

    const auto pixels = read_pgm(words[1], student.input().count);
    if (pixels.empty())
        return std::fprintf(stderr, "error: %s: not a PGM image of %zu pixels\n", words[1], student.input().count), 2;
    std::vector<float> input(student.input().count), logits(student.output().count);
    normalise(student, pixels, input);

    const auto classify = [&] { return student.run(input, logits); };
    if (const auto ran = classify(); !ran) return std::fprintf(stderr, "error: %s\n", ran.message()), 1;
    const auto started = std::chrono::steady_clock::now();  // the second call: the first one makes room
    if (const auto ran = classify(); !ran) return std::fprintf(stderr, "error: %s\n", ran.message()), 1;
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;

    const auto best = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    const char* label = student.label(best);
    std::printf("%s  %.3f ms\n", label != nullptr ? label : std::to_string(best).c_str(), took.count());
}
