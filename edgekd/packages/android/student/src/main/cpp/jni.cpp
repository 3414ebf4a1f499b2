// The functions of dev.edgekd.Native over the C API. Text crosses as UTF-8 bytes: JNI's own encoding is another.
#include <edgekd/edgekd.h>

#include <jni.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace {

edgekd_student* student_of(jlong handle) { return reinterpret_cast<edgekd_student*>(static_cast<std::intptr_t>(handle)); }

// Text as bytes; null for null.
jbyteArray bytes(JNIEnv* env, const char* text) {
    if (text == nullptr) return nullptr;
    const auto size = static_cast<jsize>(std::strlen(text));
    jbyteArray made = env->NewByteArray(size);
    if (made != nullptr) env->SetByteArrayRegion(made, 0, size, reinterpret_cast<const jbyte*>(text));
    return made;
}

std::string text(JNIEnv* env, jbyteArray given) {
    std::string found(static_cast<std::size_t>(env->GetArrayLength(given)), '\0');
    env->GetByteArrayRegion(given, 0, static_cast<jsize>(found.size()), reinterpret_cast<jbyte*>(found.data()));
    return found;
}

// Make a failure an exception; whether there was one.
bool thrown(JNIEnv* env, const edgekd_status& status) {
    if (status.code == EDGEKD_OK) return false;
    const jclass kind = env->FindClass("dev/edgekd/StudentException");
    const jmethodID make = kind != nullptr ? env->GetMethodID(kind, "<init>", "(I[B)V") : nullptr;
    const jbyteArray message = make != nullptr ? bytes(env, status.message) : nullptr;
    if (message == nullptr) return true;  // the machine has thrown for us
    jobject made = env->NewObject(kind, make, static_cast<jint>(status.code), message);
    if (made != nullptr) env->Throw(static_cast<jthrowable>(made));
    return true;
}

bool wrong(JNIEnv* env, const char* message) {
    edgekd_status status{EDGEKD_INVALID_ARGUMENT, {}};
    std::strncpy(status.message, message, sizeof status.message - 1);
    return thrown(env, status);
}

edgekd_status port_of(jlong handle, jboolean input, jint index, edgekd_port& port) {
    const auto at = static_cast<std::size_t>(index);
    return input != JNI_FALSE ? edgekd_input_port(student_of(handle), at, &port) : edgekd_output_port(student_of(handle), at, &port);
}

// Direct buffers as tensors of the ports' types; false, and an exception, for a buffer that is none.
template <class Tensor>
bool tensors(JNIEnv* env, jlong handle, jboolean input, jobjectArray given, std::vector<Tensor>& made) {
    const jsize count = env->GetArrayLength(given);
    for (jsize i = 0; i < count; ++i) {
        edgekd_port port{};
        if (thrown(env, port_of(handle, input, i, port))) return false;
        jobject buffer = env->GetObjectArrayElement(given, i);
        void* data = buffer != nullptr ? env->GetDirectBufferAddress(buffer) : nullptr;
        const jlong size = buffer != nullptr ? env->GetDirectBufferCapacity(buffer) : -1;
        env->DeleteLocalRef(buffer);
        const std::size_t element = edgekd_dtype_bytes(port.dtype);
        if (data == nullptr || size < 0) return !wrong(env, "a tensor is no direct ByteBuffer");
        if (static_cast<std::size_t>(size) % element != 0) return !wrong(env, "a buffer ends inside an element");
        Tensor tensor{};
        tensor.data = data;
        tensor.count = static_cast<std::size_t>(size) / element;
        tensor.dtype = port.dtype;
        made.push_back(tensor);
    }
    return true;
}

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL Java_dev_edgekd_Native_open(JNIEnv* env, jobject, jbyteArray folder, jbyteArray runtime, jint threads,
                                                    jboolean any_version) {
    const std::string said = runtime != nullptr ? text(env, runtime) : "";
    const std::string where = folder != nullptr ? text(env, folder) : "";
    edgekd_options options{};
    options.threads = threads;
    options.runtime = runtime != nullptr ? said.c_str() : nullptr;
    options.any_version = any_version != JNI_FALSE ? 1 : 0;
    edgekd_student* student = nullptr;
    if (thrown(env, folder != nullptr ? edgekd_open(where.c_str(), &options, &student)
                                      : edgekd_open_linked("student", &options, &student)))
        return 0;
    return static_cast<jlong>(reinterpret_cast<std::intptr_t>(student));
}

JNIEXPORT void JNICALL Java_dev_edgekd_Native_close(JNIEnv*, jobject, jlong handle) { edgekd_close(student_of(handle)); }

JNIEXPORT jint JNICALL Java_dev_edgekd_Native_count(JNIEnv*, jobject, jlong handle, jboolean input) {
    return static_cast<jint>(input != JNI_FALSE ? edgekd_input_count(student_of(handle)) : edgekd_output_count(student_of(handle)));
}

JNIEXPORT jbyteArray JNICALL Java_dev_edgekd_Native_portName(JNIEnv* env, jobject, jlong handle, jboolean input, jint index) {
    edgekd_port port{};
    return thrown(env, port_of(handle, input, index, port)) ? nullptr : bytes(env, port.name);
}

JNIEXPORT jbyteArray JNICALL Java_dev_edgekd_Native_portDtype(JNIEnv* env, jobject, jlong handle, jboolean input, jint index) {
    edgekd_port port{};
    return thrown(env, port_of(handle, input, index, port)) ? nullptr : bytes(env, edgekd_dtype_name(port.dtype));
}

JNIEXPORT jlongArray JNICALL Java_dev_edgekd_Native_portShape(JNIEnv* env, jobject, jlong handle, jboolean input, jint index) {
    edgekd_port port{};
    if (thrown(env, port_of(handle, input, index, port))) return nullptr;
    const std::vector<jlong> sizes(port.shape, port.shape + port.rank);
    jlongArray made = env->NewLongArray(static_cast<jsize>(sizes.size()));
    if (made != nullptr) env->SetLongArrayRegion(made, 0, static_cast<jsize>(sizes.size()), sizes.data());
    return made;
}

JNIEXPORT jbyteArray JNICALL Java_dev_edgekd_Native_label(JNIEnv* env, jobject, jlong handle, jint index) {
    return bytes(env, index >= 0 ? edgekd_label(student_of(handle), static_cast<std::size_t>(index)) : nullptr);
}

JNIEXPORT jbyteArray JNICALL Java_dev_edgekd_Native_name(JNIEnv* env, jobject, jlong handle) {
    return bytes(env, edgekd_name(student_of(handle)));
}

JNIEXPORT jbyteArray JNICALL Java_dev_edgekd_Native_backend(JNIEnv* env, jobject, jlong handle) {
    return bytes(env, edgekd_backend(student_of(handle)));
}

JNIEXPORT jbyteArray JNICALL Java_dev_edgekd_Native_runtimeVersion(JNIEnv* env, jobject, jlong handle) {
    return bytes(env, edgekd_runtime_version(student_of(handle)));
}

JNIEXPORT jdoubleArray JNICALL Java_dev_edgekd_Native_constant(JNIEnv* env, jobject, jlong handle, jbyteArray key) {
    std::size_t count = 0;
    const double* found = edgekd_constant(student_of(handle), text(env, key).c_str(), &count);
    jdoubleArray made = env->NewDoubleArray(static_cast<jsize>(count));
    if (made != nullptr && count != 0) env->SetDoubleArrayRegion(made, 0, static_cast<jsize>(count), found);
    return made;
}

JNIEXPORT void JNICALL Java_dev_edgekd_Native_run(JNIEnv* env, jobject, jlong handle, jobjectArray inputs, jobjectArray outputs) {
    std::vector<edgekd_const_tensor> given;
    std::vector<edgekd_tensor> taken;
    if (tensors(env, handle, JNI_TRUE, inputs, given) && tensors(env, handle, JNI_FALSE, outputs, taken))
        thrown(env, edgekd_run(student_of(handle), given.data(), given.size(), taken.data(), taken.size()));
}

// Fills `numbers` in the order of Report's fields; the reason why not, or null if all is as promised.
JNIEXPORT jbyteArray JNICALL Java_dev_edgekd_Native_selfTest(JNIEnv* env, jobject, jlong handle, jdouble slowdown,
                                                             jdoubleArray numbers) {
    edgekd_report report{};
    const edgekd_status status = edgekd_self_test(student_of(handle), slowdown, &report);
    if (status.code != EDGEKD_SELF_TEST_FAILED && thrown(env, status)) return nullptr;
    const jdouble found[] = {static_cast<jdouble>(report.samples), report.top1,   report.difference,
                             report.tolerance_top1,                report.tolerance_absolute,
                             static_cast<jdouble>(report.calls),   report.median, report.promised};
    env->SetDoubleArrayRegion(numbers, 0, 8, found);
    return status.code == EDGEKD_OK ? nullptr : bytes(env, status.message);
}

}  // extern "C"
