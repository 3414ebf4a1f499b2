/* plain [BUNDLE]: the C API. Opens the linked bundle, or another of the same backend, checks it and says what is in it. */
#include <edgekd/edgekd.h>

#include <stdio.h>
#include <stdlib.h>

int main(int count, char **words) {
    edgekd_student *student = NULL;
    edgekd_status status = count > 1 ? edgekd_open(words[1], NULL, &student) : edgekd_open_linked("second", NULL, &student);
    if (status.code != EDGEKD_OK) {
        fprintf(stderr, "error %d: %s\n", (int)status.code, status.message);
        return 1;
    }

    edgekd_port in, out;
    edgekd_report report;
    int code = 1;
    void *input = NULL, *output = NULL;
    status = edgekd_input_port(student, 0, &in);
    if (status.code == EDGEKD_OK) status = edgekd_output_port(student, 0, &out);
    if (status.code == EDGEKD_OK) {
        input = calloc(in.count, edgekd_dtype_bytes(in.dtype));
        output = calloc(out.count, edgekd_dtype_bytes(out.dtype));
        const edgekd_const_tensor given = {input, in.count, in.dtype, NULL, 0};
        const edgekd_tensor taken = {output, out.count, out.dtype, NULL, 0};
        status = edgekd_run(student, &given, 1, &taken, 1);
    }
    if (status.code == EDGEKD_OK) status = edgekd_self_test(student, 0, &report);
    if (status.code == EDGEKD_OK) {
        printf("%s on %s %s: %s %s[%zu] -> %s %s[%zu], %zu labels\n", edgekd_name(student), edgekd_backend(student),
               edgekd_runtime_version(student), in.name, edgekd_dtype_name(in.dtype), in.count, out.name,
               edgekd_dtype_name(out.dtype), out.count, edgekd_label_count(student));
        printf("%zu golden samples: largest difference %g, median %g s\n", report.samples, report.difference, report.median);
        code = 0;
    } else {
        fprintf(stderr, "error %d: %s\n", (int)status.code, status.message);
    }
    free(output);
    free(input);
    edgekd_close(student);
    return code;
}
