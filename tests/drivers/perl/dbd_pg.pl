# DBD::Pg: statements prepared on the server, switched ones, cancel, COPY.
#
# The driver names its statements dbdpg_p<process>_<count> and deallocates them by SQL.
use strict;
use warnings;
use utf8;
use FindBin;
use lib $FindBin::Bin;

use DBI;
use DBD::Pg ':pg_types', ':async';

use Checks;

# What DBI tells of an error, kept from the statements that end while it passes by.
package Failure {
    use overload '""' => sub { $_[0]{message} };
}

sub connected {
    my ($attributes, $more) = @_;
    return DBI->connect('dbi:Pg:connect_timeout=20' . ($more // ''), undef, undef,
        { HandleError => \&fail, PrintError => 0, AutoCommit => 1, pg_enable_utf8 => 1, %{ $attributes // {} } });
}

sub fail {
    my ($message, $handle) = @_;
    die bless { message => $message, state => $handle->state }, 'Failure';
}

# Prepared at the first run, at the second, never.
sub mode {
    my ($number) = @_;
    return ({ pg_switch_prepared => 1 }, { pg_switch_prepared => 2 },
        { pg_server_prepare => 0 })[$number % 3];
}

sub one {
    my ($connection, $text, @values) = @_;
    return $connection->selectrow_arrayref($text, {}, @values);
}

sub prepare_table {
    my ($stem, $columns) = @_;
    my $table = name($stem);
    my $connection = connected();
    local $connection->{PrintWarn} = 0;
    $connection->do("drop table if exists $table");
    $connection->do("create table $table ($columns)");
    $connection->disconnect;
    return $table;
}

check 'every client gets its own values' => sub {
    at_once(sub {
        my ($number) = @_;
        my $connection = connected(mode($number));
        my $mine = $connection->prepare("select ?::int8 + $number");
        my $common = $connection->prepare('select ?::text, ?::int4[]');
        for my $turn (0 .. 79) {
            equal($connection->selectrow_arrayref($mine, {}, $turn), [$turn + $number]);
            equal($connection->selectrow_arrayref($common, {}, "$number'$turn", [$turn, $number]),
                ["$number'$turn", [$turn, $number]]);
            # Prepared, run and deallocated.
            equal(one($connection, "select ?::int8 * $turn", $number), [$number * $turn]);
            next if $turn % 4;
            $connection->begin_work;
            my $pid = one($connection, 'select pg_backend_pid()');
            equal($connection->selectrow_arrayref($mine, {}, $turn), [$turn + $number]);
            equal(one($connection, 'select pg_backend_pid()'), $pid);
            $turn % 8 ? $connection->commit : $connection->rollback;
            equal($connection->ping, 1);
        }
    }, 10);
};

check 'errors and savepoints leave the client usable' => sub {
    my $table = prepare_table('errors', 'client int, n int, unique (client, n)');
    at_once(sub {
        my ($number) = @_;
        my $connection = connected(mode($number));
        my $insert = $connection->prepare("insert into $table values (?, ?)");
        for my $turn (0 .. 9) {
            $connection->begin_work;
            $insert->execute($number, $turn);
            $connection->pg_savepoint('s');
            fails('23505', sub { $insert->execute($number, $turn) });
            fails('25P02', sub { one($connection, 'select ?::int4', 1) });
            $connection->pg_rollback_to('s');
            equal(one($connection, 'select ?::int4', $turn), [$turn]);
            $connection->pg_release('s');
            $connection->commit;
            fails('42601', sub { one($connection, 'selct ?', 1) });
            fails('22012', sub { one($connection, 'select 1 / ?::int4', 0) });
            fails('23505', sub { $insert->execute($number, $turn) });
            fails('22P02', sub { $insert->execute($number, 'no number') });
            equal(one($connection, 'select ?::int4', $turn), [$turn]);
            # A statement that ends in a failed transaction is not deallocated then.
            $connection->begin_work;
            my $left = $connection->prepare("select ?::int4, $turn");
            $left->execute(1);
            $left->finish;
            fails('22012', sub { $connection->do('select 1/0') });
            undef $left;
            $connection->rollback;
        }
        equal(one($connection, "select count(*) from $table where client = ?", $number), [10]);
    });
};

# Reads with every client between changes of a table; `read` takes the number of a client. At each
# change it may be refused so many times.
sub read_while_the_table_changes {
    my ($table, $refused_max, $read) = @_;
    my $connection = connected();
    my $errors = 0;
    for my $columns (1 .. 4) {
        $connection->do("insert into $table (a) values (1)");
        for my $number ((0 .. CLIENTS - 1) x 3) {
            my $rows = eval { $read->($number) };
            if ($rows) {
                equal(scalar @{ $rows->[0] }, $columns);
            } else {
                equal(ref $@ ? $@->{state} : $@, '0A000');
                $errors++;
            }
        }
        $connection->do("alter table $table add column b$columns int");
    }
    die "$errors errors" if $errors > 3 * $refused_max;
}

check 'changed tables are read again by new statements' => sub {
    my $table = prepare_table('changed', 'a int');
    my @connections = map { connected({ pg_switch_prepared => 1 }) } 1 .. CLIENTS;
    # Once for each server that has the statement, not once for each client.
    read_while_the_table_changes($table, SERVERS_MAX, sub {
        return $connections[$_[0]]->selectall_arrayref("select * from $table where a = ?", {}, 1);
    });
};

# PostgreSQL refuses to run a statement whose columns have changed since it was prepared, until it
# is prepared anew. The driver has room for the old ones only: with another result its process ends
# by a signal.
check 'changed tables are read again by kept statements' => sub {
    my $table = prepare_table('changed_kept', 'a int');
    at_once(sub {
        my @connections = map { connected({ pg_switch_prepared => 1 }) } 1 .. CLIENTS;
        my @statements = map { $_->prepare("select * from $table where a = ?") } @connections;
        read_while_the_table_changes($table, CLIENTS, sub {
            my ($number) = @_;
            my $statement = $statements[$number];
            if (!eval { $statement->execute(1) }) {
                my $error = $@;
                fails('0A000', sub { $statement->execute(1) });
                $statements[$number] =
                    $connections[$number]->prepare("select * from $table where a = ?");
                die $error;
            }
            return $statement->fetchall_arrayref;
        });
    }, 1);
};

check 'copies go in and out' => sub {
    my $table = prepare_table('copies', 'client int, n int unique, word text');
    at_once(sub {
        my ($number) = @_;
        my $connection = connected(mode($number));
        my @rows = map { "$number\t" . (10000 * $number + $_) . "\tw$_\n" } 0 .. 1999;
        $connection->do("copy $table from stdin");
        $connection->pg_putcopydata($_) for @rows;
        $connection->pg_putcopyend;
        $connection->do("copy $table from stdin");
        $connection->pg_putcopydata($rows[0]);
        fails('23505', sub { $connection->pg_putcopyend });
        $connection->do("copy (select * from $table where client = $number order by n) to stdout");
        my ($row, @found);
        push @found, $row while $connection->pg_getcopydata($row) >= 0;
        equal(\@found, \@rows);
        equal(one($connection, 'select ?::int4', $number), [$number]);
    });
};

check 'cursors live in transactions' => sub {
    at_once(sub {
        my ($number) = @_;
        my $connection = connected(mode($number));
        $connection->begin_work;
        $connection->do('declare c cursor for select ? + g from generate_series(1, 200) g', {},
            $number);
        my @found;
        while (my $rows = $connection->selectcol_arrayref('fetch 30 from c')) {
            last if !@$rows;
            push @found, @$rows;
        }
        $connection->commit;
        equal(\@found, [map { $number + $_ } 1 .. 200]);
    });
};

check 'cancel requests and timeouts end their own query' => sub {
    at_once(sub {
        my ($number) = @_;
        my $limit = $number % 2 ? 100 : 0;
        my $connection = connected(mode($number), ";options='-c statement_timeout=$limit'");
        if ($number % 4 == 0) {
            my $text = "select pg_sleep(60), 'client $number'";
            $connection->do($text, { pg_async => PG_ASYNC });
            # The driver asks once and waits for the query, which has to be at a server by then.
            my $observer = connected();
            my $running = q{select count(*) from pg_stat_activity
                where query = ? and state = 'active'};
            select(undef, undef, undef, 0.02) until one($observer, $running, $text)->[0];
            fails('57014', sub { $connection->pg_cancel; $connection->pg_result });
        }
        for my $turn (0 .. 2) {
            if ($limit) {
                fails('57014', sub { one($connection, 'select pg_sleep(?)', 10) });
            } else {
                one($connection, 'select pg_sleep(?)', 0.12);
            }
            equal(one($connection, 'select ?::int4', $turn), [$turn]);
        }
        $connection->begin_work;
        $connection->do('set local statement_timeout = 20');
        fails('57014', sub { one($connection, 'select pg_sleep(?)', 10) });
        $connection->rollback;
    });
};

check 'values of all types come back' => sub {
    my @values = (
        [bool => 1], [int4 => 2**31 - 1], [int8 => '-9223372036854775808'],
        [float8 => '1.5e+300'], [numeric => '-12345678901234567890.000000001'],
        [text => "žluťoučký 🐎 'x' \\ \\?"], [text => ''], [date => '2024-02-29'],
        [timestamp => '1999-12-31 23:59:59.123456'], [jsonb => '{"a": [1, null, "ž"]}'],
        ['int4[]' => [1, undef, 3]], ['text[]' => ['a', 'b,', '"']], [int4 => undef],
        [text => undef], [uuid => '11111111-2222-3333-4444-555555555555'],
    );
    at_once(sub {
        my ($number) = @_;
        my $connection = connected(mode($number));
        for my $turn (0 .. 2 * $#values) {
            my ($type, $value) = @{ $values[($turn + $number) % @values] };
            equal(one($connection, "select ?::$type", $value), [$value]);
        }
        my $data = join '', map { chr(($_ * 7 + $number) % 256) } 1 .. 100_000;
        my $statement = $connection->prepare('select ?::bytea');
        for (1 .. 3) {
            $statement->bind_param(1, $data, { pg_type => PG_BYTEA });
            $statement->execute;
            die 'other bytes' if $statement->fetchrow_arrayref->[0] ne $data;
            $statement->finish;
        }
    });
};

check 'large values and results arrive' => sub {
    at_once(sub {
        my ($number) = @_;
        my $connection = connected(mode($number));
        my $text = "${number}ž" x 500_000;
        die 'another text' if one($connection, 'select ?::text', $text)->[0] ne $text;
        my $rows = $connection->selectall_arrayref(
            'select g, repeat(?::text, 20) from generate_series(1, 10000) g', {}, $number);
        equal(scalar @$rows, 10000);
        equal($rows->[$_], [$_ + 1, $number x 20]) for 0, 4999, 9999;
    });
};

check 'settings follow the client' => sub {
    at_once(sub {
        my ($number) = @_;
        my $zone = ('UTC', 'Asia/Tokyo', 'America/New_York')[$number % 3];
        my $connection = connected(mode($number),
            ";application_name=client$number;options='-c search_path=public,app$number'");
        $connection->do("set time zone '$zone'");
        for (1 .. 10) {
            my $shown = one($connection, q{select current_setting('TimeZone'),
                current_setting('application_name'), current_setting('search_path')});
            equal($shown, [$zone, "client$number", "public,app$number"]);
        }
    });
};

run_checks();
