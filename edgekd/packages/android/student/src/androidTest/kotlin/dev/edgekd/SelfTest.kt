package dev.edgekd

import androidx.test.ext.junit.runners.AndroidJUnit4
import org.junit.Assert.assertEquals
import org.junit.Test
import org.junit.runner.RunWith

/** On the device: the bundle does there what it promised. */
@RunWith(AndroidJUnit4::class)
class SelfTest {
    @Test
    fun theOutputsAreTheGoldenOnes() = Student.open().use { assertEquals("", it.selfTest().reason) }
}
