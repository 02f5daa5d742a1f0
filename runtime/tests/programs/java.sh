#!/bin/sh
# needs: java javac
# time: 120
# Compiles and runs a program with threads.
set -eu
cat > Main.java <<'END'
import java.io.*; import java.nio.file.*; import java.util.*; import java.util.concurrent.*; import java.util.concurrent.atomic.*; import java.util.stream.*;
public class Main {
    static synchronized void log(String text) { System.out.println(text); }
    public static void main(String[] arguments) throws Exception {
        AtomicLong sum = new AtomicLong(); List<Thread> threads = new ArrayList<>();
        for (int i = 0; i < 32; i++) { final int n = i; Thread t = new Thread(() -> { for (int k = 0; k < 1000; k++) sum.addAndGet(n); }); t.start(); threads.add(t); }
        for (Thread t : threads) t.join();
        log("sum " + sum);
        ExecutorService pool = Executors.newFixedThreadPool(8);
        List<Future<Integer>> futures = new ArrayList<>(); for (int i = 0; i < 50; i++) { final int n = i; futures.add(pool.submit(() -> { Thread.sleep(1); return n * n; })); }
        int total = 0; for (Future<Integer> f : futures) total += f.get(); pool.shutdown(); log("squares " + total + " " + pool.awaitTermination(5, TimeUnit.SECONDS));
        log("parallel " + IntStream.rangeClosed(1, 100000).parallel().mapToLong(x -> x).sum());
        Process process = new ProcessBuilder("sh", "-c", "cat; exit 4").start();
        try (OutputStream out = process.getOutputStream()) { out.write("to a process\n".getBytes()); }
        log(new String(process.getInputStream().readAllBytes()).trim() + " " + process.waitFor());
        Path file = Paths.get("file"); Files.writeString(file, "line\n".repeat(1000)); log("lines " + Files.lines(file).count() + " " + Files.size(file));
        try (RandomAccessFile f = new RandomAccessFile("file", "rw")) { var map = f.getChannel().map(java.nio.channels.FileChannel.MapMode.READ_WRITE, 0, 5000); map.put(0, (byte) 'L'); map.force(); }
        log(Files.readString(file).substring(0, 4));
        byte[][] garbage = new byte[64][]; for (int i = 0; i < 2000; i++) garbage[i % 64] = new byte[100_000]; System.gc();
        log("processors " + (Runtime.getRuntime().availableProcessors() > 0) + " memory " + (Runtime.getRuntime().maxMemory() > 1 << 20));
        try { int[] empty = new int[0]; empty[1] = 2; } catch (ArrayIndexOutOfBoundsException e) { log("caught"); }
        try { String none = null; none.length(); } catch (NullPointerException e) { log("null"); }
        try { recurse(0); } catch (StackOverflowError e) { log("overflow"); }
        Runtime.getRuntime().addShutdownHook(new Thread(() -> log("hook"))); System.exit(3);
    }
    static int recurse(int n) { return recurse(n + 1) + 1; }
}
END
javac -J-XX:TieredStopAtLevel=1 Main.java
ls *.class
set +e
java -XX:+UseG1GC -Xmx256m -cp . Main; echo "status $?"
java -XX:+UseSerialGC -Xmx64m -XX:TieredStopAtLevel=1 -cp . Main | tail -1
