// classifier IMAGE.pgm: what is in it, and how long that took. The bundle is inside the program.
#include "pgm.hpp"

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
    if (const auto ready = student.preprocess(pixels, input); !ready)
        return std::fprintf(stderr, "error: %s\n", ready.message()), 1;

    const auto classify = [&] { return student.run(input, logits); };
    if (const auto ran = classify(); !ran) return std::fprintf(stderr, "error: %s\n", ran.message()), 1;
    const auto started = std::chrono::steady_clock::now();  // the second call: the first one makes room
    if (const auto ran = classify(); !ran) return std::fprintf(stderr, "error: %s\n", ran.message()), 1;
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - started;

    edgekd::Class best[1];
    std::size_t found = 0;
    if (const auto told = student.postprocess(logits, best, found); !told)
        return std::fprintf(stderr, "error: %s\n", told.message()), 1;
    const char* label = found == 0 ? "nothing above the threshold" : best[0].label;
    std::printf("%s  %.3f ms\n", label != nullptr ? label : std::to_string(best[0].index).c_str(), took.count());
}
