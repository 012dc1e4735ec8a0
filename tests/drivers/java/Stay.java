// pgjdbc: sessions that stay open as long as the test wants.
//
// Owns: what each session expects in each of its turns: its own setting, its own values from prepared
// statements, transactions on one server, a cancel request that hits its own query.
// Does not own: what happens to the pooler meanwhile; where it is (PGHOST and the like).
// Invariants: a session is opened once; whatever goes wrong in one ends the program with an error.
//
// Says `ready` when all are open. For each line that it reads it says how many turns there were, when
// every session has begun and ended one after that. At the end of its input every session does a last turn.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.ArrayList;
import java.util.List;
import java.util.Properties;

public final class Stay {
    private static final int SESSIONS = 3;
    // A turn of so many asks for a query to be cancelled.
    private static final int CANCELS = 15;
    // What a session thinks between two turns.
    private static final int PAUSE_MS = 2;

    private static final int[] turns = new int[SESSIONS];
    private static final Object changed = new Object();
    // One cancelled query at a time: others still find servers.
    private static final Object cancelling = new Object();
    private static volatile boolean isOver;

    private final int number;
    private final Connection connection;
    private final Connection watcher;

    private Stay(int number, Connection watcher) throws SQLException {
        this.number = number;
        this.watcher = watcher;
        this.connection = connect();
        try (Statement statement = connection.createStatement()) {
            statement.execute("set timezone to '" + zone() + "'");
        }
    }

    private static Connection connect() throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", System.getenv("PGSSLMODE"));
        properties.setProperty("prepareThreshold", "2");
        String url = String.format("jdbc:postgresql://%s:%s/%s", System.getenv("PGHOST"),
                System.getenv("PGPORT"), System.getenv("PGDATABASE"));
        return DriverManager.getConnection(url, properties);
    }

    private String zone() {
        return "Etc/GMT+" + (number + 1);
    }

    private interface Body {
        void run() throws Exception;
    }

    private static Thread guarded(Body body) {
        Thread thread = new Thread(() -> {
            try {
                body.run();
            } catch (Throwable error) {
                error.printStackTrace();
                Runtime.getRuntime().halt(1);
            }
        });
        thread.start();
        return thread;
    }

    private void equal(Object got, Object wanted) {
        if (!wanted.equals(got)) {
            throw new AssertionError("session " + number + ": " + got + " is not " + wanted);
        }
    }

    private static String value(PreparedStatement statement) throws SQLException {
        try (ResultSet rows = statement.executeQuery()) {
            if (!rows.next()) {
                throw new AssertionError("no row");
            }
            return rows.getString(1);
        }
    }

    private void cancel() throws Exception {
        String text = "select pg_sleep(600) as pgjdbc_" + ProcessHandle.current().pid() + "_" + number;
        synchronized (cancelling) {
            try (Statement sleeper = connection.createStatement()) {
                Thread order = guarded(() -> {
                    try (PreparedStatement active = watcher.prepareStatement("select count(*) from "
                            + "pg_stat_activity where state = 'active' and query like ?")) {
                        active.setString(1, text);
                        while (!"1".equals(value(active))) {
                            Thread.sleep(PAUSE_MS);
                        }
                    }
                    sleeper.cancel();
                });
                try {
                    sleeper.execute(text);
                    throw new AssertionError("the query was not cancelled");
                } catch (SQLException error) {
                    equal(error.getSQLState(), "57014");
                }
                order.join();
            }
        }
    }

    private void turn(int turn, PreparedStatement own, PreparedStatement series, PreparedStatement pid,
            PreparedStatement zone) throws Exception {
        equal(value(zone), zone());
        own.setInt(1, turn);
        equal(value(own), (turn + 1) * 10 + number + "");
        connection.setAutoCommit(false);
        String server = value(pid);
        series.setFetchSize(20);
        int count = 0;
        try (ResultSet rows = series.executeQuery()) {
            while (rows.next()) {
                count++;
                equal(rows.getInt(1), count);
            }
        }
        equal(count, 60);
        equal(value(pid), server);
        connection.commit();
        connection.setAutoCommit(true);
    }

    private void stay() throws Exception {
        try (PreparedStatement own = connection.prepareStatement("select (? + 1) * 10 + " + number);
                PreparedStatement series = connection.prepareStatement("select generate_series(1, 60)");
                PreparedStatement pid = connection.prepareStatement("select pg_backend_pid()");
                PreparedStatement zone = connection.prepareStatement("show timezone")) {
            boolean isLast = false;
            for (int count = 0; !isLast; count++) {
                isLast = isOver;
                turn(count, own, series, pid, zone);
                if (isLast || count % CANCELS == 5 * number) {
                    cancel();
                }
                synchronized (changed) {
                    turns[number]++;
                    changed.notifyAll();
                }
                Thread.sleep(PAUSE_MS);
            }
        }
    }

    // Waits until every session has begun and ended a turn.
    private static int next() throws InterruptedException {
        synchronized (changed) {
            int[] before = turns.clone();
            int sum = 0;
            for (int number = 0; number < SESSIONS; number++) {
                // The turn that is under way had begun before.
                while (turns[number] < before[number] + 2) {
                    changed.wait();
                }
            }
            for (int count : turns) {
                sum += count;
            }
            return sum;
        }
    }

    public static void main(String[] arguments) throws Exception {
        Connection watcher = connect();
        List<Thread> threads = new ArrayList<>();
        List<Stay> sessions = new ArrayList<>();
        for (int number = 0; number < SESSIONS; number++) {
            sessions.add(new Stay(number, watcher));
        }
        for (Stay session : sessions) {
            threads.add(guarded(session::stay));
        }
        System.out.println("ready");
        BufferedReader input = new BufferedReader(new InputStreamReader(System.in));
        while (input.readLine() != null) {
            System.out.println(next());
        }
        isOver = true;
        for (Thread thread : threads) {
            thread.join();
        }
    }
}
