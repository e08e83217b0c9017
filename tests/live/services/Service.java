// SPDX-License-Identifier: GPL-2.0-or-later
import com.sun.net.httpserver.HttpServer;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.ByteBuffer;
import java.util.concurrent.Executors;

/** A service of threads: GET /N answers "N SUM", SUM of a fresh buffer filled for that number. */
public class Service {
    static long sum(int n) {
        int size = (int) ((long) n * 7919 % 600_000);
        byte value = (byte) (n % 251);
        // Half of the buffers are garbage for the collector, half are malloc's.
        ByteBuffer buffer = n % 2 == 0 ? ByteBuffer.allocate(size) : ByteBuffer.allocateDirect(size);
        while (buffer.hasRemaining()) {
            buffer.put(value);
        }
        buffer.flip();
        long sum = 0;
        while (buffer.hasRemaining()) {
            sum += buffer.get() & 0xff;
        }
        return sum;
    }

    public static void main(String[] arguments) throws Exception {
        int port = Integer.parseInt(arguments[0]);
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 0);
        server.createContext("/", exchange -> {
            int n = Integer.parseInt(exchange.getRequestURI().getPath().substring(1));
            byte[] body = (n + " " + sum(n)).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(6));
        server.start();
    }
}
