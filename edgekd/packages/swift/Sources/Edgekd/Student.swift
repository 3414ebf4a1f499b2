import CEdgekd
import Foundation

/// What the C API answers where something is wrong: its code (edgekd.h) and what, where, and how to mend it.
public struct StudentError: Error, CustomStringConvertible {
    public let code: edgekd_code
    public let message: String

    public var description: String { message }
}

/// One input or output. A dynamic size is -1.
public struct Port: Sendable {
    public let name: String
    public let dtype: String
    public let shape: [Int]

    /// Elements, where every size is fixed; else 0.
    public var count: Int { shape.contains { $0 < 0 } ? 0 : shape.reduce(1, *) }
}

/// What a self-test found. Times are in seconds. `reason` is empty where all is as promised.
public struct Report: Sendable {
    public let reason: String
    public let samples: Int
    public let top1: Double
    public let difference: Double
    public let toleranceTop1: Double
    public let toleranceAbsolute: Double
    public let calls: Int
    public let median: Double
    public let promised: Double

    public var ok: Bool { reason.isEmpty }
}

/// A compiled student. `try Student()` opens the bundle inside this package, `Student(folder:)` another of the same backend.
///
///     let student = try Student()
///     let logits = try student.run([image])[0]
///     print(student.labels[logits.indices.max { logits[$0] < logits[$1] }!])
///
/// Calls from several threads take turns; to run in parallel, open one a thread.
public final class Student: @unchecked Sendable {
    public let name: String
    public let backend: String
    public let runtimeVersion: String
    public let inputs: [Port]
    public let outputs: [Port]
    public let labels: [String]

    private let raw: OpaquePointer

    private static let linked: Void = edgekd_link_runtimes()

    /// - Parameters:
    ///   - folder: of a bundle; by default the one inside this package.
    ///   - runtime: the runtime's library or its folder, where it is not linked into the app.
    ///   - threads: of one call; 0: as the engine was compiled for.
    ///   - anyVersion: take a runtime that is older than the one that the bundle was compiled with.
    public init(folder: URL? = nil, runtime: String? = nil, threads: Int32 = 0, anyVersion: Bool = false) throws {
        _ = Student.linked
        let place = (folder ?? Bundle.module.url(forResource: "bundle", withExtension: nil))?.path ?? "bundle"
        var opened: OpaquePointer?
        func open(_ library: UnsafePointer<CChar>?) -> edgekd_status {
            var options = edgekd_options(threads: threads, runtime: library, any_version: anyVersion ? 1 : 0)
            return edgekd_open(place, &options, &opened)
        }
        try Student.check(runtime == nil ? open(nil) : runtime!.withCString { open($0) })
        raw = opened!
        name = String(cString: edgekd_name(opened))
        backend = String(cString: edgekd_backend(opened))
        runtimeVersion = String(cString: edgekd_runtime_version(opened))
        inputs = try Student.ports(edgekd_input_count(opened)) { edgekd_input_port(opened, $0, $1) }
        outputs = try Student.ports(edgekd_output_count(opened)) { edgekd_output_port(opened, $0, $1) }
        labels = (0..<edgekd_label_count(opened)).map { String(cString: edgekd_label(opened, $0)) }
    }

    deinit { edgekd_close(raw) }

    /// Numbers of the preprocessing: `constant("mean")`; empty if there are none.
    public func constant(_ key: String) -> [Double] {
        var count = 0
        guard let found = edgekd_constant(raw, key, &count) else { return [] }
        return Array(UnsafeBufferPointer(start: found, count: count))
    }

    /// Compute the outputs for the inputs: memory of the ports' types, in their order. Nothing is copied.
    public func run(_ given: [UnsafeRawBufferPointer], into taken: [UnsafeMutableRawBufferPointer]) throws {
        let sources = try given.enumerated().map { index, memory in
            let (dtype, size) = try element(index, input: true)
            return edgekd_const_tensor(data: memory.baseAddress, count: memory.count / size, dtype: dtype, shape: nil, rank: 0)
        }
        let targets = try taken.enumerated().map { index, memory in
            let (dtype, size) = try element(index, input: false)
            return edgekd_tensor(data: memory.baseAddress, count: memory.count / size, dtype: dtype, shape: nil, rank: 0)
        }
        try Student.check(edgekd_run(raw, sources, sources.count, targets, targets.count))
    }

    /// The same with arrays, for a student whose ports are all float32 and whose outputs have fixed sizes.
    public func run(_ given: [[Float]]) throws -> [[Float]] {
        precondition(
            (inputs + outputs).allSatisfy { $0.dtype == "float32" } && outputs.allSatisfy { $0.count > 0 },
            "run([[Float]]) is for float32 ports of fixed size: use memory"
        )
        let sources = given.map { values in
            let memory = UnsafeMutableBufferPointer<Float>.allocate(capacity: values.count)
            _ = memory.initialize(from: values)
            return memory
        }
        let targets = outputs.map { port in
            let memory = UnsafeMutableBufferPointer<Float>.allocate(capacity: port.count)
            memory.initialize(repeating: 0)
            return memory
        }
        defer { (sources + targets).forEach { $0.deallocate() } }
        try run(sources.map { UnsafeRawBufferPointer($0) }, into: targets.map { UnsafeMutableRawBufferPointer($0) })
        return targets.map { Array($0) }
    }

    /// Golden inputs against golden outputs, and some timed calls; above 0, `slowdown` times the promised median is the most.
    public func selfTest(slowdown: Double = 0) throws -> Report {
        var found = edgekd_report()
        let status = edgekd_self_test(raw, slowdown, &found)
        if status.code != EDGEKD_SELF_TEST_FAILED { try Student.check(status) }
        return Report(
            reason: status.code == EDGEKD_OK ? "" : Student.message(status),
            samples: Int(found.samples), top1: found.top1, difference: found.difference,
            toleranceTop1: found.tolerance_top1, toleranceAbsolute: found.tolerance_absolute,
            calls: Int(found.calls), median: found.median, promised: found.promised
        )
    }

    private func element(_ index: Int, input: Bool) throws -> (edgekd_dtype, Int) {
        var port = edgekd_port()
        try Student.check(input ? edgekd_input_port(raw, index, &port) : edgekd_output_port(raw, index, &port))
        return (port.dtype, edgekd_dtype_bytes(port.dtype))
    }

    private static func ports(
        _ count: Int, _ port: (Int, UnsafeMutablePointer<edgekd_port>) -> edgekd_status
    ) throws -> [Port] {
        try (0..<count).map { index in
            var found = edgekd_port()
            try check(port(index, &found))
            let sizes = UnsafeBufferPointer(start: found.shape, count: found.rank)
            return Port(
                name: String(cString: found.name), dtype: String(cString: edgekd_dtype_name(found.dtype)),
                shape: sizes.map { Int($0) }
            )
        }
    }

    private static func check(_ status: edgekd_status) throws {
        if status.code != EDGEKD_OK { throw StudentError(code: status.code, message: message(status)) }
    }

    private static func message(_ status: edgekd_status) -> String {
        withUnsafeBytes(of: status.message) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) }
    }
}
