/* linked.h: how the source that edgekd_add_student writes tells the library which bundle and runtime were linked. */
#ifndef EDGEKD_LINKED_H
#define EDGEKD_LINKED_H

#include <edgekd/edgekd.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A runtime's session: one src/session_<backend>.cpp defines `edgekd_<backend>`. */
typedef struct edgekd_runtime edgekd_runtime;

/* One linked student. `folder` is NULL where its files are embedded. */
typedef struct edgekd_linked {
    const char *name;              /* NULL: only the runtime is linked, as in edgekd-bench */
    const char *folder;            /* of the bundle, as CMake saw it */
    const edgekd_file *files;      /* embedded files */
    size_t count;                  /* of those */
    const edgekd_runtime *runtime; /* the session of the bundle's engine */
    const char *library;           /* the runtime's library that CMake found; NULL: none */
    const char *public_key;        /* PEM text of the key that must have signed it; NULL: nobody's */
    struct edgekd_linked *next;    /* the library's own */
} edgekd_linked;

/* Make `linked` known; it must live as long as the program. */
EDGEKD_API void edgekd_link(edgekd_linked *linked) EDGEKD_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
