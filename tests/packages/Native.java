package dev.edgekd;

import java.nio.ByteBuffer;

/** The functions of jni.cpp, declared as Student.kt declares them. */
final class Native {
    static final Native INSTANCE = new Native();

    static {
        System.loadLibrary("edgekd_student");
    }

    native long open(byte[] folder, byte[] runtime, int threads, boolean anyVersion);
    native void close(long handle);
    native int count(long handle, boolean input);
    native byte[] portName(long handle, boolean input, int index);
    native byte[] portDtype(long handle, boolean input, int index);
    native long[] portShape(long handle, boolean input, int index);
    native byte[] label(long handle, int index);
    native byte[] name(long handle);
    native byte[] backend(long handle);
    native byte[] runtimeVersion(long handle);
    native double[] constant(long handle, byte[] key);
    native void run(long handle, ByteBuffer[] inputs, ByteBuffer[] outputs);
    native byte[] selfTest(long handle, double slowdown, double[] numbers);
}
