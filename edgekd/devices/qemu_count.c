/* A plugin of qemu's user mode: the instructions that a program runs between two marks, written to a file at the second.
 *
 * A mark is a system call whose first argument is MARK and whose second is 1 or 2: cmake/src/machine.cpp makes them, and a
 * kernel refuses them. Instructions of all threads count.
 *
 * What is declared here is of QEMU's include/qemu/qemu-plugin.h, by names and places that do not change between versions.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SHOWN __attribute__((visibility("default")))
#define MARK 0x65646b64

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_info;

extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
extern void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, void (*call)(qemu_plugin_id_t, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *tb, void (*call)(unsigned int, void *), int flags, void *data);
extern void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id,
                                                 void (*call)(qemu_plugin_id_t, unsigned int, int64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));

SHOWN int qemu_plugin_version = INTERFACE;

static uint64_t count, before;
static char out[4096];

static void ran(unsigned int cpu, void *data) {
    (void)cpu;
    __atomic_fetch_add(&count, (uint64_t)(uintptr_t)data, __ATOMIC_RELAXED);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    (void)id;
    qemu_plugin_register_vcpu_tb_exec_cb(tb, ran, 0, (void *)(uintptr_t)qemu_plugin_tb_n_insns(tb));
}

static void called(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                   uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)number, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if ((uint32_t)a1 != MARK) return;
    if (a2 == 1) before = __atomic_load_n(&count, __ATOMIC_RELAXED);
    if (a2 != 2) return;
    FILE *file = fopen(out, "w");
    if (file == NULL) return;
    fprintf(file, "%" PRIu64 "\n", __atomic_load_n(&count, __ATOMIC_RELAXED) - before);
    fclose(file);
}

SHOWN int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; ++i)
        if (strncmp(argv[i], "out=", 4) == 0 && strlen(argv[i] + 4) < sizeof out) strcpy(out, argv[i] + 4);
    if (out[0] == '\0') return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
    qemu_plugin_register_vcpu_syscall_cb(id, called);
    return 0;
}
