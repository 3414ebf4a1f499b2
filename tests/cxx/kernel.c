/* kernel LIBRARY SYMBOL SIZE...: call one kernel of an engine that TVM compiled, as its virtual machine would, without TVM.
   Tensors are float vectors of so many elements each, which are read from stdin one behind the other; the last is written to
   stdout. A kernel looks at a tensor's shape, so the shapes stand behind the sizes: 1x3x6x6. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST = 8, ROOM = 1 << 16, TENSOR = 7 }; /* TENSOR: kTVMFFIDLTensorPtr */

typedef struct { /* DLTensor */
    void *data;
    int32_t device, device_id, rank;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
} Tensor;

typedef struct { /* TVMFFIAny */
    int32_t type;
    uint32_t zero;
    union {
        int64_t whole;
        void *pointer;
    } value;
} Any;

typedef int (*Kernel)(void *self, const Any *arguments, int32_t count, Any *result);

/* What a kernel tells TVM where its arguments are wrong. */
void TVMFFIErrorSetRaisedFromCStrParts(const char *kind, const char **parts, int32_t count) {
    for (int32_t i = 0; i < count; ++i) fputs(parts[i], stderr);
    fprintf(stderr, " (%s)\n", kind);
}

static _Alignas(64) float held[MOST][ROOM];

int main(int count, char **words) {
    static int64_t shapes[MOST][MOST];
    static Tensor tensors[MOST];
    static Any arguments[MOST], result;
    void *library = count > 3 ? dlopen(words[1], RTLD_NOW) : NULL;
    Kernel kernel = library ? (Kernel)dlsym(library, words[2]) : NULL;
    if (!kernel) return fprintf(stderr, "%s\n", dlerror()), 2;
    const int given = count - 3;
    size_t last = 0;
    for (int i = 0; i < given; ++i) {
        Tensor *tensor = &tensors[i];
        size_t size = 1;
        char *next = words[i + 3];
        for (tensor->rank = 0; *next; ++tensor->rank) {
            const int64_t length = shapes[i][tensor->rank] = strtol(next, &next, 10);
            size *= (size_t)length;
            next += *next == 'x';
        }
        *tensor = (Tensor){held[i], 1, 0, tensor->rank, 2, 32, 1, shapes[i], NULL, 0};
        arguments[i] = (Any){.type = TENSOR, .value.pointer = tensor};
        if (i + 1 < given && fread(held[i], sizeof(float), size, stdin) != size) return 3;
        last = size;
    }
    if (kernel(NULL, arguments, given, &result) != 0) return 4;
    return fwrite(held[given - 1], sizeof(float), last, stdout) == last ? 0 : 5;
}
