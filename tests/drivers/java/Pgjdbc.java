// pgjdbc through a pooler: many clients, fewer servers.
//
// Owns: the clients and what each of them expects.
// Does not own: where the server is (PGHOST and the like).
// Invariants: a client counts its own values; whatever is not its own ends the program with an
// error.
//
// Source: the documentation of pgjdbc (prepareThreshold, autosave, defaultRowFetchSize,
// preferQueryMode, reWriteBatchedInserts).

import java.math.BigDecimal;
import java.sql.BatchUpdateException;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.sql.Timestamp;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicBoolean;
import org.postgresql.PGConnection;
import org.postgresql.util.PGobject;

public final class Pgjdbc {
    private static final int CLIENTS = 12;
    private static final int ROUNDS = 40;


    private final int number;
    private final String table;
    private final Connection connection;
    private final String description;

    private Pgjdbc(int number, String... options) throws SQLException {
        this.number = number;
        this.table = "java_pgjdbc_" + number;
        this.description = "client " + number + " " + Arrays.toString(options);
        this.connection = connect(options);
    }

    private static Connection connect(String... options) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", System.getenv("PGUSER"));
        properties.setProperty("password", System.getenv("PGPASSWORD"));
        properties.setProperty("sslmode", "disable");
        for (String option : options) {
            String[] pair = option.split("=");
            properties.setProperty(pair[0], pair[1]);
        }
        String url = String.format("jdbc:postgresql://%s:%s/%s", System.getenv("PGHOST"),
                System.getenv("PGPORT"), System.getenv("PGDATABASE"));
        return DriverManager.getConnection(url, properties);
    }

    private void check(boolean holds, String what, Object... values) {
        if (!holds) {
            throw new AssertionError(description + ": " + what + " " + Arrays.toString(values));
        }
    }

    private void equal(Object got, Object wanted, String what) {
        check(wanted == null ? got == null : wanted.equals(got), what, got, "wanted", wanted);
    }

    private void execute(String sql) throws SQLException {
        try (Statement statement = connection.createStatement()) {
            statement.execute(sql);
        }
    }

    private String value(String sql) throws SQLException {
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(sql)) {
            check(rows.next(), "no row", sql);
            return rows.getString(1);
        }
    }

    private interface Action {
        void run() throws SQLException;
    }

    private SQLException fails(String sqlstate, Action action) {
        try {
            action.run();
        } catch (SQLException error) {
            check(sqlstate.equals(error.getSQLState()), "wanted " + sqlstate, error.getSQLState(),
                    error.getMessage());
            return error;
        }
        throw new AssertionError(description + ": no error " + sqlstate);
    }

    // Beyond prepareThreshold the driver gives the statement a name and keeps it.
    private void reuseStatements() throws SQLException {
        try (PreparedStatement own = connection.prepareStatement("select ? || ' of " + number + "'");
                PreparedStatement shared = connection.prepareStatement("select ?::int * 2, ?::text")) {
            for (int round = 0; round < ROUNDS; round++) {
                connection.setAutoCommit(round % 3 != 0);
                own.setString(1, "round " + round);
                try (ResultSet rows = own.executeQuery()) {
                    check(rows.next(), "no row of its own");
                    equal(rows.getString(1), "round " + round + " of " + number, "own");
                }
                int value = number * 1000 + round;
                shared.setInt(1, value);
                shared.setString(2, round % 2 == 0 ? null : "text " + value);
                try (ResultSet rows = shared.executeQuery()) {
                    check(rows.next(), "no shared row");
                    equal(rows.getInt(1), value * 2, "shared");
                    equal(rows.getString(2), round % 2 == 0 ? null : "text " + value, "text");
                }
                if (!connection.getAutoCommit()) {
                    connection.commit();
                }
            }
            connection.setAutoCommit(true);
            equal(shared.getMetaData().getColumnTypeName(1), "int4", "metadata");
            equal(shared.getParameterMetaData().getParameterTypeName(1), "int4", "parameter");
        }
    }

    // More texts than the driver and the pooler keep at the same time.
    private void useManyStatements() throws SQLException {
        for (int round = 0; round < 3; round++) {
            for (int text = 0; text < 60; text++) {
                String sql = "select " + text + " + ?::int";
                try (PreparedStatement statement = connection.prepareStatement(sql)) {
                    statement.setInt(1, number);
                    try (ResultSet rows = statement.executeQuery()) {
                        check(rows.next(), "no row");
                        equal(rows.getInt(1), text + number, "many");
                    }
                }
            }
        }
    }

    private void batch() throws SQLException {
        String sql = "insert into " + table + " values (?, ?)";
        for (boolean hasAutoCommit : new boolean[] {true, false}) {
            connection.setAutoCommit(hasAutoCommit);
            try (PreparedStatement insert = connection.prepareStatement(sql)) {
                for (int row = 0; row < 300; row++) {
                    insert.setInt(1, row);
                    insert.setString(2, row % 10 == 0 ? null : "word " + row);
                    insert.addBatch();
                }
                int[] counts = insert.executeBatch();
                equal(counts.length, 300, "counts");
            }
            if (!hasAutoCommit) {
                connection.commit();
            }
            connection.setAutoCommit(true);
            equal(value("select count(*) || ' ' || count(word) from " + table), "300 270", "batch");
            execute("truncate " + table);
        }
        try (Statement statement = connection.createStatement()) {
            for (int row = 0; row < 20; row++) {
                statement.addBatch("insert into " + table + " values (" + row + ", 'simple')");
            }
            equal(statement.executeBatch().length, 20, "batch of texts");
        }
        try (PreparedStatement insert = connection.prepareStatement(sql + " returning n",
                Statement.RETURN_GENERATED_KEYS)) {
            for (int row = 20; row < 40; row++) {
                insert.setInt(1, row);
                insert.setString(2, "key");
                insert.addBatch();
            }
            insert.executeBatch();
            int wanted = 20;
            try (ResultSet keys = insert.getGeneratedKeys()) {
                while (keys.next()) {
                    equal(keys.getInt(1), wanted++, "key");
                }
            }
            equal(wanted, 40, "keys");
        }
        equal(value("select count(*) from " + table), "40", "after the batches");
        failInBatch(sql);
        execute("truncate " + table);
    }

    private void failInBatch(String sql) throws SQLException {
        execute("create unique index on " + table + " (n)");
        try (PreparedStatement insert = connection.prepareStatement(sql)) {
            for (int row : new int[] {100, 101, 5, 102}) {
                insert.setInt(1, row);
                insert.setString(2, "failing");
                insert.addBatch();
            }
            SQLException error = fails("23505", insert::executeBatch);
            check(error instanceof BatchUpdateException, "not an error of a batch");
            insert.setInt(1, 200);
            insert.setString(2, "fine");
            equal(insert.executeUpdate(), 1, "after the failed batch");
        }
        equal(value("select max(n) from " + table), "200", "after the failed batch");
    }

    // With a fetch size the driver takes rows of a portal in parts, within one transaction.
    private void fetchInParts() throws SQLException {
        connection.setAutoCommit(false);
        String sql = "select n, ? from generate_series(1, 2000) n";
        try (PreparedStatement all = connection.prepareStatement(sql);
                PreparedStatement between = connection.prepareStatement("select ?::int + 1")) {
            for (int round = 0; round < 4; round++) {
                all.setFetchSize(100 + round);
                all.setString(1, "of " + number);
                int wanted = 1;
                try (ResultSet rows = all.executeQuery()) {
                    while (rows.next()) {
                        equal(rows.getInt(1), wanted, "part");
                        equal(rows.getString(2), "of " + number, "part");
                        if (wanted % 500 == 0) {
                            between.setInt(1, wanted);
                            try (ResultSet one = between.executeQuery()) {
                                check(one.next(), "no row between");
                                equal(one.getInt(1), wanted + 1, "between");
                            }
                        }
                        wanted++;
                        if (round == 3 && wanted == 700) {
                            break;
                        }
                    }
                }
                equal(wanted, round == 3 ? 700 : 2001, "rows");
                connection.commit();
            }
        }
        connection.setAutoCommit(true);
    }

    private void recoverFromErrors() throws SQLException {
        try (PreparedStatement divide = connection.prepareStatement("select 100 / ?::int")) {
            for (int round = 0; round < ROUNDS / 2; round++) {
                divide.setInt(1, 0);
                fails("22012", divide::executeQuery);
                fails("42P01", () -> execute("select * from nowhere_" + number));
                fails("42601", () -> value("selec"));
                divide.setInt(1, 4);
                try (ResultSet rows = divide.executeQuery()) {
                    check(rows.next(), "no row");
                    equal(rows.getInt(1), 25, "after errors");
                }
            }
        }
        connection.setAutoCommit(false);
        execute("insert into " + table + " values (1, 'kept')");
        Savepoint savepoint = connection.setSavepoint("here");
        fails("22012", () -> value("select 1 / 0"));
        connection.rollback(savepoint);
        execute("insert into " + table + " values (2, 'kept')");
        connection.commit();
        execute("insert into " + table + " values (3, 'lost')");
        connection.rollback();
        connection.setAutoCommit(true);
        equal(value("select sum(n) from " + table), "3", "transactions");
        execute("truncate " + table);
    }

    // The result type of a statement changes. The driver prepares anew by itself.
    private void followChangedTable(boolean hasAutosave) throws SQLException {
        String changing = table + "_changing";
        execute("create table " + changing + " (n int)");
        execute("insert into " + changing + " values (" + number + ")");
        try (PreparedStatement all = connection.prepareStatement("select * from " + changing)) {
            for (int columns = 1; columns <= 4; columns++) {
                for (int run = 0; run < 12; run++) {
                    connection.setAutoCommit(!hasAutosave || run % 2 == 0);
                    try (ResultSet rows = all.executeQuery()) {
                        check(rows.next(), "no row");
                        equal(rows.getInt(1), number, "changed table");
                        equal(rows.getMetaData().getColumnCount(), columns, "columns");
                    }
                    if (!connection.getAutoCommit()) {
                        connection.commit();
                    }
                }
                connection.setAutoCommit(true);
                execute("alter table " + changing + " add column c" + columns + " int");
            }
        }
        execute("drop table " + changing);
    }

    // autosave=always puts a savepoint before every statement and goes back to it by itself.
    private void failWithinTransaction() throws SQLException {
        connection.setAutoCommit(false);
        try (PreparedStatement insert = connection.prepareStatement(
                "insert into " + table + " values (?::int, ?)")) {
            for (int row = 0; row < 30; row++) {
                insert.setString(1, row % 3 == 0 ? "no number" : "" + row);
                insert.setString(2, "saved");
                if (row % 3 == 0) {
                    fails("22P02", insert::executeUpdate);
                } else {
                    equal(insert.executeUpdate(), 1, "insert");
                }
            }
            connection.commit();
        }
        connection.setAutoCommit(true);
        equal(value("select count(*) from " + table), "20", "autosave");
        execute("truncate " + table);
    }

    private void cancel() throws Exception {
        try (PreparedStatement sleep = connection.prepareStatement("select pg_sleep(30), ?::text")) {
            sleep.setString(1, "cancelled");
            AtomicBoolean isOver = new AtomicBoolean();
            // A request has no effect before the statement runs; so it is repeated.
            Thread canceller = new Thread(() -> {
                try {
                    while (!isOver.get()) {
                        connection.unwrap(PGConnection.class).cancelQuery();
                        Thread.sleep(20);
                    }
                } catch (SQLException | InterruptedException error) {
                    throw new AssertionError(description, error);
                }
            });
            canceller.start();
            fails("57014", sleep::executeQuery);
            isOver.set(true);
            canceller.join();
        }
        // The driver asks for a cancel once a statement. Within a transaction it has a server.
        connection.setAutoCommit(false);
        value("select 1");
        try (Statement statement = connection.createStatement()) {
            statement.setQueryTimeout(1);
            if (number < 3) {
                fails("57014", () -> statement.executeQuery("select pg_sleep(30)"));
                connection.rollback();
            }
            statement.setQueryTimeout(0);
            try (ResultSet rows = statement.executeQuery("select 'after " + number + "'")) {
                check(rows.next(), "no row");
                equal(rows.getString(1), "after " + number, "after a cancel");
            }
        }
        connection.commit();
        connection.setAutoCommit(true);
    }

    private void passTypes() throws SQLException {
        byte[] bytes = {0, (byte) number, -1, 0, 92};
        Timestamp time = Timestamp.valueOf("2024-02-29 12:34:56.789012");
        BigDecimal decimal = new BigDecimal("12345678901234567890.0123456789");
        String sql = "select ?::jsonb, ?::int[], ?::timestamp, ?::bytea, ?::numeric, ?::text, "
                + "?::float8, ?::bigint, ?::boolean, ?::date, ?::uuid";
        try (PreparedStatement types = connection.prepareStatement(sql)) {
            for (int round = 0; round < 8; round++) {
                PGobject json = new PGobject();
                json.setType("jsonb");
                json.setValue("{\"n\": [" + number + ", null, \"\\u017e\"]}");
                types.setObject(1, json);
                types.setArray(2, connection.createArrayOf("int4", new Integer[] {number, null, round}));
                types.setTimestamp(3, time);
                types.setBytes(4, bytes);
                types.setBigDecimal(5, decimal);
                types.setNull(6, java.sql.Types.VARCHAR);
                types.setDouble(7, 0.1 + number);
                types.setLong(8, Long.MIN_VALUE + number);
                types.setBoolean(9, round % 2 == 0);
                types.setDate(10, java.sql.Date.valueOf("2024-02-29"));
                java.util.UUID uuid = new java.util.UUID(number, round);
                types.setObject(11, uuid);
                try (ResultSet rows = types.executeQuery()) {
                    check(rows.next(), "no row");
                    equal(rows.getString(1), "{\"n\": [" + number + ", null, \"ž\"]}", "json");
                    Object[] array = (Object[]) rows.getArray(2).getArray();
                    check(Arrays.equals(array, new Integer[] {number, null, round}), "array");
                    equal(rows.getTimestamp(3), time, "timestamp");
                    check(Arrays.equals(rows.getBytes(4), bytes), "bytes");
                    equal(rows.getBigDecimal(5), decimal, "numeric");
                    equal(rows.getString(6), null, "NULL");
                    equal(rows.getDouble(7), 0.1 + number, "float8");
                    equal(rows.getLong(8), Long.MIN_VALUE + number, "bigint");
                    equal(rows.getBoolean(9), round % 2 == 0, "boolean");
                    equal(rows.getDate(10).toString(), "2024-02-29", "date");
                    equal(rows.getObject(11), uuid, "uuid");
                }
            }
        }
    }

    private void passLargeData() throws SQLException {
        try (PreparedStatement large = connection.prepareStatement("select ?::text, md5(?)")) {
            for (int size : new int[] {10, 10_000, 1_500_000, 100}) {
                char[] letters = new char[size];
                Arrays.fill(letters, (char) ('a' + number));
                String text = new String(letters);
                large.setString(1, text);
                large.setString(2, text);
                try (ResultSet rows = large.executeQuery()) {
                    check(rows.next(), "no row");
                    check(text.equals(rows.getString(1)), "large text changed", size);
                }
            }
        }
        try (Statement statement = connection.createStatement();
                ResultSet rows = statement.executeQuery(
                        "select n, repeat('x', 100) from generate_series(1, 10000) n")) {
            long sum = 0;
            while (rows.next()) {
                sum += rows.getInt(1);
            }
            equal(sum, 50_005_000L, "large result");
        }
    }

    private void keepSettings() throws SQLException {
        // Others than the settings that a server reports do not outlive a transaction.
        execute("set application_name to 'java " + number + "'");
        execute("set timezone to 'Etc/GMT+" + number + "'");
        for (int round = 0; round < 10; round++) {
            equal(value("show application_name"), "java " + number, "application_name");
            equal(value("select current_setting('timezone')"), "Etc/GMT+" + number, "timezone");
        }
        execute("reset all");
        connection.setAutoCommit(false);
        execute("set local statement_timeout to " + (100_001 + number));
        execute("set local search_path to pg_catalog");
        equal(value("show statement_timeout"), (100_001 + number) + "ms", "timeout");
        equal(value("select current_schemas(false)::text"), "{pg_catalog}", "search_path");
        connection.commit();
        equal(value("show statement_timeout"), "0", "timeout of the next transaction");
        connection.commit();
        connection.setAutoCommit(true);
        connection.setReadOnly(true);
        fails("25006", () -> {
            connection.setAutoCommit(false);
            execute("insert into " + table + " values (1, 'never')");
        });
        connection.rollback();
        connection.setAutoCommit(true);
        connection.setReadOnly(false);
        execute("insert into " + table + " values (1, 'written')");
        execute("truncate " + table);
    }

    private void all(boolean hasAutosave) throws Exception {
        try {
            execute("create table " + table + " (n int, word text)");
            reuseStatements();
            useManyStatements();
            batch();
            fetchInParts();
            recoverFromErrors();
            followChangedTable(hasAutosave);
            if (hasAutosave) {
                failWithinTransaction();
            }
            cancel();
            passTypes();
            passLargeData();
            keepSettings();
            execute("drop table " + table);
        } catch (SQLException error) {
            throw new AssertionError(description, error);
        } finally {
            connection.close();
        }
    }

    private static final String[][] OPTIONS = {
        {"prepareThreshold=1"},
        {"prepareThreshold=5"},
        {"prepareThreshold=-1"},
        {"prepareThreshold=0"},
        {"prepareThreshold=1", "autosave=always"},
        {"prepareThreshold=2", "preparedStatementCacheQueries=20"},
        {"prepareThreshold=1", "autosave=conservative"},
        {"prepareThreshold=1", "binaryTransfer=false", "reWriteBatchedInserts=true"},
    };

    public static void main(String[] arguments) throws Exception {
        ExecutorService threads = Executors.newFixedThreadPool(CLIENTS);
        List<Future<?>> clients = new ArrayList<>();
        for (int number = 0; number < CLIENTS; number++) {
            int of = number;
            String[] options = OPTIONS[number % OPTIONS.length];
            boolean hasAutosave = Arrays.asList(options).contains("autosave=always");
            clients.add(threads.submit(() -> {
                new Pgjdbc(of, options).all(hasAutosave);
                return null;
            }));
        }
        boolean isFine = true;
        for (Future<?> client : clients) {
            try {
                client.get();
            } catch (ExecutionException error) {
                isFine = false;
                error.getCause().printStackTrace();
            }
        }
        System.out.println(isFine ? "fine" : "failed");
        System.exit(isFine ? 0 : 1);
    }
}
