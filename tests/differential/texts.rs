//! The SQL of the conversations.
//!
//! Owns: texts, each with its parameters.
//! Does not own: who says them when (`generator`).
//! Invariants: the result of a text depends on what the same session has done before only. What a text
//! changes for longer than its session are rows of `{t}` and `{u}`, the tables of one pair.
//!
//! Source: none.

/// SQL, and the type of each of its parameters: `i` integer, `s` text, `b` bytea.
pub(crate) type Text = (&'static str, &'static str);

/// Read something; the same whoever asks.
pub(crate) const READS: &[Text] = &[
    ("select 'one'", ""),
    ("select 'two' as b, 2", ""),
    ("select 3 where false", ""),
    ("select id, v from shared order by id", ""),
    ("select id, v from shared where id = $1", "i"),
    ("select generate_series(1, 5)", ""),
    ("values (1, 'a'), (2, 'b')", ""),
    ("select $1::int + 1", "i"),
    ("select $1::text, $2::int", "si"),
    ("select $1::bytea", "b"),
    ("select $1", "s"),
    ("select $1::int, $1::int / 2.0", "i"),
    (
        "select null::int, true, 1.5::numeric, now() is not null",
        "",
    ),
    ("explain (costs off) select id from shared", ""),
    ("select repeat('x', 20000)", ""),
    (
        "select /* as long as a page */ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'",
        "",
    ),
    ("show transaction_isolation", ""),
    ("select count(*) from {t}", ""),
    ("copy shared to stdout", ""),
    ("copy (select 1 where false) to stdout", ""),
    ("do $$begin raise notice 'a notice'; end$$", ""),
    ("-- nothing", ""),
    ("", ""),
];

/// Change rows of their own table.
pub(crate) const WRITES: &[Text] = &[
    ("insert into {t} values ($1, $2)", "is"),
    ("insert into {t} values (1, 'one')", ""),
    ("insert into {t} values (3, 'three') returning id, v", ""),
    (
        "insert into {t} values ($1, $2) on conflict (id) do update set v = excluded.v returning v",
        "is",
    ),
    ("update {t} set v = v || '!' where id < 3 returning *", ""),
    ("delete from {t}", ""),
    ("delete from {t} where id = $1 returning id", "i"),
    ("select * from {t} order by id for update", ""),
    ("truncate {t}", ""),
    ("select id, v from {t} order by id", ""),
    ("copy {t} to stdout", ""),
    ("lock table {t}", ""),
];

/// Fail, while they are parsed or later.
pub(crate) const ERRORS: &[Text] = &[
    ("select 1/0", ""),
    ("select 1/$1::int", "i"),
    ("select 10 / (3 - id) from shared order by id", ""),
    ("selec", ""),
    ("select no_such_column", ""),
    ("select * from no_such_table", ""),
    ("select $2::int", "ii"),
    ("select 'unterminated", ""),
    ("select 1; select 2", ""),
    ("insert into {t} values (1, 'one'), (1, 'again')", ""),
    ("select 'x'::int", ""),
    (
        "do $$begin raise exception 'mine' using errcode = 'P0001'; end$$",
        "",
    ),
    (
        "do $$begin raise exception 'prepared statement does not exist' using errcode = '26000'; end$$",
        "",
    ),
    ("vacuum shared", ""),
    ("fetch 1 from no_such_cursor", ""),
    ("execute no_such_statement", ""),
    ("deallocate no_such_statement", ""),
    ("set no_such_setting = 1", ""),
    ("set datestyle = 'nonsense'", ""),
];

/// Begin and end transactions.
pub(crate) const TRANSACTIONS: &[Text] = &[
    ("begin", ""),
    ("begin", ""),
    ("begin isolation level repeatable read", ""),
    ("commit", ""),
    ("commit", ""),
    ("rollback", ""),
    ("rollback", ""),
    ("commit and chain", ""),
    ("rollback and chain", ""),
    ("savepoint sp", ""),
    ("savepoint sp", ""),
    ("rollback to sp", ""),
    ("rollback to sp", ""),
    ("release sp", ""),
];

/// Settings that PostgreSQL reports, and showing them.
pub(crate) const SETTINGS: &[Text] = &[
    ("set timezone = 'Asia/Tokyo'", ""),
    ("set timezone = 'UTC'", ""),
    ("set local timezone = 'Europe/Lisbon'", ""),
    ("reset timezone", ""),
    ("set datestyle = 'German, DMY'", ""),
    ("set intervalstyle = 'iso_8601'", ""),
    ("set standard_conforming_strings = off", ""),
    ("set client_encoding = 'LATIN1'", ""),
    ("set application_name = 'another'", ""),
    ("reset all", ""),
    ("select set_config('timezone', 'Asia/Kathmandu', false)", ""),
    ("select set_config('datestyle', 'SQL', true)", ""),
    ("discard all", ""),
];

/// Settings that last no longer than the transaction.
pub(crate) const LOCAL_SETTINGS: &[Text] = &[
    ("set local work_mem = '1MB'", ""),
    ("set local statement_timeout = '7s'", ""),
    ("set local search_path = pg_catalog, public", ""),
];

/// Whose result depends on settings.
pub(crate) const SHOWS: &[Text] = &[
    ("show timezone", ""),
    ("show work_mem", ""),
    ("show datestyle", ""),
    ("show application_name", ""),
    ("select current_setting('timezone')", ""),
    ("select '2024-01-01 12:00'::timestamptz", ""),
    ("select $1::timestamptz", "t"),
    ("select '1 day 02:00'::interval", ""),
    (r"select 'back\\slash'", ""),
    ("select '2024-02-03'::date", ""),
    ("select chr(233)", ""),
];

/// Use what belongs to the session.
pub(crate) const SESSION: &[Text] = &[
    ("prepare s1 as select 'by sql'", ""),
    ("prepare s1 (int) as select $1 + 1", ""),
    ("prepare s2 as select id from shared order by id", ""),
    ("execute s1", ""),
    ("execute s1(4)", ""),
    ("execute s2", ""),
    ("deallocate s1", ""),
    ("deallocate s2", ""),
    (
        "declare cu cursor for select id, v from shared order by id",
        "",
    ),
    (
        "declare cu scroll cursor for select generate_series(1, 4)",
        "",
    ),
    (
        "declare cw cursor with hold for select generate_series(1, 3)",
        "",
    ),
    ("fetch 2 from cu", ""),
    ("fetch backward 1 from cu", ""),
    ("fetch all from cw", ""),
    ("move 1 in cu", ""),
    ("close cu", ""),
    ("close all", ""),
    ("create temp table mine (a int)", ""),
    (
        "create temp table if not exists mine on commit drop as select 5 as a",
        "",
    ),
    ("insert into mine values (1)", ""),
    ("select * from mine", ""),
    ("drop table mine", ""),
    ("discard temp", ""),
    ("discard plans", ""),
    ("discard sequences", ""),
];

/// Forget prepared statements.
pub(crate) const FORGETTING: &[Text] = &[
    ("deallocate a", ""),
    ("deallocate b", ""),
    ("deallocate prepare c", ""),
    ("deallocate \"d\"", ""),
    ("deallocate all", ""),
    ("deallocate prepare all", ""),
    ("discard all", ""),
];

/// Change the second table of the pair.
pub(crate) const DEFINITIONS: &[Text] = &[
    ("alter table {u} add column w int default 7", ""),
    ("alter table {u} drop column w", ""),
    ("alter table {u} alter column v type varchar(40)", ""),
    ("create index on {u} (v)", ""),
    ("select * from {u}", ""),
    ("select id, v from {u}", ""),
    ("insert into {u} values ($1, $2)", "is"),
    ("create table {u}_more (a int)", ""),
    ("drop table {u}_more", ""),
];

/// Read lines.
pub(crate) const COPIES: &[Text] = &[
    ("copy {t} from stdin", ""),
    ("copy {t} (id, v) from stdin", ""),
];

/// Of several commands, only for simple queries.
pub(crate) const SEVERAL: &[Text] = &[
    (";", ""),
    ("select 1; select 2", ""),
    ("select 'a';; select 'b';", ""),
    ("begin; select 1", ""),
    ("begin; select 1/0", ""),
    ("commit; begin", ""),
    ("begin; commit; select 5", ""),
    ("select 1; selec", ""),
    ("select 1; select 1/0; select 2", ""),
    ("insert into {t} values (5, 'five'); select 1/0", ""),
    ("insert into {t} values (6, 'six'); commit; select 1/0", ""),
    ("select 1; rollback; select 2", ""),
    ("begin; savepoint sp; select 1/0; rollback to sp", ""),
    ("prepare s2 as select 8; execute s2; deallocate s2", ""),
    (
        "begin; declare cu cursor for select generate_series(1, 9); fetch 3 in cu; commit",
        "",
    ),
    ("copy shared to stdout; select 4", ""),
    (
        "delete from {t}; copy {t} from stdin; copy {t} from stdin; select count(*) from {t}",
        "",
    ),
    ("set timezone = 'Asia/Tokyo'; show timezone", ""),
    (
        "begin; set local work_mem = '2MB'; show work_mem; commit",
        "",
    ),
    ("deallocate all; select 1", ""),
    ("deallocate a; deallocate b", ""),
];

/// True if the text leaves something that ends with the transaction in transaction mode, and only
/// with the session in PostgreSQL.
pub(crate) fn litters(sql: &str) -> bool {
    ["prepare", "with hold", "temp"]
        .iter()
        .any(|word| sql.contains(word))
}

/// True if the text may change a setting that PostgreSQL reports.
pub(crate) fn sets(sql: &str) -> bool {
    ["set ", "set_config", "discard all"]
        .iter()
        .any(|word| sql.contains(word))
        && !sql.starts_with("update")
}
