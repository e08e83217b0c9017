// SPDX-License-Identifier: GPL-2.0-or-later
// Threads that make garbage until the heap has to be collected; the main thread waits in the middle, they go on.
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.List;

public class Corpus {
    static long work(int seed) {
        long sum = 0;
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < 1500; i++) {
            byte[] some = new byte[(seed * 7919 + i * 104729) % 100000 + 1];
            sum += some.length;
            if (i % 10 == 0) kept.add(some);
            if (i % 100 == 0) sum += ByteBuffer.allocateDirect(300000 + i).capacity();
        }
        return sum + kept.size();
    }

    static List<Thread> begin(int count) {
        List<Thread> threads = new ArrayList<>();
        for (int i = 1; i <= count; i++) {
            int seed = i;
            threads.add(new Thread(() -> work(seed)));
        }
        threads.forEach(Thread::start);
        return threads;
    }

    public static void main(String[] unused) throws Exception {
        for (Thread t : begin(4)) t.join();
        System.gc();
        List<Thread> threads = begin(4);
        System.out.println("half");
        System.in.read();
        for (Thread t : threads) t.join();
        System.gc();
        work(9);
    }
}
