<?php
/*
 * PDO with pdo_pgsql: statements prepared on the server, emulated ones, and neither.
 *
 * The driver names its statements alike in every process and deallocates them by SQL.
 */
declare(strict_types=1);

require __DIR__ . '/checks.php';

const MODES = [
    'prepared' => [PDO::ATTR_EMULATE_PREPARES => false],
    'emulated' => [PDO::ATTR_EMULATE_PREPARES => true],
    'unnamed' => [PDO::PGSQL_ATTR_DISABLE_PREPARES => true],
];

function connect(array $attributes = [], string $more = ''): PDO
{
    // The driver takes user and password from here, all else is found by libpq.
    return new PDO("pgsql:connect_timeout=20$more", getenv('PGUSER'), getenv('PGPASSWORD'),
        $attributes + [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION,
            PDO::ATTR_DEFAULT_FETCH_MODE => PDO::FETCH_NUM]);
}

/** One of the three ways to run statements, taken in turn. */
function mode(int $number): array
{
    return array_values(MODES)[$number % count(MODES)];
}

function one(PDO $connection, string $text, array $values = []): array|false
{
    $statement = $connection->prepare($text);
    $statement->execute($values);
    return $statement->fetch();
}

function prepare_table(string $stem, string $columns): string
{
    $table = name($stem);
    connect()->exec("drop table if exists $table; create table $table ($columns)");
    return $table;
}

$checks = [];
// Checks that have to fail for now, and why.
$gaps = [];

foreach (MODES as $mode => $attributes) {
    $checks["every client gets its own values, $mode"] = fn () => at_once(
        function (int $number) use ($attributes): void {
            $connection = connect($attributes);
            $mine = $connection->prepare("select cast(? as int8) + $number");
            $common = $connection->prepare('select cast(? as text), cast(? as int4)');
            for ($turn = 0; $turn < 60; $turn++) {
                $mine->execute([$turn]);
                equal($mine->fetchAll(), [[$turn + $number]]);
                $common->execute(["$number'$turn", $turn]);
                equal($common->fetch(), ["$number'$turn", $turn]);
                $common->closeCursor();
                // Prepared, run once and deallocated.
                equal(one($connection, "select cast(? as int4) * $turn", [$number]),
                    [$number * $turn]);
                if ($turn % 4 === 0) {
                    $connection->beginTransaction();
                    $pid = one($connection, 'select pg_backend_pid()');
                    $mine->execute([$turn]);
                    equal($mine->fetchAll(), [[$turn + $number]]);
                    equal(one($connection, 'select pg_backend_pid()'), $pid);
                    $turn % 8 ? $connection->commit() : $connection->rollBack();
                }
            }
        }
    );

    $checks["errors and savepoints leave the client usable, $mode"] = function () use (
        $attributes
    ): void {
        $table = prepare_table('errors', 'client int, n int, unique (client, n)');
        at_once(function (int $number) use ($attributes, $table): void {
            $connection = connect($attributes);
            $insert = $connection->prepare("insert into $table values (?, ?)");
            for ($turn = 0; $turn < 10; $turn++) {
                $connection->beginTransaction();
                $insert->execute([$number, $turn]);
                $connection->exec('savepoint s');
                fails('23505', fn () => $insert->execute([$number, $turn]));
                fails('25P02', fn () => one($connection, 'select cast(? as int4)', [1]));
                $connection->exec('rollback to savepoint s');
                equal(one($connection, 'select cast(? as int4)', [$turn]), [$turn]);
                $connection->commit();
                fails('42601', fn () => one($connection, 'selct ?', [1]));
                fails('22012', fn () => one($connection, 'select 1 / cast(? as int4)', [0]));
                fails('23505', fn () => $insert->execute([$number, $turn]));
                equal(one($connection, 'select cast(? as int4)', [$turn]), [$turn]);
            }
            equal(one($connection, "select count(*) from $table where client = ?", [$number]),
                [10]);
        });
    };
}

/**
 * Reads with every client between changes of a table; `read` takes the number of a client. At each
 * change it may be refused so many times.
 */
function read_while_the_table_changes(string $table, int $refused_max, callable $read): void
{
    $connection = connect();
    $errors = 0;
    foreach ([1, 2, 3, 4] as $columns) {
        $connection->exec("insert into $table (a) values (1)");
        foreach ([...range(1, CLIENTS), ...range(1, CLIENTS), ...range(1, CLIENTS)] as $number) {
            try {
                equal(count($read($number - 1)[0]), $columns);
            } catch (PDOException $error) {
                equal($error->getCode(), '0A000');
                $errors++;
            }
        }
        $connection->exec("alter table $table add column b$columns int");
    }
    if ($errors > 3 * $refused_max) {
        throw new Exception("$errors errors");
    }
}

$checks['changed tables are read again by new statements'] = function (): void {
    $table = prepare_table('changed', 'a int');
    $connections = array_map(fn () => connect(MODES['prepared']), range(1, CLIENTS));
    // Once for each server that has the statement, not once for each client.
    $read = function (int $number) use ($connections, $table) {
        $statement = $connections[$number]->prepare("select * from $table where a = ?");
        $statement->execute([1]);
        return $statement->fetchAll();
    };
    read_while_the_table_changes($table, SERVERS_MAX, $read);
};

// PostgreSQL refuses to run a statement whose columns have changed since it was prepared, until it
// is prepared anew. The driver has room for the old ones only: another result spoils the memory of
// its process.
$checks['changed tables are read again by kept statements'] = function (): void {
    $table = prepare_table('changed_kept', 'a int');
    at_once(function () use ($table): void {
        $connections = array_map(fn () => connect(MODES['prepared']), range(1, CLIENTS));
        $prepare = fn ($connection) => $connection->prepare("select * from $table where a = ?");
        $statements = array_map($prepare, $connections);
        $seen = [];
        $read = function (int $number) use ($connections, $prepare, &$statements, &$seen) {
            try {
                $statements[$number]->execute([1]);
            } catch (PDOException $error) {
                fails('0A000', fn () => $statements[$number]->execute([1]));
                $statements[$number] = $prepare($connections[$number]);
                unset($seen[$number]);
                throw $error;
            }
            $columns = $statements[$number]->columnCount();
            equal($columns, $seen[$number] ??= $columns);
            return $statements[$number]->fetchAll();
        };
        read_while_the_table_changes($table, CLIENTS, $read);
    }, 1);
};

$checks['cursors live in transactions'] = fn () => at_once(function (int $number): void {
    $connection = connect(mode($number));
    for ($round = 0; $round < 3; $round++) {
        $connection->beginTransaction();
        $statement = $connection->prepare(
            'select cast(? as int4) + g from generate_series(1, 100) g',
            [PDO::ATTR_CURSOR => PDO::CURSOR_SCROLL]);
        $statement->execute([$number]);
        for ($n = 1; $n <= 100; $n++) {
            equal($statement->fetch(), [$number + $n]);
        }
        equal($statement->fetch(PDO::FETCH_NUM, PDO::FETCH_ORI_ABS, 7), [$number + 7]);
        unset($statement);
        $connection->commit();
        equal(one($connection, 'select cast(? as int4)', [$number]), [$number]);
    }
});

$checks['copies go in and out'] = function (): void {
    $table = prepare_table('copies', 'client int, n int unique, word text');
    at_once(function (int $number) use ($table): void {
        $connection = connect(mode($number));
        $rows = [];
        for ($n = 0; $n < 2000; $n++) {
            $rows[] = "$number\t" . (10000 * $number + $n) . "\tw$n";
        }
        equal($connection->pgsqlCopyFromArray($table, $rows), true);
        fails('23505', fn () => $connection->pgsqlCopyFromArray($table, $rows));
        $out = $connection->pgsqlCopyToArray(
            "(select * from $table where client = $number order by n)");
        equal(array_map('rtrim', $out), $rows);
        equal(one($connection, 'select cast(? as int4)', [$number]), [$number]);
    });
};

$checks['timeouts end their own query'] = fn () => at_once(function (int $number): void {
    $limit = $number % 2 ? 100 : 0;
    $connection = connect(mode($number), ";options='-c statement_timeout=$limit'");
    for ($turn = 0; $turn < 3; $turn++) {
        if ($number % 2) {
            fails('57014', fn () => one($connection, 'select pg_sleep(?)', [10]));
        } else {
            one($connection, 'select pg_sleep(?)', [0.12]);
        }
        equal(one($connection, 'select cast(? as int4)', [$turn]), [$turn]);
    }
    $connection->beginTransaction();
    $connection->exec('set local statement_timeout = 20');
    fails('57014', fn () => one($connection, 'select pg_sleep(?)', [10]));
    $connection->rollBack();
});

$checks['values of all types come back'] = fn () => at_once(function (int $number): void {
    $connection = connect(mode($number));
    $values = [
        ['bool', true], ['int4', 2 ** 31 - 1], ['int8', PHP_INT_MAX], ['float8', '1.5e+300'],
        ['numeric', '-12345678901234567890.000000001'], ['text', "žluťoučký 🐎 'x' \\ ?"],
        ['text', ''], ['date', '2024-02-29'], ['timestamp', '1999-12-31 23:59:59.123456'],
        ['jsonb', '{"a": [1, null, "ž"]}'], ['int4[]', '{1,NULL,3}'], ['text[]', '{a,"b,"}'],
        ['int4', null], ['text', null], ['uuid', '11111111-2222-3333-4444-555555555555'],
    ];
    for ($n = 0; $n < 2 * count($values); $n++) {
        [$type, $value] = $values[($n + $number) % count($values)];
        equal(one($connection, "select cast(? as $type)", [$value]), [$value]);
    }
    $data = random_bytes(100_000);
    $statement = $connection->prepare('select cast(? as bytea)');
    for ($turn = 0; $turn < 3; $turn++) {
        $statement->bindValue(1, $data, PDO::PARAM_LOB);
        $statement->execute();
        equal(stream_get_contents($statement->fetch()[0]) === $data, true);
    }
});

$checks['large values and results arrive'] = fn () => at_once(function (int $number): void {
    $connection = connect(mode($number));
    $text = str_repeat("{$number}ž", 500_000);
    equal(one($connection, 'select cast(? as text)', [$text])[0] === $text, true);
    $statement = $connection->prepare(
        'select g, repeat(cast(? as text), 20) from generate_series(1, 10000) g');
    $statement->execute([$number]);
    foreach ($statement->fetchAll() as $n => $row) {
        equal($row, [$n + 1, str_repeat("$number", 20)]);
    }
});

$checks['settings follow the client'] = fn () => at_once(function (int $number): void {
    $zone = ['UTC', 'Asia/Tokyo', 'America/New_York'][$number % 3];
    $connection = connect(mode($number),
        ";application_name=client$number;options='-c search_path=public,app$number'");
    $connection->exec("set time zone '$zone'");
    for ($turn = 0; $turn < 10; $turn++) {
        $shown = one($connection, "select current_setting('TimeZone'),"
            . " current_setting('application_name'), current_setting('search_path')");
        equal($shown, [$zone, "client$number", "public,app$number"]);
    }
});

$checks['connections that the driver keeps are used again'] = fn () => at_once(
    function (int $number): void {
        for ($turn = 0; $turn < 10; $turn++) {
            $connection = connect(mode($number) + [PDO::ATTR_PERSISTENT => true]);
            equal(one($connection, 'select cast(? as int4)', [$number]), [$number]);
            if ($turn % 3 === 0) {
                // Left open; the driver rolls it back.
                $connection->beginTransaction();
            }
            unset($connection);
        }
    }
);

run_checks($checks, $gaps);
