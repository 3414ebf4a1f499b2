// two_students IMAGE.pgm: two bundles in one program, of one backend or of two, each on a thread of its own.
#include "pgm.hpp"

#include <algorithm>
#include <string>
#include <thread>

struct Answer {
    std::string text;
    bool good = false;
};

// Open, run and let go of one student.
static Answer ask(const char* name, const char* path) {
    edgekd::Student student;
    if (const auto opened = student.open_linked(name); !opened) return {opened.message(), false};
    const auto pixels = read_pgm(path, student.input().count);
    if (pixels.empty()) return {std::string(path) + ": not a PGM image of " + std::to_string(student.input().count) + " pixels", false};
    std::vector<float> input(student.input().count), logits(student.output().count);
    if (const auto ready = student.preprocess(pixels, input); !ready) return {ready.message(), false};
    if (const auto ran = student.run(input, logits); !ran) return {ran.message(), false};
    const auto best = static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    const char* label = student.label(best);
    return {std::string(student.backend()) + ": " + (label != nullptr ? label : std::to_string(best)), true};
}

int main(int count, char** words) {
    if (count != 2) return std::fprintf(stderr, "usage: two_students IMAGE.pgm\n"), 2;
    Answer first, second;
    std::thread other([&] { second = ask("second", words[1]); });
    first = ask("classes", words[1]);
    other.join();
    for (const Answer* answer : {&first, &second}) std::fprintf(answer->good ? stdout : stderr, "%s\n", answer->text.c_str());
    return first.good && second.good ? 0 : 1;
}
