//! The descriptions of `keys` in Russian, for files written with `generate --russian-comments`.
//!
//! **Owns:** the translations.
//! **Does not own:** which keys there are (`keys`); a test proves that each has a translation.

use super::keys::Section;
use super::keys::Section::{AuthQuery, General, Include, Pool, Prometheus, Talos, User};

/// What a key does, in Russian; an empty text for a key that does not exist.
pub(super) fn meaning(section: Section, name: &str) -> &'static str {
    let row = MEANINGS
        .iter()
        .find(|(of, key, _)| *of == section && *key == name);
    row.map_or("", |(_, _, text)| text)
}

/// A heading of `[general]` in Russian; the heading itself if there is no translation.
pub(super) fn heading(group: &'static str) -> &'static str {
    let row = HEADINGS.iter().find(|(english, _)| *english == group);
    row.map_or(group, |(_, text)| text)
}

const HEADINGS: &[(&str, &str)] = &[
    ("Network", "Сеть"),
    ("Timeouts", "Время ожидания"),
    ("Memory and message sizes", "Память и размеры сообщений"),
    ("Logging", "Журнал"),
    ("Workers", "Потоки"),
    ("Pool behaviour", "Работа пулов"),
    ("TLS", "TLS"),
    (
        "Admin console and daemon",
        "Консоль администратора и фоновая работа",
    ),
    ("Access control", "Доступ"),
];

const MEANINGS: &[(Section, &str, &str)] = &[
    (
        Include,
        "files",
        "Дополнительные файлы TOML или YAML, которые по порядку сливаются с этим: таблицы объединяются, массивы складываются, из двух скаляров действует последний. Пути отсчитываются от рабочего каталога. Без рекурсии.",
    ),
    (
        General,
        "host",
        "Адреса, на которых принимаются подключения: список или строка через запятую. Каждый — IP, имя, у которого берётся первый адрес, или `*`: все адреса. IPv6 `::` принимает и IPv4, если в списке нет адреса IPv4. Пусто = только Unix-сокет.",
    ),
    (General, "port", "Порт, на котором принимаются подключения."),
    (
        General,
        "unix_socket_dir",
        "Каталог для Unix-сокета `.s.PGSQL.<port>`, принимающего подключения. К его клиентам относятся строки `local` из `pg_hba`.",
    ),
    (
        General,
        "unix_socket_mode",
        "Кому разрешено подключаться к нему, как в chmod. `0777` = всем на этой машине, `0770` = группе.",
    ),
    (
        General,
        "backlog",
        "Длина очереди входящих подключений. 0 = `max_connections`.",
    ),
    (
        General,
        "max_connections",
        "Сколько клиентов может быть подключено одновременно; остальные получают ошибку.",
    ),
    (
        General,
        "tcp_keepalives_idle",
        "Время простоя до первой пробы TCP keepalive, для клиентов и серверов. 0 = значение системы.",
    ),
    (
        General,
        "tcp_keepalives_interval",
        "Время между пробами TCP keepalive. 0 = значение системы.",
    ),
    (
        General,
        "tcp_keepalives_count",
        "После скольких проб без ответа соединение считается потерянным. 0 = значение системы.",
    ),
    (
        General,
        "tcp_so_linger",
        "Сколько закрытый сокет может досылать остаток данных. 0 = при закрытии отправляется reset.",
    ),
    (
        General,
        "tcp_no_delay",
        "Отправлять небольшие пакеты сразу (TCP_NODELAY).",
    ),
    (
        General,
        "tcp_user_timeout",
        "Сколько отправленные данные могут оставаться без подтверждения (TCP_USER_TIMEOUT). 0 = значение системы.",
    ),
    (
        General,
        "unix_socket_buffer_size",
        "Буферы ядра в каждом направлении для соединений с серверами через Unix-сокеты.",
    ),
    (
        General,
        "client_login_timeout",
        "Время от подключения клиента до конца аутентификации. 0 = без ограничения.",
    ),
    (
        General,
        "connect_timeout",
        "Время на открытие соединения с сервером вместе с аутентификацией.",
    ),
    (
        General,
        "query_wait_timeout",
        "Сколько клиент ждёт свободного соединения с сервером, прежде чем получить ошибку.",
    ),
    (
        General,
        "idle_timeout",
        "Соединения с сервером, не использованные столько времени, закрываются. 0 = никогда.",
    ),
    (
        General,
        "server_lifetime",
        "Возраст, в котором соединения с сервером закрываются; для каждого меняется в пределах 20 %. 0 = без ограничения.",
    ),
    (
        General,
        "retain_connections_time",
        "Период задачи, закрывающей простаивающие и старые соединения с серверами. 0 = выключена.",
    ),
    (
        General,
        "retain_connections_max",
        "Сколько простаивающих соединений эта задача закрывает за один раз. 0 = без ограничения.",
    ),
    (
        General,
        "server_idle_check_timeout",
        "Соединения с сервером, простоявшие дольше, перед использованием проверяются пустым запросом. 0 = не проверять.",
    ),
    (
        General,
        "shutdown_timeout",
        "Сколько может длиться мягкая остановка.",
    ),
    (
        General,
        "tls_relay_max_lifetime",
        "Шифрованные клиенты, которых старый процесс после обновления программы держит дольше, отключаются между транзакциями (57P01), каждый не более чем на пятую часть раньше. 0 = не отключать.",
    ),
    (
        General,
        "proxy_copy_data_timeout",
        "Время, за которое одна строка длиннее `message_size_to_be_stream` должна дойти до клиента; затем клиент и сервер отключаются. 0 = без ограничения.",
    ),
    (
        General,
        "client_idle_timeout",
        "Клиент, молчащий столько времени вне транзакции, отключается (57P05). 0 = выключено.",
    ),
    (
        General,
        "idle_transaction_timeout",
        "Клиент, молчащий столько времени внутри транзакции, отключается (25P03), транзакция откатывается. 0 = выключено.",
    ),
    (
        General,
        "transaction_timeout",
        "Клиент, транзакция которого длится дольше, отключается (25P04). Время ожидания сервера не считается. 0 = выключено.",
    ),
    (
        General,
        "query_timeout",
        "Клиент, запрос которого выполняется на сервере дольше, отключается (57014); запрос отменяется, соединение с сервером закрывается. COPY считается одним запросом. 0 = выключено.",
    ),
    (
        General,
        "message_size_to_be_stream",
        "Строки длиннее этого ограничены временем `proxy_copy_data_timeout`. 0 = никакие.",
    ),
    (
        General,
        "max_memory_usage",
        "Сколько байт сообщений клиентов может читаться одновременно; сообщение сверх этого отклоняется.",
    ),
    (
        General,
        "log_client_connections",
        "Записывать в журнал подключения и отключения клиентов.",
    ),
    (
        General,
        "log_client_disconnections",
        "Записывать в журнал отключения клиентов, даже если `log_client_connections` выключен.",
    ),
    (
        General,
        "log_level",
        "Подробность журнала: `error`, `warn`, `info`, `debug` или `trace`. Важнее командной строки и `LOG_LEVEL`.",
    ),
    (
        General,
        "log_min_duration",
        "Записывать в журнал запросы, которые длятся не меньше этого времени, с первыми 1000 байтами их текста. 0 = выключено. Всё, что есть в тексте, попадёт в журнал.",
    ),
    (
        General,
        "syslog_prog_name",
        "Вести журнал в местном syslog под этим именем, а не в стандартном выводе.",
    ),
    (
        General,
        "worker_threads",
        "Число шардов; каждый — поток со своими клиентами и серверами. От 1 до 1024.",
    ),
    (
        General,
        "worker_cpu_affinity_pinning",
        "Закрепить каждый шард за одним из разрешённых процессоров.",
    ),
    (General, "worker_stack_size", "Стек потока шарда."),
    (
        General,
        "max_blocking_threads",
        "Принимается ради существующих файлов.",
    ),
    (
        General,
        "tokio_global_queue_interval",
        "Принимается ради существующих файлов.",
    ),
    (
        General,
        "tokio_event_interval",
        "Принимается ради существующих файлов.",
    ),
    (
        General,
        "server_round_robin",
        "Брать соединение с сервером, простоявшее дольше всех, а не использованное последним.",
    ),
    (
        General,
        "sync_server_parameters",
        "Приводить параметры сервера к параметрам клиента, когда он получает соединение с сервером.",
    ),
    (
        General,
        "max_concurrent_creates",
        "Сколько соединений одного пула с сервером открывается одновременно. 0 считается за 1.",
    ),
    (
        General,
        "max_db_connections",
        "Сколько соединений с сервером может иметь одна база данных, считая всех пользователей и все шарды. Когда они исчерпаны, для ждущего клиента закрывается простаивающее соединение другого пользователя. 0 = без ограничения.",
    ),
    (
        General,
        "reserve_pool_size",
        "Сколько соединений с сервером сверх `pool_size` пул может открыть для клиентов, которые ждут дольше `reserve_pool_timeout`; они закрываются, когда больше никто не ждёт.",
    ),
    (
        General,
        "reserve_pool_timeout",
        "Ожидание, после которого клиент может получить соединение из резерва. 0 = резерва нет.",
    ),
    (
        General,
        "max_db_client_connections",
        "Сколько клиентов может быть у одной базы данных; остальные получают отказ (53300). 0 = без ограничения.",
    ),
    (
        General,
        "max_user_client_connections",
        "Сколько клиентов может быть у одного пользователя во всех базах вместе; остальные получают отказ (53300). 0 = без ограничения.",
    ),
    (
        General,
        "pooler_check_query",
        "На простой запрос с этим текстом отвечает сам пулер, без сервера.",
    ),
    (
        General,
        "pooler_check_query_request_bytes",
        "Полное сообщение, которое ищется вместо составленного из `pooler_check_query`.",
    ),
    (
        General,
        "prepared_statements",
        "Переименовывать подготовленные операторы, чтобы они работали в режиме транзакций.",
    ),
    (
        General,
        "prepared_statements_cache_size",
        "Сколько операторов помнится для каждого пула и каждого соединения с сервером. Больше 0, если включено `prepared_statements`.",
    ),
    (
        General,
        "client_prepared_statements_cache_size",
        "Сколько именованных операторов помнится для каждого клиента; сверх этого забывается наименее используемый. 0 = без ограничения.",
    ),
    (
        General,
        "prepared_statements_memory",
        "Память для подготовленных операторов клиентов. Клиент, который готовит ещё один сверх неё, отключается.",
    ),
    (
        General,
        "tls_certificate",
        "Цепочка сертификатов для клиентов, PEM. Если задана, клиентам предлагается TLS. Файл перечитывается при каждой перезагрузке настроек.",
    ),
    (
        General,
        "tls_private_key",
        "Закрытый ключ к `tls_certificate`, PEM, без пароля.",
    ),
    (
        General,
        "tls_ca_cert",
        "Центры, подписывающие сертификаты клиентов, PEM. Нужны для `verify-full`.",
    ),
    (
        General,
        "tls_mode",
        "`allow` (как если не задано): клиенты с TLS и без; `disable`: без TLS; `require`: только TLS; `verify-full`: только TLS с сертификатом клиента.",
    ),
    (
        General,
        "tls_rate_limit_per_second",
        "Сколько рукопожатий TLS с клиентами в секунду, кратно 100; остальные ждут. 0 = без ограничения.",
    ),
    (
        General,
        "tls_min_version",
        "Низшая версия для клиентов: `TLSv1.2` (как если не задано) или `TLSv1.3`.",
    ),
    (
        General,
        "tls_max_version",
        "Высшая версия для клиентов: `TLSv1.2` или `TLSv1.3` (как если не задано).",
    ),
    (
        General,
        "tls_ciphers",
        "Наборы шифров для клиентов через двоеточие, предпочтительный первым. Имена OpenSSL или RFC.",
    ),
    (
        General,
        "server_tls",
        "Прежний способ сказать `server_tls_mode = \"prefer\"`.",
    ),
    (
        General,
        "verify_server_certificate",
        "Вместе с `server_tls` — прежний способ сказать `server_tls_mode = \"verify-full\"`.",
    ),
    (
        General,
        "server_tls_mode",
        "TLS к серверам по TCP, как `sslmode` в libpq: `disable`, `allow` (как если не задано: только если сервер не принимает без TLS), `prefer`, `require`, `verify-ca`, `verify-full`. `require` проверяет сертификат, если задан `server_tls_ca_cert`.",
    ),
    (
        General,
        "server_tls_negotiation",
        "`postgres` (как если не задано): спросить сервер о TLS; `direct`: начинать с TLS сразу, серверы понимают это с версии 17.",
    ),
    (
        General,
        "server_tls_ca_cert",
        "Центры, подписывающие сертификаты серверов, PEM. `system` или не задано в режиме с проверкой: центры операционной системы.",
    ),
    (
        General,
        "server_tls_certificate",
        "Цепочка сертификатов, которую пулер показывает серверам, PEM.",
    ),
    (
        General,
        "server_tls_private_key",
        "Закрытый ключ к `server_tls_certificate`, PEM, без пароля.",
    ),
    (
        General,
        "admin_username",
        "Пользователь консоли администратора (базы `pgdoorman` и `pgbouncer`).",
    ),
    (General, "admin_password", "Пароль консоли администратора."),
    (
        General,
        "daemon_pid_file",
        "Куда `--daemon` записывает номер процесса.",
    ),
    (
        General,
        "hba",
        "Сети, из которых могут подключаться клиенты. Пусто = отовсюду. Не вместе с `pg_hba`.",
    ),
    (
        General,
        "pg_hba",
        "Правила в синтаксисе `pg_hba.conf` PostgreSQL: сам текст, `{ content = \"…\" }` или `{ path = \"…\" }`.",
    ),
    (
        General,
        "pg_ident",
        "Соответствия имён для правил с `map=` в синтаксисе `pg_ident.conf` PostgreSQL: сам текст, `{ content = \"…\" }` или `{ path = \"…\" }`.",
    ),
    (
        General,
        "proxy_protocol_networks",
        "Прокси, которые передают соединения с заголовком PROXY protocol версии 1 или 2. Соединения из этих сетей должны с него начинаться, и адрес в нём считается адресом клиента. Из других сетей он отвергается.",
    ),
    (
        General,
        "jwt_audience",
        "Токены клиентов должны быть выпущены для этого получателя (`aud`).",
    ),
    (
        General,
        "jwt_issuer",
        "Токены клиентов должны быть выпущены этим издателем (`iss`).",
    ),
    (
        General,
        "server_cleartext_password",
        "Отправлять серверам, которые этого требуют, пароль открытым текстом по сети без TLS. По TLS, на локальные адреса и в Unix-сокеты он отправляется и так.",
    ),
    (
        Prometheus,
        "enabled",
        "Отдавать метрики по HTTP на `/metrics`.",
    ),
    (Prometheus, "host", "Адрес, на котором отдаются метрики."),
    (Prometheus, "port", "Порт, на котором отдаются метрики."),
    (
        Talos,
        "keys",
        "Открытые ключи RSA, PEM. Имя файла без расширения — идентификатор ключа в токенах.",
    ),
    (Talos, "databases", "Имена ресурсов, допустимые в токенах."),
    (
        Pool,
        "pool_mode",
        "`transaction`: соединение с сервером выдаётся на одну транзакцию; `session`: до отключения клиента.",
    ),
    (
        Pool,
        "server_host",
        "IP или имя сервера, определяемое при каждом подключении, либо каталог его Unix-сокета, если начинается с `/`.",
    ),
    (Pool, "server_port", "Порт сервера."),
    (Pool, "server_database", "Имя базы данных на сервере."),
    (
        Pool,
        "application_name",
        "`application_name` соединений с сервером.",
    ),
    (
        Pool,
        "connect_timeout",
        "Заменяет общий ключ для этого пула.",
    ),
    (
        Pool,
        "idle_timeout",
        "Заменяет общий ключ для этого пула. 0 = никогда.",
    ),
    (
        Pool,
        "server_lifetime",
        "Заменяет общий ключ для этого пула. 0 = без ограничения.",
    ),
    (
        Pool,
        "cleanup_server_connections",
        "Очищать соединение с сервером, состояние которого изменил клиент, прежде чем его получит следующий.",
    ),
    (
        Pool,
        "log_client_parameter_status_changes",
        "Записывать в журнал изменения параметров, о которых серверы сообщают во время работы с клиентом.",
    ),
    (
        Pool,
        "prepared_statements_cache_size",
        "Заменяет общий ключ для этого пула. 0 = подготовленные операторы не переименовываются.",
    ),
    (
        Pool,
        "prepare_unnamed",
        "Оставлять на серверах и безымянные операторы, чтобы повторяющийся запрос разбирался один раз (до 16 КиБ; более длинные проходят как есть). `false`, если клиенты часто меняют таблицы, которые читают через `select *`.",
    ),
    (
        Pool,
        "client_idle_timeout",
        "Для этого пула вместо общего значения. 0 = выключено.",
    ),
    (
        Pool,
        "idle_transaction_timeout",
        "Для этого пула вместо общего значения. 0 = выключено.",
    ),
    (
        Pool,
        "transaction_timeout",
        "Для этого пула вместо общего значения. 0 = выключено.",
    ),
    (
        Pool,
        "query_timeout",
        "Для этого пула вместо общего значения. 0 = выключено.",
    ),
    (
        Pool,
        "max_db_connections",
        "Для этой базы данных вместо общего значения. 0 = без ограничения.",
    ),
    (
        Pool,
        "reserve_pool_size",
        "Для каждого пользователя этой базы данных вместо общего значения.",
    ),
    (
        Pool,
        "reserve_pool_timeout",
        "Для этой базы данных вместо общего значения. 0 = резерва нет.",
    ),
    (
        Pool,
        "max_db_client_connections",
        "Для этой базы данных вместо общего значения. 0 = без ограничения.",
    ),
    (
        Pool,
        "server_tls_mode",
        "Перекрывает общий ключ для этого пула.",
    ),
    (
        Pool,
        "server_tls_negotiation",
        "Перекрывает общий ключ для этого пула.",
    ),
    (
        Pool,
        "server_tls_ca_cert",
        "Перекрывает общий ключ для этого пула.",
    ),
    (
        Pool,
        "server_tls_certificate",
        "Перекрывает общий ключ для этого пула. Только вместе с `server_tls_private_key`.",
    ),
    (
        Pool,
        "server_tls_private_key",
        "Перекрывает общий ключ для этого пула. Только вместе с `server_tls_certificate`.",
    ),
    (
        Pool,
        "users",
        "Пользователи этого пула. Принимается и таблица с числами в качестве ключей.",
    ),
    (
        User,
        "username",
        "Имя, под которым подключаются клиенты; в пуле не повторяется.",
    ),
    (
        User,
        "password",
        "Что должен доказать клиент: проверочная строка SCRAM-SHA-256 или хеш md5, как в `pg_authid`, `jwt-pkey-fpath:<путь>` для токенов, подписанных этим ключом, или пусто, если действуют только правила `trust`.",
    ),
    (
        User,
        "pool_size",
        "Сколько соединений с сервером может быть у этого пользователя в этой базе, по всем шардам.",
    ),
    (
        User,
        "min_pool_size",
        "Сколько соединений с сервером держится открытыми, по всем шардам; не больше `pool_size`.",
    ),
    (
        User,
        "pool_mode",
        "Заменяет режим пула для этого пользователя.",
    ),
    (
        User,
        "server_lifetime",
        "Заменяет значение пула для этого пользователя. 0 = без ограничения.",
    ),
    (
        User,
        "server_username",
        "Имя на сервере. Только вместе с `server_password`.",
    ),
    (
        User,
        "server_password",
        "Пароль на сервере или `jwt-priv-key-fpath:<путь>`, чтобы подписать токен этим ключом. Только вместе с `server_username`.",
    ),
    (
        User,
        "server_password_command",
        "Команда оболочки, которая печатает пароль для сервера. В её окружении есть `PGHOST`, `PGPORT`, `PGUSER` и `PGDATABASE`. Вместо `server_password`.",
    ),
    (
        User,
        "server_password_command_timeout",
        "Сколько может работать `server_password_command`.",
    ),
    (
        User,
        "server_password_command_ttl",
        "Сколько используется её ответ. После отказа сервера она выполняется снова раньше.",
    ),
    (
        Pool,
        "auth_query",
        "Как находить пользователей, которых нет в файле: таблица с ключами ниже.",
    ),
    (
        AuthQuery,
        "query",
        "Запрос, в котором `$1` — имя пользователя. Секрет в столбце `passwd` или `password` или в единственном; `valuntil` говорит, до какого времени он действует. Именам нужна схема: поиск идёт только в `pg_catalog`.",
    ),
    (
        AuthQuery,
        "user",
        "Кто спрашивает; должен иметь право видеть секреты.",
    ),
    (AuthQuery, "password", "Его пароль."),
    (
        AuthQuery,
        "database",
        "В какой базе спрашивать. Обязателен для пула `*`.",
    ),
    (
        AuthQuery,
        "workers",
        "Наибольшее число соединений, которые спрашивают, на всех шардах.",
    ),
    (
        AuthQuery,
        "server_user",
        "Все найденные пользователи делят соединения этого пользователя. Не задан: у каждого свои, и пулер входит с тем, что доказал клиент.",
    ),
    (AuthQuery, "server_password", "Пароль `server_user`."),
    (
        AuthQuery,
        "pool_size",
        "Наибольшее число соединений с сервером у каждого найденного пользователя или у `server_user`.",
    ),
    (
        AuthQuery,
        "min_pool_size",
        "Сколько соединений держать открытыми; не больше `pool_size`.",
    ),
    (
        AuthQuery,
        "cache_ttl",
        "Сколько используется ответ и хранится пользователь, которым никто не пользуется.",
    ),
    (
        AuthQuery,
        "cache_failure_ttl",
        "Сколько верить тому, что такого пользователя нет.",
    ),
    (
        AuthQuery,
        "min_interval",
        "После неверного пароля о пользователе спрашивают снова, но не чаще.",
    ),
    (
        AuthQuery,
        "max_users",
        "Наибольшее число найденных пользователей одновременно.",
    ),
    (
        User,
        "auth_pam_service",
        "Проверять этого пользователя через этот сервис PAM; `password` тогда не сравнивается.",
    ),
    (
        User,
        "client_idle_timeout",
        "Для этого пользователя вместо значения пула. 0 = выключено.",
    ),
    (
        User,
        "idle_transaction_timeout",
        "Для этого пользователя вместо значения пула. 0 = выключено.",
    ),
    (
        User,
        "transaction_timeout",
        "Для этого пользователя вместо значения пула. 0 = выключено.",
    ),
    (
        User,
        "query_timeout",
        "Для этого пользователя вместо значения пула. 0 = выключено.",
    ),
    (
        User,
        "reserve_pool_size",
        "Для этого пользователя вместо значения пула.",
    ),
    (
        User,
        "max_user_client_connections",
        "Вместо общего значения, когда этот пользователь входит в эту базу данных. 0 = без ограничения.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;

    #[test]
    fn every_heading_of_general_has_a_translation() {
        for key in KEYS.iter().filter(|key| key.section == General) {
            assert!(
                HEADINGS.iter().any(|(group, _)| *group == key.group),
                "{}",
                key.group
            );
        }
    }

    #[test]
    fn every_key_has_a_translation() {
        for key in KEYS {
            assert_ne!(
                meaning(key.section, key.name),
                "",
                "{:?} {}",
                key.section,
                key.name
            );
        }
        assert_eq!(MEANINGS.len(), KEYS.len());
    }
}
