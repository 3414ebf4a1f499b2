// The part of ONNX Runtime's C API that a session needs, declared here because its wheels carry the library without headers.
//
// OrtGetApiBase()->GetApi(n) gives a table of functions. Its order is fixed: ONNX Runtime only ever adds at the end, and a
// library of version 1.m serves every n up to m. The place of each function below is its place in that table, counted from
// 0; `tests/cxx` runs every one of them against the library that is installed.
// Source: onnxruntime.ai/docs/api/c, struct OrtApi and struct OrtApiBase.
#pragma once

#include <cstddef>
#include <cstdint>

namespace edgekd::core::ort {

struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct RunOptions;
struct Value;
struct MemoryInfo;

using Slot = void (*)();

struct Base {
    const Slot* (*get_api)(std::uint32_t version);
    const char* (*get_version)();
};

constexpr std::uint32_t kVersion = 5;  // has all that is below
constexpr int kLogFatal = 4;           // errors come as a Status: nothing is printed beside them
constexpr int kArenaAllocator = 1;
constexpr int kMemoryDefault = 0;

// A function of the table by its place.
template <class Function, std::size_t Place>
struct At {
    using Pointer = Function*;
    static Pointer in(const Slot* table) noexcept { return reinterpret_cast<Pointer>(table[Place]); }
};

using GetErrorMessage = At<const char*(const Status*), 2>;
using CreateEnv = At<Status*(int log, const char* name, Env** made), 3>;
using CreateSessionFromArray =
    At<Status*(const Env*, const void* model, std::size_t size, const SessionOptions*, Session** made), 8>;
using Run = At<Status*(Session*, const RunOptions*, const char* const* input_names, const Value* const* inputs,
                       std::size_t input_count, const char* const* output_names, std::size_t output_count, Value** outputs),
               9>;
using CreateSessionOptions = At<Status*(SessionOptions** made), 10>;
using DisableMemPattern = At<Status*(SessionOptions*), 17>;
using DisableCpuMemArena = At<Status*(SessionOptions*), 19>;
using SetSessionLogSeverityLevel = At<Status*(SessionOptions*, int level), 22>;
using SetIntraOpNumThreads = At<Status*(SessionOptions*, int count), 24>;
using SetInterOpNumThreads = At<Status*(SessionOptions*, int count), 25>;
using SessionGetInputCount = At<Status*(const Session*, std::size_t* count), 30>;
using SessionGetOutputCount = At<Status*(const Session*, std::size_t* count), 31>;
using CreateTensorWithDataAsOrtValue = At<Status*(const MemoryInfo*, void* data, std::size_t bytes, const std::int64_t* shape,
                                                  std::size_t rank, int element_type, Value** made),
                                          49>;
using CreateCpuMemoryInfo = At<Status*(int allocator, int memory, MemoryInfo** made), 69>;
using ReleaseStatus = At<void(Status*), 93>;
using ReleaseSession = At<void(Session*), 95>;
using ReleaseValue = At<void(Value*), 96>;
using ReleaseSessionOptions = At<void(SessionOptions*), 100>;
using AddSessionConfigEntry = At<Status*(SessionOptions*, const char* key, const char* value), 130>;

}  // namespace edgekd::core::ort
