//! `pg_doorman generate`: a configuration made from what a PostgreSQL server has, or an example.
//!
//! **Owns:** the command, which values it writes.
//! **Does not own:** the questions to the server (`introspect`), the layout (`config::draft`).
//! **Invariants:** what is written loads without changes; a file it makes is readable by its owner
//! only.

mod introspect;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use crate::config::draft::{self, Detail, Draft, DraftPool, Entries, Language, write};
use crate::server::ServerError;

use super::{result_file, say};
use introspect::{Inventory, Target};

/// The port of PostgreSQL.
const PORT_OF_SERVER: u16 = 5432;
/// The port in generated files.
const PORT: i64 = 6432;
/// The stored password of the example's user.
const EXAMPLE_PASSWORD: &str = "md5dd9a0f26a4302744db881776a09bbfad";

/// Arguments of `generate`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct GenerateArgs {
    /// Server to ask: host name, IP, or the directory of its Unix socket
    #[arg(long, env = "PGHOST", default_value = "localhost", value_name = "HOST")]
    pub host: String,

    /// Port of the server
    #[arg(
        short,
        long,
        env = "PGPORT",
        default_value_t = PORT_OF_SERVER,
        value_parser = port,
        value_name = "PORT"
    )]
    pub port: u16,

    /// Superuser to log in as: only a superuser may read the stored passwords
    #[arg(
        short,
        long,
        env = "PGUSER",
        default_value = "postgres",
        value_name = "NAME"
    )]
    pub user: String,

    /// Its password; better given as PGPASSWORD, where other users of this machine do not see it
    #[arg(long, env = "PGPASSWORD", default_value = "", hide_env_values = true)]
    #[arg(hide_default_value = true, value_name = "PASSWORD")]
    pub password: String,

    /// Database to log in to
    #[arg(
        short,
        long,
        env = "PGDATABASE",
        default_value = "postgres",
        value_name = "NAME"
    )]
    pub database: String,

    /// Write `server_tls = true`; the server is asked without TLS all the same
    #[arg(long)]
    pub ssl: bool,

    /// `pool_size` of every user
    #[arg(long, default_value_t = 40, value_name = "COUNT")]
    pub pool_size: u32,

    /// Write `pool_mode = session` instead of `transaction`
    #[arg(short, long)]
    pub session_pool_mode: bool,

    /// Where to write the result, readable by you only; standard output if not given
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// `server_host` to write, if it differs from --host
    #[arg(long, value_name = "HOST")]
    pub server_host: Option<String>,

    /// Only keys and values, without descriptions
    #[arg(long)]
    pub no_comments: bool,

    /// An example with every key; no server is asked
    #[arg(long)]
    pub reference: bool,

    /// Descriptions in Russian
    #[arg(long, visible_alias = "ru")]
    pub russian_comments: bool,

    /// Format of the result; by default that of the name given to --output, else YAML
    #[arg(short, long, value_enum, ignore_case = true, value_name = "FORMAT")]
    pub format: Option<FileFormat>,
}

impl GenerateArgs {
    /// An empty variable counts as none, as it does for libpq.
    fn with_defaults(mut self) -> Self {
        for (value, default) in [
            (&mut self.host, "localhost"),
            (&mut self.user, "postgres"),
            (&mut self.database, "postgres"),
        ] {
            if value.is_empty() {
                default.clone_into(value);
            }
        }
        self
    }
}

/// Reads a port. An empty variable counts as none.
fn port(text: &str) -> Result<u16, std::num::ParseIntError> {
    if text.is_empty() {
        return Ok(PORT_OF_SERVER);
    }
    text.parse()
}

/// Format of a configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// YAML
    Yaml,
    /// TOML
    Toml,
}

/// Runs the command. Exit code 1 if the server cannot be asked or the file not be written.
pub fn run(args: &GenerateArgs) -> ExitCode {
    let args = &args.clone().with_defaults();
    let inventory = if args.reference {
        example()
    } else {
        match ask(args) {
            Ok(inventory) => inventory,
            Err(reason) => {
                say::err(&format_args!("pg_doorman generate: {reason}"));
                return ExitCode::FAILURE;
            }
        }
    };
    result_file::write(&text(args, &inventory), args.output.as_deref(), "generate")
}

fn ask(args: &GenerateArgs) -> Result<Inventory, String> {
    if args.ssl {
        return Err("cannot ask a server over TLS yet: leave out --ssl".to_owned());
    }
    let target = Target {
        host: &args.host,
        port: args.port,
        user: &args.user,
        password: &args.password,
        database: &args.database,
    };
    introspect::inventory(&target).map_err(|error| {
        let reason = match error {
            ServerError::Authentication(_) if args.password.is_empty() => {
                "it wants a password, which PGPASSWORD can hold".to_owned()
            }
            other => other.to_string(),
        };
        format!(
            "cannot ask {}:{} as {}: {reason}",
            args.host, args.port, args.user
        )
    })
}

/// Stands for a server.
fn example() -> Inventory {
    Inventory {
        users: vec![("app_user".to_owned(), EXAMPLE_PASSWORD.to_owned())],
        databases: vec!["exampledb".to_owned()],
    }
}

fn text(args: &GenerateArgs, inventory: &Inventory) -> String {
    let detail = match (args.no_comments, args.russian_comments) {
        (true, _) => Detail::Plain,
        (false, false) => Detail::Described(Language::English),
        (false, true) => Detail::Described(Language::Russian),
    };
    write(&draft(args, inventory), format_of(args), detail)
}

fn format_of(args: &GenerateArgs) -> draft::Format {
    let by_name = |path: &Path| {
        let extension = path.extension().unwrap_or_default();
        ["yaml", "yml"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    };
    match (args.format, &args.output) {
        (Some(FileFormat::Yaml), _) | (None, None) => draft::Format::Yaml,
        (None, Some(path)) if by_name(path) => draft::Format::Yaml,
        // As the configuration is read: what is not called YAML is TOML.
        (Some(FileFormat::Toml), _) | (None, Some(_)) => draft::Format::Toml,
    }
}

fn draft(args: &GenerateArgs, inventory: &Inventory) -> Draft {
    let mut draft = Draft {
        head: head(args),
        ..Draft::default()
    };
    let general = &mut draft.general;
    general.set("host", "0.0.0.0");
    general.set("port", PORT);
    general.set("log_client_connections", true);
    general.set("admin_username", "admin");
    general.set("admin_password", "admin");
    if args.ssl {
        general.set("server_tls", true);
    }
    for database in &inventory.databases {
        draft.pools.push(pool(args, database, &inventory.users));
    }
    draft
}

fn head(args: &GenerateArgs) -> Vec<String> {
    let mut head = vec![if args.russian_comments {
        "Настройки pg_doorman. Закомментированные ключи по умолчанию не заданы: приведён пример. Время: число миллисекунд или строка с ms, s, m, h, d; размер: число байт или строка с B, KB, MB, GB.".to_owned()
    } else {
        "Configuration of pg_doorman. Keys that are commented out are not set by default: an example is shown. Durations: a number of milliseconds, or a string with ms, s, m, h or d; sizes: a number of bytes, or a string with B, KB, MB or GB.".to_owned()
    }];
    let before_use = if args.russian_comments {
        "Перед использованием: смените admin_password, ограничьте доступ в pg_hba. Без server_username и server_password сервер должен пускать пулер без пароля."
    } else {
        "Before you use it: change admin_password, and narrow access with pg_hba. Without server_username and server_password, servers have to let the pooler in without a password."
    };
    head.push(before_use.to_owned());
    head
}

fn pool(args: &GenerateArgs, database: &str, users: &[(String, String)]) -> DraftPool {
    let mut keys = Entries::default();
    let mode = if args.session_pool_mode {
        "session"
    } else {
        "transaction"
    };
    keys.set("pool_mode", mode);
    let host = match (&args.server_host, args.reference) {
        (Some(host), _) => host.as_str(),
        (None, true) => "127.0.0.1",
        (None, false) => args.host.as_str(),
    };
    keys.set("server_host", host);
    keys.set("server_port", i64::from(args.port));
    keys.set("server_database", database);
    let users = users.iter().map(|(name, secret)| {
        let mut user = Entries::default();
        user.set("username", name.as_str());
        user.set("password", secret.as_str());
        user.set("pool_size", i64::from(args.pool_size));
        user
    });
    DraftPool {
        name: database.to_owned(),
        keys,
        users: users.collect(),
    }
}

#[cfg(test)]
mod tests;
