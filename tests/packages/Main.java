package dev.edgekd;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** As Student.kt has it. */
class StudentException extends RuntimeException {
    private static final long serialVersionUID = 1;
    final int code;

    StudentException(int code, byte[] message) {
        super(new String(message, StandardCharsets.UTF_8));
        this.code = code;
    }
}

/** Every function, right and wrong, on the test's bundle: x float32[1, 1, 8, 8] to y float32[1, 5]. */
final class Main {
    private static final Native NATIVE = Native.INSTANCE;

    private static void check(boolean so, String what) {
        if (!so) throw new AssertionError(what);
    }

    private static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.UTF_8);
    }

    private static ByteBuffer buffer(int bytes) {
        return ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder());
    }

    private static void refuses(int code, String words, Runnable call) {
        try {
            call.run();
        } catch (StudentException error) {
            check(error.code == code && error.getMessage().contains(words), error.code + ": " + error.getMessage());
            return;
        }
        throw new AssertionError("not refused: " + words);
    }

    public static void main(String[] words) {
        long handle = NATIVE.open(null, null, 1, false);
        check(text(NATIVE.name(handle)).equals("tiny") && text(NATIVE.backend(handle)).equals("null"), "name");
        check(text(NATIVE.runtimeVersion(handle)).equals("1"), "version");
        check(NATIVE.count(handle, true) == 1 && NATIVE.count(handle, false) == 1, "count");
        check(text(NATIVE.portName(handle, true, 0)).equals("x") && text(NATIVE.portDtype(handle, true, 0)).equals("float32"), "x");
        check(Arrays.equals(NATIVE.portShape(handle, true, 0), new long[] {1, 1, 8, 8}), "shape");
        check(Arrays.equals(NATIVE.portShape(handle, false, 0), new long[] {1, 5}), "shape of y");
        check(text(NATIVE.label(handle, 4)).equals("e") && NATIVE.label(handle, 5) == null && NATIVE.label(handle, -1) == null, "labels");
        check(NATIVE.constant(handle, "std".getBytes(StandardCharsets.UTF_8))[0] == 0.25, "mean");
        check(NATIVE.constant(handle, "no".getBytes(StandardCharsets.UTF_8)).length == 0, "no constant");

        ByteBuffer x = buffer(256), y = buffer(20);
        x.asFloatBuffer().put(new float[64]);
        x.putFloat(0, 1);
        NATIVE.run(handle, new ByteBuffer[] {x}, new ByteBuffer[] {y});
        float once = y.getFloat(0);
        x.putFloat(0, 2);
        NATIVE.run(handle, new ByteBuffer[] {x}, new ByteBuffer[] {y});
        check(once != 0 && y.getFloat(0) == 2 * once, "the null device is linear: " + once + ", " + y.getFloat(0));

        double[] numbers = new double[8];
        check(NATIVE.selfTest(handle, 0, numbers) == null, "self-test");
        check(numbers[0] == 4 && numbers[1] == 1 && numbers[4] == 1e-4 && numbers[5] >= 5 && numbers[6] > 0, Arrays.toString(numbers));
        check(text(NATIVE.selfTest(handle, 2, numbers)).startsWith("too slow: median "), "slow");

        refuses(1, "input \"x\" has 63 elements", () -> NATIVE.run(handle, new ByteBuffer[] {buffer(252)}, new ByteBuffer[] {y}));
        refuses(1, "1 output(s), got 0", () -> NATIVE.run(handle, new ByteBuffer[] {x}, new ByteBuffer[0]));
        refuses(1, "there is no input 1", () -> NATIVE.run(handle, new ByteBuffer[] {x, x}, new ByteBuffer[] {y}));
        refuses(1, "no direct ByteBuffer", () -> NATIVE.run(handle, new ByteBuffer[] {ByteBuffer.allocate(256)}, new ByteBuffer[] {y}));
        refuses(1, "no direct ByteBuffer", () -> NATIVE.run(handle, new ByteBuffer[] {null}, new ByteBuffer[] {y}));
        refuses(1, "ends inside an element", () -> NATIVE.run(handle, new ByteBuffer[] {buffer(255)}, new ByteBuffer[] {y}));
        refuses(1, "there is no output 3", () -> NATIVE.portShape(handle, false, 3));
        refuses(2, "/no/söch: not a bundle", () -> NATIVE.open("/no/söch".getBytes(StandardCharsets.UTF_8), null, 0, false));
        refuses(1, "student is a null pointer", () -> NATIVE.selfTest(0, 0, new double[8]));
        NATIVE.close(handle);
        NATIVE.close(0);
        System.out.println("all is well");
    }
}
