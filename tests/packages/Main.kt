package dev.edgekd

/** The wrapper as an app uses it, on the test's bundle: x float32[1, 1, 8, 8] to y float32[1, 5]. */
fun main() {
    val student = Student.open()
    check(student.name == "tiny" && student.backend == "null" && student.runtimeVersion == "1")
    check(student.labels == listOf("a", "b", "c", "d", "e"))
    check(student.inputs == listOf(Port("x", "float32", listOf(1L, 1L, 8L, 8L))) && student.outputs[0].count == 5)
    check(student.constant("mean") == listOf(0.5, 0.25) && student.constant("no").isEmpty())
    val (y) = student.run(FloatArray(64) { 1f })
    val (z) = student.run(FloatArray(64) { 2f })
    check(y.size == 5 && y.any { it != 0f } && y.indices.all { z[it] == 2 * y[it] })
    val report = student.selfTest()
    check(report.ok && report.samples == 4 && report.toleranceAbsolute == 1e-4 && report.median > 0)
    check(student.selfTest(2.0).reason.startsWith("too slow: median "))
    val refused = runCatching { student.run(FloatArray(63)) }.exceptionOrNull() as StudentException
    check(refused.code == 1 && "has 63 elements" in refused.message!!)
    val missing = runCatching { Student.open(folder = "/no/söch") }.exceptionOrNull() as StudentException
    check(missing.code == 2 && "/no/söch: not a bundle" in missing.message!!)
    student.close()
    student.close()
    check(runCatching { student.run(FloatArray(64)) }.exceptionOrNull() is IllegalStateException)
    println("all is well")
}
