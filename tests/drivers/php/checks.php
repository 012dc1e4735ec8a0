<?php
/*
 * The checks of one driver: functions, run one after the other.
 *
 * Owns: running them, many clients at a time, names of tables, telling what failed.
 * Does not own: what is checked. The programs find the pooler by libpq's environment variables.
 */
declare(strict_types=1);

// Processes at a time, each with a connection; the pooler has SERVERS_MAX servers for them.
const CLIENTS = 8;
const SERVERS_MAX = 3;

/** A name for a table that no other program uses. */
function name(string $stem): string
{
    return basename($_SERVER['SCRIPT_NAME'], '.php') . "_$stem";
}

function equal(mixed $found, mixed $expected): void
{
    if ($found !== $expected) {
        $cut = fn (mixed $value) => substr(var_export($value, true), 0, 500);
        throw new Exception("{$cut($found)} is not {$cut($expected)}");
    }
}

/** `body` has to throw a PDOException with this SQLSTATE. */
function fails(string $code, callable $body): void
{
    try {
        $body();
    } catch (PDOException $error) {
        equal((string) $error->getCode(), $code);
        return;
    }
    throw new Exception("no error $code");
}

/** Runs `body(number)` in processes at the same time; any failure fails the check. */
function at_once(callable $body, int $clients = CLIENTS): void
{
    $children = [];
    for ($number = 0; $number < $clients; $number++) {
        $pid = pcntl_fork();
        if ($pid === 0) {
            try {
                $body($number);
            } catch (Throwable $error) {
                echo "client $number: $error\n";
                exit(1);
            }
            exit(0);
        }
        $children[] = $pid;
    }
    $failed = 0;
    foreach ($children as $pid) {
        pcntl_waitpid($pid, $status);
        $failed += $status === 0 ? 0 : 1;
    }
    equal($failed, 0);
}

/**
 * Runs the checks, by title, or those named on the command line; exits with 1 if one failed.
 * `gaps` says why a check has to fail for now. When it does not, the mark has to go.
 */
function run_checks(array $checks, array $gaps): never
{
    $wanted = array_slice($_SERVER['argv'], 1);
    $failed = 0;
    foreach ($checks as $title => $body) {
        if ($wanted && !in_array($title, $wanted)) {
            continue;
        }
        $start = microtime(true);
        $fault = null;
        try {
            $body();
        } catch (Throwable $error) {
            $fault = $error;
        }
        $gap = $gaps[$title] ?? null;
        if ($gap && $fault) {
            echo "known gap $title: $gap\n";
        } elseif ($fault || $gap) {
            $failed++;
            echo "FAILED $title: ", $fault ?? "a known gap is closed: $gap", "\n";
        } else {
            printf("passed %s %.2f s\n", $title, microtime(true) - $start);
        }
    }
    printf("%d passed, %d failed\n", count($checks) - $failed, $failed);
    exit($failed ? 1 : 0);
}
