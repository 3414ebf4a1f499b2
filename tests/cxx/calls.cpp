// What an app may do with a student, right and wrong, and what it is told. `calls WHAT BUNDLE [N]`.
#include "check.hpp"

#include <edgekd/student.hpp>

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

using edgekd::Student;

namespace {

using Buffer = std::vector<float>;

bool says(const edgekd::Status& status, edgekd::Code code, const char* text) {
    const bool so = status.code() == code && std::strstr(status.message(), text) != nullptr;
    if (!so) std::fprintf(stderr, "told %d: %s\n", static_cast<int>(status.code()), status.message());
    return so;
}

// The test bundle is x float32[1, 1, 8, 8] -> y float32[1, 5].
Student opened(const char* bundle) {
    Student student;
    const auto status = student.open(bundle);
    if (!status) std::fprintf(stderr, "%s\n", status.message());
    CHECK(status);
    return student;
}

void metadata(const char* bundle) {
    Student student = opened(bundle);
    CHECK(student.input_count() == 1 && student.output_count() == 1);
    const edgekd::Port in = student.input(), out = student.output();
    CHECK(std::string(in.name) == "x" && in.dtype == EDGEKD_FLOAT32 && in.rank == 4 && in.count == 64);
    CHECK(in.shape[0] == 1 && in.shape[1] == 1 && in.shape[2] == 8 && in.shape[3] == 8);
    CHECK(std::string(out.name) == "y" && out.rank == 2 && out.count == 5);
    CHECK(student.input(1).name == nullptr && student.output(7).name == nullptr);
    CHECK(student.label_count() == 5 && std::string(student.label(4)) == "e" && student.label(5) == nullptr);
    CHECK(student.constant("mean").size() == 1 && student.constant("mean")[0] == 0.5);
    CHECK(student.constant("crop.size").size() == 2 && student.constant("crop.size")[1] == 8);
    CHECK(student.constant("layout").empty() && student.constant("no").empty() && student.constant(nullptr).empty());
    CHECK(std::string(student.setting("layout")) == "NCHW" && student.setting("mean") == nullptr);
    CHECK(std::string(student.name()) == "tiny");
    CHECK(edgekd_dtype_bytes(EDGEKD_INT64) == 8 && std::string(edgekd_dtype_name(EDGEKD_BOOL)) == "bool");
    CHECK(edgekd_dtype_bytes(static_cast<edgekd_dtype>(15)) == 0);

    Student moved = std::move(student);
    Buffer x(64), y(5);
    CHECK(moved.run(x, y));
    CHECK(!student && student.name() == nullptr && student.label(0) == nullptr);  // NOLINT: a moved-from student is empty
    CHECK(says(student.run(x, y), EDGEKD_INVALID_ARGUMENT, "student is a null pointer"));
}

void wrong_calls(const char* bundle) {
    Student student = opened(bundle);
    Buffer x(64, 1.0f), y(5), small(63), none;
    std::vector<double> doubles(64);
    const std::int64_t right[] = {1, 1, 8, 8}, turned[] = {1, 8, 8, 1}, flat[] = {64};
    CHECK(student.run({edgekd::Input(x, right)}, {y}));
    CHECK(says(student.run(small, y), EDGEKD_INVALID_ARGUMENT, "input \"x\" has 63 elements; the student's is [1, 1, 8, 8]"));
    CHECK(says(student.run({edgekd::Input(x, turned)}, {y}), EDGEKD_INVALID_ARGUMENT, "has shape [1, 8, 8, 1]; the student's is [1, 1, 8, 8]"));
    CHECK(says(student.run({edgekd::Input(x, flat)}, {y}), EDGEKD_INVALID_ARGUMENT, "has shape [64]"));
    CHECK(says(student.run({edgekd::Input(small, right)}, {y}), EDGEKD_INVALID_ARGUMENT, "input \"x\" has"));
    CHECK(says(student.run(doubles, y), EDGEKD_INVALID_ARGUMENT, "input \"x\" has dtype float64; the student's is float32"));
    CHECK(says(student.run(x, small), EDGEKD_INVALID_ARGUMENT, "output \"y\" has 63 elements; the student's is [1, 5]"));
    CHECK(says(student.run({x, x}, {y}), EDGEKD_INVALID_ARGUMENT, "1 input(s), got 2"));
    CHECK(says(student.run({x}, {y, y}), EDGEKD_INVALID_ARGUMENT, "1 output(s), got 2"));
    CHECK(says(student.run(none, y), EDGEKD_INVALID_ARGUMENT, "input \"x\" is a null pointer"));
    edgekd_const_tensor in = {x.data(), 64, EDGEKD_FLOAT32, nullptr, 0};
    edgekd_tensor out = {y.data(), 5, EDGEKD_FLOAT32, nullptr, 0};
    CHECK(says({edgekd_run(student.raw(), nullptr, 1, &out, 1)}, EDGEKD_INVALID_ARGUMENT, "inputs are a null pointer"));
    CHECK(says({edgekd_run(student.raw(), &in, 1, nullptr, 1)}, EDGEKD_INVALID_ARGUMENT, "outputs are a null pointer"));
    CHECK(says({edgekd_run(nullptr, &in, 1, &out, 1)}, EDGEKD_INVALID_ARGUMENT, "student is a null pointer"));
    in.dtype = static_cast<edgekd_dtype>(14);
    CHECK(says({edgekd_run(student.raw(), &in, 1, &out, 1)}, EDGEKD_INVALID_ARGUMENT, "has dtype unknown"));
    in.dtype = EDGEKD_FLOAT32;
    in.data = reinterpret_cast<const char*>(x.data()) + 1;
    CHECK(says({edgekd_run(student.raw(), &in, 1, &out, 1)}, EDGEKD_INVALID_ARGUMENT, "is not aligned for float32"));
    CHECK(student.run(x, y));  // and none of that did harm

    edgekd_student* raw = nullptr;
    edgekd_port port;
    CHECK(says({edgekd_open(nullptr, nullptr, &raw)}, EDGEKD_INVALID_ARGUMENT, "folder is a null pointer"));
    CHECK(says({edgekd_open(bundle, nullptr, nullptr)}, EDGEKD_INVALID_ARGUMENT, "student is a null pointer"));
    CHECK(says({edgekd_open("/no/such/bundle", nullptr, &raw)}, EDGEKD_NOT_FOUND, "/no/such/bundle: not a bundle"));
    CHECK(says({edgekd_open_linked("nobody", nullptr, &raw)}, EDGEKD_NOT_FOUND, "no student \"nobody\" is linked; linked: "));
    CHECK(says({edgekd_open_linked(nullptr, nullptr, &raw)}, EDGEKD_INVALID_ARGUMENT, "name is a null pointer"));
    CHECK(says({edgekd_open_files(nullptr, 2, nullptr, &raw)}, EDGEKD_INVALID_ARGUMENT, "files are a null pointer"));
    CHECK(says({edgekd_open_files(nullptr, 0, nullptr, &raw)}, EDGEKD_NOT_FOUND, "no bundle.json"));
    CHECK(says({edgekd_input_port(student.raw(), 1, &port)}, EDGEKD_INVALID_ARGUMENT, "no input 1: the student has 1"));
    CHECK(says({edgekd_input_port(student.raw(), 0, nullptr)}, EDGEKD_INVALID_ARGUMENT, "port is a null pointer"));
    CHECK(says({edgekd_self_test(nullptr, 0, nullptr)}, EDGEKD_INVALID_ARGUMENT, "student is a null pointer"));
    CHECK(says(student.run_text("so", y), EDGEKD_INVALID_ARGUMENT, "the student takes no text"));
    CHECK(raw == nullptr && edgekd_input_count(nullptr) == 0 && edgekd_label_count(nullptr) == 0);
    CHECK(edgekd_constant(nullptr, nullptr, nullptr) == nullptr && edgekd_setting(nullptr, nullptr) == nullptr);
    edgekd_close(nullptr);
    edgekd_status copied = Student().run(x, y).raw;
    CHECK(copied.code == EDGEKD_INVALID_ARGUMENT);
}

void self_test(const char* bundle) {
    Student student = opened(bundle);
    edgekd::Report report{};
    CHECK(student.self_test(&report));
    CHECK(report.samples == 4 && report.top1 == 1.0 && report.difference <= 1e-4 && report.tolerance_absolute == 1e-4);
    CHECK(report.calls >= 5 && report.median > 0 && report.promised == 1e-9);
    CHECK(says(student.self_test(nullptr, 2.0), EDGEKD_SELF_TEST_FAILED, "too slow: median "));
    CHECK(student.self_test());
}

std::size_t resident_pages() {
    std::ifstream statm("/proc/self/statm");
    std::size_t whole = 0, resident = 0;
    statm >> whole >> resident;
    return resident;
}

void reopen(const char* bundle, int times) {
    Buffer x(64, 0.5f), y(5), first(5);
    std::size_t before = 0;
    for (int i = 0; i < times; ++i) {
        Student student = opened(bundle);
        CHECK(student.run(x, i == 0 ? first : y));
        CHECK(i == 0 || y == first);
        if (i == times / 4) before = resident_pages();
    }
    const std::size_t after = resident_pages();
    std::printf("pages %zu %zu\n", before, after);
    CHECK(after < before + before / 10 + 1000);
}

struct Held {
    std::string path;
    std::vector<unsigned char> bytes;
};

std::vector<Held> held(const char* bundle) {
    std::vector<Held> files;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(bundle)) {
        if (!entry.is_regular_file()) continue;
        std::ifstream stream(entry.path(), std::ios::binary);
        files.push_back({std::filesystem::relative(entry.path(), bundle).generic_string(),
                         {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()}});
    }
    return files;
}

edgekd::Status open_held(const std::vector<Held>& files, Student& student, const edgekd::Options& options = {}) {
    std::vector<edgekd::File> views;
    static const unsigned char nothing = 0;
    for (const Held& file : files) {
        const unsigned char* begin = file.bytes.empty() ? &nothing : file.bytes.data();
        views.push_back({file.path.c_str(), begin, begin + file.bytes.size()});
    }
    return student.open_files(views, options);
}

// The bundle cut at random places is refused at each; so are a file too many, and flipped bits.
void damaged(const char* bundle, int times) {
    const std::vector<Held> whole = held(bundle);
    std::mt19937 random(1);
    Student student;
    CHECK(open_held(whole, student));
    Buffer x(64, 0.5f), y(5), z(5);
    CHECK(student.run(x, y));
    CHECK(opened(bundle).run(x, z) && y == z);
    std::size_t total = 0;
    for (const Held& file : whole) total += file.bytes.size();
    for (int i = 0; i < times; ++i) {
        std::vector<Held> cut = whole;
        std::size_t at = std::uniform_int_distribution<std::size_t>(0, total - 1)(random);
        std::size_t file = 0;
        for (; at >= cut[file].bytes.size(); ++file) at -= cut[file].bytes.size();
        if (i % 2 == 0) cut[file].bytes.resize(at);
        else cut[file].bytes[at] = static_cast<unsigned char>(cut[file].bytes[at] ^ (1u << (i / 2 % 8)));
        const auto status = open_held(cut, student);
        if (i % 2 == 0 || cut[file].path != "bundle.json") CHECK(says(status, EDGEKD_DAMAGED, ""));
    }
    for (int i = 0; i < times; ++i) {  // the manifest has no digest of its own: its strict reader must hold
        std::vector<Held> cut = whole;
        for (Held& file : cut)
            if (file.path == "bundle.json")
                file.bytes.resize(std::uniform_int_distribution<std::size_t>(0, file.bytes.size() - 1)(random));
        CHECK(says(open_held(cut, student), EDGEKD_DAMAGED, "bundle.json is damaged: byte "));
    }
    std::vector<Held> more = whole;
    more.push_back({"extra", {1}});
    CHECK(says(open_held(more, student), EDGEKD_DAMAGED, "extra is not of the bundle"));
    more = whole;
    for (std::size_t i = 0; i < more.size(); ++i)
        if (more[i].path == "golden.npz") more.erase(more.begin() + static_cast<std::ptrdiff_t>(i--));
    CHECK(says(open_held(more, student), EDGEKD_DAMAGED, "golden.npz is missing"));
    CHECK(!student);
}

std::string text_of(const char* path) {
    std::ifstream stream(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// A signed bundle opens with its key only, and every change of what was signed, or of the signature, is refused.
void is_signed(const char* bundle, const char* key_file, const char* other_file) {
    const std::string key = text_of(key_file), other = text_of(other_file);
    edgekd::Options mine{}, theirs{}, none{};
    mine.public_key = key.c_str();
    theirs.public_key = other.c_str();
    none.public_key = "not a key";
    Student student;
    CHECK(student.open(bundle, mine));
    CHECK(student.open(bundle));
    CHECK(says(student.open(bundle, theirs), EDGEKD_WRONG_SIGNATURE, "is not one of key "));
    CHECK(says(student.open(bundle, none), EDGEKD_INVALID_ARGUMENT, "the public key is no Ed25519 key in PEM"));
    const std::vector<Held> whole = held(bundle);
    const auto with = [&](const char* path, auto change) {
        std::vector<Held> files = whole;
        for (std::size_t i = 0; i < files.size(); ++i)
            if (files[i].path == path && !change(files[i].bytes)) files.erase(files.begin() + static_cast<std::ptrdiff_t>(i--));
        return files;
    };
    const auto unsigned_one = with("bundle.sig", [](auto&) { return false; });
    CHECK(open_held(unsigned_one, student));
    CHECK(says(open_held(unsigned_one, student, mine), EDGEKD_WRONG_SIGNATURE, "it is not signed; key "));
    std::mt19937 random(2);
    for (const char* path : {"bundle.json", "bundle.sig"})
        for (int i = 0; i < 10; ++i) {
            const auto flipped = with(path, [&](std::vector<unsigned char>& bytes) {
                const std::size_t at = std::uniform_int_distribution<std::size_t>(0, bytes.size() - 1)(random);
                bytes[at] = static_cast<unsigned char>(bytes[at] ^ 1);
                return true;
            });
            const auto status = open_held(flipped, student, mine);
            if (path == std::string("bundle.json")) CHECK(says(status, EDGEKD_WRONG_SIGNATURE, "changed after it was signed"));
            else CHECK(status.code() == EDGEKD_WRONG_SIGNATURE || status.code() == EDGEKD_OK);  // white space, or the key's name
        }
    for (std::size_t size = 0; size < 200; size += 7)
        CHECK(says(open_held(with("bundle.sig", [&](auto& bytes) { return bytes.resize(size), true; }), student, mine),
                   EDGEKD_WRONG_SIGNATURE, ""));
    CHECK(says(open_held(with("golden.npz", [](auto& bytes) { return bytes[0] ^= 1, true; }), student, mine), EDGEKD_DAMAGED, "golden.npz was changed"));
}

// The bundle's own preprocessing: an image, bytes or floats, to the input; its output to classes.
void processes(const char* bundle) {
    Student student = opened(bundle);
    std::vector<std::uint8_t> pixels(16 * 12);
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i);
    const std::int64_t shape[] = {16, 12};
    Buffer x(64), y(5), small(63);
    CHECK(student.preprocess(edgekd::Input(pixels, shape), x));
    CHECK(student.run(x, y));
    edgekd::Class classes[5];
    std::size_t found = 0;
    CHECK(student.postprocess(y, classes, found));
    CHECK(found == 2 && classes[0].score >= classes[1].score && classes[0].label != nullptr);
    CHECK(says(student.preprocess(edgekd::Input(pixels, shape), small), EDGEKD_INVALID_ARGUMENT, "\"x\" takes 64 values of float32"));
    CHECK(says(student.preprocess(pixels, x), EDGEKD_INVALID_ARGUMENT, "the image has 192 values, its shape says 64"));
    CHECK(says(student.preprocess(std::vector<double>(64), x), EDGEKD_INVALID_ARGUMENT, "the raw data are float64, not uint8 or float32"));
    CHECK(says({edgekd_preprocess(nullptr, nullptr, nullptr)}, EDGEKD_INVALID_ARGUMENT, "student is a null pointer"));
    CHECK(says({edgekd_preprocess(student.raw(), nullptr, nullptr)}, EDGEKD_INVALID_ARGUMENT, "raw is a null pointer"));
    CHECK(says({edgekd_postprocess(student.raw(), nullptr, classes, &found)}, EDGEKD_INVALID_ARGUMENT, "output is a null pointer"));
    CHECK(says(student.postprocess(small, classes, found), EDGEKD_INVALID_ARGUMENT, "the output has 63 values for 5 labels"));
    CHECK(found == 0);
}

// A bundle with a dynamic batch: x [batch, 1, 8, 8] -> y [batch, 5].
void batches(const char* bundle) {
    Student student = opened(bundle);
    CHECK(student.input().shape[0] == -1 && student.input().count == 0);
    Buffer x(3 * 64), y(3 * 5), one(5), wrong(10);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 17) / 17;
    CHECK(student.run(x, y));
    for (std::size_t i = 0; i < 3; ++i) {
        CHECK(student.run(edgekd::Span<const float>(x.data() + 64 * i, 64), one));
        for (std::size_t k = 0; k < 5; ++k) CHECK(std::abs(one[k] - y[5 * i + k]) < 1e-5f);
    }
    CHECK(says(student.run(x, wrong), EDGEKD_INVALID_ARGUMENT, "output \"y\" has 10 elements; the student's is [any, 5]"));
    CHECK(says(student.run(Buffer(65), one), EDGEKD_INVALID_ARGUMENT, "input \"x\" has 65 elements"));
    const std::int64_t four[] = {4, 1, 8, 8}, three[] = {3, 1, 8, 8}, none[] = {0, 1, 8, 8};
    CHECK(student.run({edgekd::Input(x, three)}, {y}));
    CHECK(says(student.run({edgekd::Input(x, four)}, {y}), EDGEKD_INVALID_ARGUMENT, "has shape [4, 1, 8, 8]"));
    CHECK(says(student.run({edgekd::Input(x, none)}, {y}), EDGEKD_INVALID_ARGUMENT, "has shape [0, 1, 8, 8]"));
}

// The test's student of text: input_ids, attention_mask, token_type_ids int64[1, 12] -> y float32[1, 5]. What it makes of a text,
// and of two, is printed for Python to compare.
void reads(const char* bundle) {
    Student student = opened(bundle);
    using Ids = std::array<std::int64_t, 12>;
    constexpr std::string_view kText = "Hello, World!", kPair = "the unaffable caf\xc3\xa9";
    std::array<Ids, 4> at_once{};  // the first texts come at once: the vocabulary is read once
    std::array<bool, 4> read{};
    std::vector<std::thread> readers;
    for (std::size_t i = 0; i < 4; ++i)
        readers.emplace_back([&, i] {
            Ids mask{}, types{};
            std::size_t length = 0;
            read[i] = student.tokenize(kText, {at_once[i], mask, types}, length) && length == 12;
        });
    for (std::thread& one : readers) one.join();
    for (std::size_t i = 0; i < 4; ++i) CHECK(read[i] && at_once[i] == at_once[0]);
    Ids ids{}, mask{}, types{};
    std::size_t length = 0;
    const auto print = [](const char* name, const auto& values) {
        std::printf("%s", name);
        for (const auto value : values) std::printf(" %.9g", static_cast<double>(value));
        std::printf("\n");
    };
    CHECK(student.tokenize(kText, {ids, mask, types}, length, kPair));
    print("ids", ids);
    print("mask", mask);
    print("types", types);
    Buffer y(5), z(5), small(4);
    CHECK(student.run_text(kText, y));
    print("one", y);
    CHECK(student.run_text(kText, {z}, kPair));
    print("two", z);
    CHECK(student.run_text("", z) && student.run_text(std::string("\0\xff", 2), y) && y == z);  // nothing is left of either
    CHECK(student.run(std::initializer_list<edgekd::Input>{ids, mask, types}, {y}));
    edgekd::Report report{};
    CHECK(student.self_test(&report) && report.samples == 4);

    std::array<std::int64_t, 11> short_one{};
    std::array<std::int32_t, 12> narrow{};
    CHECK(says(student.tokenize(kText, {ids, mask, short_one}, length), EDGEKD_INVALID_ARGUMENT, "\"token_type_ids\" takes 12 values of int64; room was given for 11"));
    CHECK(length == 12);
    CHECK(says(student.tokenize(kText, {ids, mask, narrow}, length), EDGEKD_INVALID_ARGUMENT, "room was given for 12 of int32"));
    CHECK(says(student.tokenize(kText, {ids, mask}, length), EDGEKD_INVALID_ARGUMENT, "the student has 3 input(s), got 2"));
    edgekd_tensor none[] = {{nullptr, 12, EDGEKD_INT64, nullptr, 0}, {mask.data(), 12, EDGEKD_INT64, nullptr, 0}, {types.data(), 12, EDGEKD_INT64, nullptr, 0}};
    CHECK(says({edgekd_tokenize(student.raw(), "a", 1, nullptr, 0, none, 3, &length)}, EDGEKD_INVALID_ARGUMENT, "\"input_ids\" is a null pointer"));
    CHECK(says({edgekd_tokenize(student.raw(), nullptr, 0, nullptr, 0, none, 3, &length)}, EDGEKD_INVALID_ARGUMENT, "text is a null pointer"));
    CHECK(says({edgekd_tokenize(student.raw(), "a", 1, nullptr, 0, nullptr, 3, &length)}, EDGEKD_INVALID_ARGUMENT, "inputs is a null pointer"));
    CHECK(says({edgekd_tokenize(student.raw(), "a", 1, nullptr, 0, none, 3, nullptr)}, EDGEKD_INVALID_ARGUMENT, "length is a null pointer"));
    CHECK(says({edgekd_tokenize(nullptr, "a", 1, nullptr, 0, none, 3, &length)}, EDGEKD_INVALID_ARGUMENT, "student is a null pointer"));
    CHECK(says({edgekd_run_text(nullptr, "a", 1, nullptr, 0, nullptr, 0)}, EDGEKD_INVALID_ARGUMENT, "student is a null pointer"));
    CHECK(says(student.run_text("a", small), EDGEKD_INVALID_ARGUMENT, "output \"y\" has 4 elements; the student's is [1, 5]"));
    CHECK(says(student.preprocess(std::vector<std::uint8_t>(4), ids), EDGEKD_INVALID_ARGUMENT, "the student takes text: edgekd_tokenize"));
}

// A kernel that raises where x begins above 1: its error is the call's, and the next call is none the worse.
void raises(const char* bundle) {
    Student student = opened(bundle);
    Buffer x(64), y(5);
    for (int i = 0; i < 3; ++i) {
        x[0] = 1;
        CHECK(student.run(x, y));
        CHECK(y[0] == 1 && y[1] == 0);
        x[0] = 2;
        CHECK(says(student.run(x, y), EDGEKD_RUNTIME_FAILED, "raised on purpose"));
    }
}

// Open with what the environment and the options say, and print what came of it.
int open_only(const char* bundle, bool any_version) {
    Student student;
    edgekd::Options options{};
    options.any_version = any_version ? 1 : 0;
    const auto status = student.open(bundle, options);
    std::printf("%d %s\n", static_cast<int>(status.code()), status ? student.runtime_version() : status.message());
    return 0;
}

}  // namespace

int main(int count, char** words) {
    if (count < 3) return 2;
    const std::string what = words[1];
    const char* bundle = words[2];
    const int times = count > 3 ? std::atoi(words[3]) : 100;
    if (what == "metadata") metadata(bundle);
    else if (what == "wrong_calls") wrong_calls(bundle);
    else if (what == "self_test") self_test(bundle);
    else if (what == "reopen") reopen(bundle, times);
    else if (what == "damaged") damaged(bundle, times);
    else if (what == "batches") batches(bundle);
    else if (what == "signed" && count == 5) is_signed(bundle, words[3], words[4]);
    else if (what == "processes") processes(bundle);
    else if (what == "reads") reads(bundle);
    else if (what == "raises") raises(bundle);
    else if (what == "open") return open_only(bundle, count > 3);
    else return 2;
    return failures == 0 ? 0 : 1;
}
