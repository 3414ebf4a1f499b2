package dev.edgekd

import java.nio.ByteBuffer
import java.nio.ByteOrder

/** What the C API answers where something is wrong: its code (edgekd.h) and what, where, and how to mend it. */
class StudentException(val code: Int, message: ByteArray) : RuntimeException(String(message, Charsets.UTF_8))

/** One input or output. A dynamic size is -1. */
data class Port(val name: String, val dtype: String, val shape: List<Long>) {
    /** Elements, where every size is fixed; else 0. */
    val count: Int get() = if (shape.any { it < 0 }) 0 else shape.fold(1L) { a, b -> a * b }.toInt()
}

/** What a self-test found. Times are in seconds. [reason] is empty where all is as promised. */
data class Report(
    val reason: String,
    val samples: Int,
    val top1: Double,
    val difference: Double,
    val toleranceTop1: Double,
    val toleranceAbsolute: Double,
    val calls: Int,
    val median: Double,
    val promised: Double,
) {
    val ok: Boolean get() = reason.isEmpty()
}

/**
 * A compiled student. `Student.open()` opens the bundle inside this library, `Student.open(folder = …)` another one.
 *
 *     Student.open().use { student ->
 *         val (logits) = student.run(image)
 *         println(student.labels[logits.indices.maxBy { logits[it] }])
 *     }
 *
 * Calls from several threads take turns; to run in parallel, open one a thread.
 */
class Student private constructor(private var handle: Long) : AutoCloseable {
    val name: String = Native.name(handle).text()
    val backend: String = Native.backend(handle).text()
    val runtimeVersion: String = Native.runtimeVersion(handle).text()
    val inputs: List<Port> = ports(true)
    val outputs: List<Port> = ports(false)
    val labels: List<String> = generateSequence(0) { it + 1 }.map { Native.label(handle, it) }.takeWhile { it != null }.map { it!!.text() }.toList()

    /** Numbers of the preprocessing: `constant("mean")`; empty if there are none. */
    @Synchronized
    fun constant(key: String): List<Double> = Native.constant(opened(), key.toByteArray()).toList()

    /**
     * Compute the outputs for the inputs: direct buffers in native byte order, from position to limit, in the ports' order.
     * Nothing is copied.
     */
    @Synchronized
    fun run(inputs: List<ByteBuffer>, outputs: List<ByteBuffer>) {
        Native.run(opened(), Array(inputs.size) { inputs[it].slice() }, Array(outputs.size) { outputs[it].slice() })
    }

    /** The same with arrays, for a student whose ports are all float32 and whose outputs have fixed sizes. */
    fun run(vararg inputs: FloatArray): List<FloatArray> {
        require((this.inputs + outputs).all { it.dtype == "float32" } && outputs.all { it.count > 0 }) {
            "run(FloatArray) is for float32 ports of fixed size: use buffers"
        }
        val given = inputs.map { values -> buffer(values.size).also { it.asFloatBuffer().put(values) } }
        val taken = outputs.map { buffer(it.count) }
        run(given, taken)
        return taken.map { found -> FloatArray(found.capacity() / 4).also { found.asFloatBuffer().get(it) } }
    }

    /** Golden inputs against golden outputs, and some timed calls; above 0, [slowdown] times the promised median is the most. */
    @Synchronized
    fun selfTest(slowdown: Double = 0.0): Report {
        val n = DoubleArray(8)
        val reason = Native.selfTest(opened(), slowdown, n)?.text().orEmpty()
        return Report(reason, n[0].toInt(), n[1], n[2], n[3], n[4], n[5].toInt(), n[6], n[7])
    }

    @Synchronized
    override fun close() {
        Native.close(handle)
        handle = 0
    }

    private fun opened(): Long {
        check(handle != 0L) { "this student was closed" }
        return handle
    }

    private fun ports(input: Boolean): List<Port> = List(Native.count(handle, input)) {
        Port(Native.portName(handle, input, it).text(), Native.portDtype(handle, input, it).text(), Native.portShape(handle, input, it).toList())
    }

    companion object {
        /**
         * Open the bundle inside this library, or with [folder] another one of the same backend.
         *
         * [runtime]: the runtime's library or its folder; by default the one that the app carries. [threads]: of one call; 0: as
         * the engine was compiled for. [anyVersion]: take a runtime that is older than the one it was compiled with.
         * Throws [StudentException].
         */
        @JvmStatic
        @JvmOverloads
        fun open(folder: String? = null, runtime: String? = null, threads: Int = 0, anyVersion: Boolean = false): Student =
            Student(Native.open(folder?.toByteArray(), runtime?.toByteArray(), threads, anyVersion))

        private fun buffer(floats: Int): ByteBuffer = ByteBuffer.allocateDirect(4 * floats).order(ByteOrder.nativeOrder())

        private fun ByteArray.text() = String(this, Charsets.UTF_8)
    }
}

/** The functions of jni.cpp. */
internal object Native {
    init {
        System.loadLibrary("edgekd_student")
    }

    external fun open(folder: ByteArray?, runtime: ByteArray?, threads: Int, anyVersion: Boolean): Long
    external fun close(handle: Long)
    external fun count(handle: Long, input: Boolean): Int
    external fun portName(handle: Long, input: Boolean, index: Int): ByteArray
    external fun portDtype(handle: Long, input: Boolean, index: Int): ByteArray
    external fun portShape(handle: Long, input: Boolean, index: Int): LongArray
    external fun label(handle: Long, index: Int): ByteArray?
    external fun name(handle: Long): ByteArray
    external fun backend(handle: Long): ByteArray
    external fun runtimeVersion(handle: Long): ByteArray
    external fun constant(handle: Long, key: ByteArray): DoubleArray
    external fun run(handle: Long, inputs: Array<ByteBuffer>, outputs: Array<ByteBuffer>)
    external fun selfTest(handle: Long, slowdown: Double, numbers: DoubleArray): ByteArray?
}
