/* edgekd.h: open a bundle, run the student in it, and check it against what was promised. C99.
 *
 * Every function may be called with a null pointer: it answers with a status code, or with NULL or 0. Nothing here throws.
 * One student may be used from several threads: its calls take turns. To run in parallel, open the bundle once a thread.
 * After the first call with the same buffers edgekd_run allocates nothing; what the runtime does inside is its own.
 * C++17 has the same with types in edgekd/student.hpp. */
#ifndef EDGEKD_EDGEKD_H
#define EDGEKD_EDGEKD_H

#include <stddef.h>
#include <stdint.h>

#define EDGEKD_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#define EDGEKD_NOEXCEPT noexcept
#else
#define EDGEKD_NOEXCEPT
#endif

/* The bundle format that this library reads. */
#define EDGEKD_BUNDLE_FORMAT 1

/* What came of a call. */
typedef enum edgekd_code {
    EDGEKD_OK = 0,
    EDGEKD_INVALID_ARGUMENT = 1, /* a null pointer, or a wrong count, shape, dtype or alignment */
    EDGEKD_NOT_FOUND = 2,        /* no such bundle, or no student linked under this name */
    EDGEKD_DAMAGED = 3,          /* a file of the bundle is missing, changed or not what it should be */
    EDGEKD_NEWER_FORMAT = 4,     /* the bundle was written by an edgekd that this library does not know */
    EDGEKD_NO_RUNTIME = 5,       /* the runtime's library cannot be loaded, or its session was not linked */
    EDGEKD_OTHER_RUNTIME = 6,    /* the runtime is older than the one that the bundle was compiled with */
    EDGEKD_RUNTIME_FAILED = 7,   /* the runtime refused the engine or the call; its words are in the message */
    EDGEKD_SELF_TEST_FAILED = 8, /* it runs, but not as promised; the message says where */
    EDGEKD_OUT_OF_MEMORY = 9,
    EDGEKD_INTERNAL = 10, /* a defect of edgekd */
    EDGEKD_WRONG_SIGNATURE = 11 /* the bundle is not signed by the key that was asked for */
} edgekd_code;

#define EDGEKD_MESSAGE_BYTES 1020

/* A code and, unless it is EDGEKD_OK, what went wrong, where and how to mend it. Owns nothing. */
typedef struct edgekd_status {
    edgekd_code code;
    char message[EDGEKD_MESSAGE_BYTES]; /* ends with a zero; cut short where too long */
} edgekd_status;

/* The type of a tensor's elements. */
typedef enum edgekd_dtype {
    EDGEKD_FLOAT32 = 1,
    EDGEKD_FLOAT64 = 2,
    EDGEKD_FLOAT16 = 3, /* IEEE 754 binary16 in a uint16_t */
    EDGEKD_INT8 = 4,
    EDGEKD_UINT8 = 5,
    EDGEKD_INT16 = 6,
    EDGEKD_UINT16 = 7,
    EDGEKD_INT32 = 8,
    EDGEKD_UINT32 = 9,
    EDGEKD_INT64 = 10,
    EDGEKD_UINT64 = 11,
    EDGEKD_BOOL = 12 /* one byte, 0 or 1 */
} edgekd_dtype;

/* "float32" and so on; "unknown" for a value that is no dtype. */
EDGEKD_API const char *edgekd_dtype_name(edgekd_dtype dtype) EDGEKD_NOEXCEPT;
/* Bytes of one element; 0 for a value that is no dtype. */
EDGEKD_API size_t edgekd_dtype_bytes(edgekd_dtype dtype) EDGEKD_NOEXCEPT;

/* An opened bundle. */
typedef struct edgekd_student edgekd_student;

/* How to open one; all zero, or NULL in place of a pointer to it, is the default. */
typedef struct edgekd_options {
    int threads;         /* threads of one call; 0: as many as the engine was compiled and measured for */
    const char *runtime; /* the runtime's library, or the folder that holds it; NULL: looked for, see cmake/README.md */
    int any_version;     /* not 0: take a runtime that is older than the one that the bundle was compiled with */
    const char *public_key; /* PEM text of the key that must have signed the bundle; NULL: the linked one, or nobody's */
} edgekd_options;

/* One file of a bundle in memory: its path inside the bundle, and its bytes from begin to before end. */
typedef struct edgekd_file {
    const char *path;
    const unsigned char *begin;
    const unsigned char *end;
} edgekd_file;

/* Open the bundle in a folder. Every file is checked against its digest first; nothing in the bundle is run as code.
 * On success *student is to be closed with edgekd_close; otherwise it is NULL. */
EDGEKD_API edgekd_status edgekd_open(const char *folder, const edgekd_options *options,
                                     edgekd_student **student) EDGEKD_NOEXCEPT;
/* Open the bundle that CMake's edgekd_add_student(name ...) linked into this program, embedded or by its folder. */
EDGEKD_API edgekd_status edgekd_open_linked(const char *name, const edgekd_options *options,
                                            edgekd_student **student) EDGEKD_NOEXCEPT;
/* Open a bundle whose files are in memory. They are read here only: the memory may go afterwards. */
EDGEKD_API edgekd_status edgekd_open_files(const edgekd_file *files, size_t count, const edgekd_options *options,
                                           edgekd_student **student) EDGEKD_NOEXCEPT;
/* Let go of it; NULL is taken. No other thread may be using it. */
EDGEKD_API void edgekd_close(edgekd_student *student) EDGEKD_NOEXCEPT;

/* One input or output. The pointers live as long as the student. */
typedef struct edgekd_port {
    const char *name;
    edgekd_dtype dtype;
    size_t rank;
    const int64_t *shape; /* rank sizes; -1 for a dynamic one */
    size_t count;         /* elements; 0 if a size is dynamic */
} edgekd_port;

EDGEKD_API size_t edgekd_input_count(const edgekd_student *student) EDGEKD_NOEXCEPT;
EDGEKD_API size_t edgekd_output_count(const edgekd_student *student) EDGEKD_NOEXCEPT;
EDGEKD_API edgekd_status edgekd_input_port(const edgekd_student *student, size_t index,
                                           edgekd_port *port) EDGEKD_NOEXCEPT;
EDGEKD_API edgekd_status edgekd_output_port(const edgekd_student *student, size_t index,
                                            edgekd_port *port) EDGEKD_NOEXCEPT;

/* Names of the classes, in the order of the outputs; NULL beyond the last. */
EDGEKD_API size_t edgekd_label_count(const edgekd_student *student) EDGEKD_NOEXCEPT;
EDGEKD_API const char *edgekd_label(const edgekd_student *student, size_t index) EDGEKD_NOEXCEPT;

/* A number, or list of numbers, of the preprocessing: "mean", "std"; inside an object by dots: "crop.size".
 * NULL and *count 0 if there is none. Lives as long as the student. */
EDGEKD_API const double *edgekd_constant(const edgekd_student *student, const char *key, size_t *count) EDGEKD_NOEXCEPT;
/* A text of the preprocessing: "layout"; NULL if there is none. */
EDGEKD_API const char *edgekd_setting(const edgekd_student *student, const char *key) EDGEKD_NOEXCEPT;

/* Name of the recipe, backend of the engine, version of the runtime that was loaded. NULL for a null student. */
EDGEKD_API const char *edgekd_name(const edgekd_student *student) EDGEKD_NOEXCEPT;
EDGEKD_API const char *edgekd_backend(const edgekd_student *student) EDGEKD_NOEXCEPT;
EDGEKD_API const char *edgekd_runtime_version(const edgekd_student *student) EDGEKD_NOEXCEPT;

/* A tensor to read: `count` elements, contiguous, last dimension fastest. `shape` may be NULL where `count` alone
 * tells it: no size is dynamic, or one. */
typedef struct edgekd_const_tensor {
    const void *data;
    size_t count;
    edgekd_dtype dtype;
    const int64_t *shape;
    size_t rank; /* of `shape`; not looked at where that is NULL */
} edgekd_const_tensor;

/* A tensor to write. */
typedef struct edgekd_tensor {
    void *data;
    size_t count;
    edgekd_dtype dtype;
    const int64_t *shape;
    size_t rank;
} edgekd_tensor;

/* Compute the outputs for the inputs, both in the order of the ports. Nothing is copied where the runtime can read and
 * write the given memory; cmake/README.md says where one cannot. Inputs and outputs may not overlap. */
EDGEKD_API edgekd_status edgekd_run(edgekd_student *student, const edgekd_const_tensor *inputs, size_t input_count,
                                    const edgekd_tensor *outputs, size_t output_count) EDGEKD_NOEXCEPT;

/* Raw data to the student's input, as the bundle's preprocessing says: resized, cropped, scaled, normalised, laid out; or
 * framed, mel-filtered. `raw` is an image, uint8 or float32, [height, width] or [height, width, channels] (without a shape:
 * of the input's own size), or a sound, int16 or float32, [samples]. Gives what edgekd.load(…).preprocess(raw) gives in
 * Python: to the bit in integers, within one unit in the last place in floats. EDGEKD_INVALID_ARGUMENT where it does not
 * become the input's shape, or a setting is one that edgekd does not apply. Takes no turn: threads prepare side by side. */
EDGEKD_API edgekd_status edgekd_preprocess(const edgekd_student *student, const edgekd_const_tensor *raw,
                                           const edgekd_tensor *input) EDGEKD_NOEXCEPT;

/* Text, UTF-8, to the inputs of a student whose bundle carries a WordPiece tokenizer: numbers, mask and types, as
 * edgekd.load(…).tokenize(text) gives them in Python, to the bit. `pair`: a second text, read with the first; NULL for one
 * alone. `inputs` are in the order of the ports, each with room for `*length` numbers, which is the input's own length or,
 * where that is dynamic, the text's: with room for fewer the answer is EDGEKD_INVALID_ARGUMENT, and *length says how many.
 * What is not UTF-8 is left out. The first text of a student is when its vocabulary is read. Takes no turn. */
EDGEKD_API edgekd_status edgekd_tokenize(const edgekd_student *student, const char *text, size_t text_bytes,
                                         const char *pair, size_t pair_bytes, const edgekd_tensor *inputs,
                                         size_t input_count, size_t *length) EDGEKD_NOEXCEPT;
/* The outputs for a text, or for two: edgekd_tokenize, then edgekd_run. Allocates what it makes of the text. */
EDGEKD_API edgekd_status edgekd_run_text(edgekd_student *student, const char *text, size_t text_bytes,
                                         const char *pair, size_t pair_bytes, const edgekd_tensor *outputs,
                                         size_t output_count) EDGEKD_NOEXCEPT;

/* One answer. */
typedef struct edgekd_class {
    size_t index;
    float score;
    const char *label; /* NULL where classes have no names; lives as long as the student */
} edgekd_class;

/* The classes that the student's first output names, the largest first, as the bundle's postprocessing says: soft-max or
 * sigmoid, threshold, how many. `*count` is the room in `classes`, then how many were written. */
EDGEKD_API edgekd_status edgekd_postprocess(const edgekd_student *student, const edgekd_const_tensor *output,
                                            edgekd_class *classes, size_t *count) EDGEKD_NOEXCEPT;

/* What edgekd_self_test found. Times are in seconds. */
typedef struct edgekd_report {
    size_t samples;            /* golden samples in the bundle */
    double top1;               /* share of them whose largest output is the golden one's */
    double difference;         /* largest |output - golden output| */
    double tolerance_top1;     /* what the bundle asks: at least */
    double tolerance_absolute; /* and at most */
    size_t calls;              /* timed calls */
    double median;             /* of their times */
    double promised;           /* median that was measured on the target; 0: none is in the bundle */
} edgekd_report;

/* Run the bundle's golden inputs and compare with its golden outputs; then time some calls. EDGEKD_SELF_TEST_FAILED if
 * the outputs are outside the bundle's tolerance, or, where `slowdown` is above 0, if the median is above `slowdown`
 * times the promised one. `report` may be NULL; it is filled in either way. */
EDGEKD_API edgekd_status edgekd_self_test(edgekd_student *student, double slowdown,
                                          edgekd_report *report) EDGEKD_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
