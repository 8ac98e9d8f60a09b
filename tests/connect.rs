//! Connecting, against a real PostgreSQL with TLS, SCRAM, a private authority and client certificates, against a real
//! PgBouncer, and against listeners that misbehave. Nothing here judges by the time that it takes.

#[path = "connect/against_psql.rs"]
mod against_psql;
#[path = "connect/certificates.rs"]
mod certificates;
#[path = "connect/fake.rs"]
mod fake;
#[path = "connect/server.rs"]
mod server;

use certificates::{Authority, encrypted, self_signed, version_1};
use fake::Then;
use postgres_load_test::postgres::connect::{ConnectError, ConnectErrorKind as Kind, Connector, Driver};
use postgres_load_test::postgres::conninfo::{ConnectionSpec, Environment};
use server::{Bouncer, Server, free_port};
use tokio_postgres::{Client, SimpleQueryMessage};

/// No variables, and a home directory with nothing in it.
fn environment() -> Environment {
    let mut environment = Environment::default();
    environment.os_user = Some("app".into());
    environment
}

fn connector(text: &str, environment: &Environment) -> Result<Connector, ConnectError> {
    Connector::new(ConnectionSpec::parse(text, environment)?, "connect test")
}

async fn ask((client, mut driver): (Client, Driver), query: &str) -> String {
    let messages = tokio::select! {
        messages = client.simple_query(query) => messages.unwrap(),
        ended = &mut driver => panic!("the connection ended: {ended:?}"),
    };
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    row.unwrap_or_default().to_owned()
}

const ENCRYPTION: &str = "SELECT coalesce(version, 'plain') FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

/// `TLSv1.3` and so on, or `plain`.
async fn encryption(text: &str) -> Result<String, ConnectError> {
    let opened = connector(text, &environment())?.connect().await?;
    Ok(ask(opened, ENCRYPTION).await)
}

async fn failure(text: &str) -> ConnectError {
    failure_in(text, &environment()).await
}

async fn failure_in(text: &str, environment: &Environment) -> ConnectError {
    let error = match connector(text, environment) {
        Err(error) => error,
        Ok(connector) => match connector.connect().await {
            Ok(_) => panic!("{text}: connected"),
            Err(error) => error,
        },
    };
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains("correct horse") && !shown.contains("hunter2"), "{shown}");
    assert!(!shown.contains("db error"), "{shown}");
    error
}

async fn expect_tls(text: &str) {
    match encryption(text).await {
        Ok(version) => assert!(version.starts_with("TLSv1."), "{text}: {version}"),
        Err(error) => panic!("{text}: {error}"),
    }
}

async fn expect_plain(text: &str) {
    assert_eq!(encryption(text).await.unwrap_or_else(|error| panic!("{text}: {error}")), "plain", "{text}");
}

async fn expect_failure(text: &str, kind: Kind, says: &str) {
    let error = failure(text).await;
    assert_eq!(error.kind(), kind, "{text}: {error}");
    assert!(error.to_string().contains(says), "{text}: {error}");
}

const PASSWORD: &str = "password='correct horse'";

#[tokio::test]
async fn sslmode_means_what_libpq_means() {
    let server = Server::shared();
    let port = server.port;
    let root = server.file("ca.crt", &server.authority.pem());
    let wrong = server.file("wrong-ca.crt", &Authority::new("Another authority").pem());
    let base = format!("host=localhost port={port} user=app {PASSWORD}");
    expect_plain(&format!("{base} sslmode=disable")).await;
    expect_plain(&format!("{base} sslmode=allow")).await;
    for mode in ["", "sslmode=prefer", "sslmode=require"] {
        expect_tls(&format!("{base} {mode}")).await;
        expect_tls(&format!("{base} {mode} sslrootcert={root}")).await;
    }
    for mode in ["verify-ca", "verify-full"] {
        expect_tls(&format!("{base} sslmode={mode} sslrootcert={root}")).await;
        expect_failure(&format!("{base} sslmode={mode}"), Kind::TlsOther, "sslrootcert=system").await;
        expect_failure(&format!("{base} sslmode={mode} sslrootcert=/absent"), Kind::TlsOther, "/absent").await;
    }
    for mode in ["require", "verify-ca", "verify-full"] {
        expect_failure(&format!("{base} sslmode={mode} sslrootcert={wrong}"), Kind::TlsUntrusted, "authority").await;
    }
    // The private authority is not one that the system trusts.
    expect_failure(&format!("{base} sslrootcert=system"), Kind::TlsUntrusted, "authority").await;
    // An unverifiable server is left for plaintext in the modes that allow it.
    expect_plain(&format!("{base} sslmode=prefer sslrootcert={wrong}")).await;
    expect_tls(&format!("host=127.0.0.1 port={port} user=app {PASSWORD} sslmode=verify-full sslrootcert={root}")).await;
    expect_tls(&format!(
        "host=localhost hostaddr=127.0.0.1 port={port} user=app {PASSWORD} sslmode=verify-full sslrootcert={root}"
    ))
    .await;
    expect_failure(
        &format!(
            "host=db.example hostaddr=127.0.0.1 port={port} user=app {PASSWORD} sslmode=verify-full sslrootcert={root}"
        ),
        Kind::TlsWrongName,
        "db.example",
    )
    .await;
    expect_tls(&format!(
        "postgresql://app:correct%20horse@localhost:{port}/app?sslmode=verify-full&channel_binding=require&sslrootcert={}",
        root.replace('/', "%2F")
    ))
    .await;
}

#[tokio::test]
async fn versions_and_channel_binding() {
    let server = Server::shared();
    let base = format!("host=localhost port={} user=app {PASSWORD}", server.port);
    let at_most_12 = format!("{base} sslmode=require ssl_max_protocol_version=TLSv1.2");
    assert_eq!(encryption(&at_most_12).await.unwrap(), "TLSv1.2");
    let at_least_13 = format!("{base} sslmode=require ssl_min_protocol_version=TLSv1.3");
    assert_eq!(encryption(&at_least_13).await.unwrap(), "TLSv1.3");
    for binding in ["disable", "prefer", "require"] {
        expect_tls(&format!("{base} sslmode=require channel_binding={binding}")).await;
    }
    expect_failure(&format!("{base} sslmode=disable channel_binding=require"), Kind::TlsOther, "channel_binding").await;
}

#[tokio::test]
async fn a_connection_goes_on_without_the_driver_whatever_it_is_encrypted_with() {
    use postgres_load_test::engine::wire::Wire;
    use postgres_load_test::workload::batch::Outgoing;
    let server = Server::shared();
    let base = format!("host=localhost port={} user=app {PASSWORD}", server.port);
    let tls_12 = "sslmode=require ssl_max_protocol_version=TLSv1.2";
    for mode in ["sslmode=disable", "sslmode=prefer", tls_12, "sslmode=require target_session_attrs=read-write"] {
        let connector = connector(&format!("{base} {mode}"), &environment()).unwrap();
        let (stream, _) = connector.connect_stream().await.unwrap();
        let mut wire = Wire::new(stream).unwrap();
        let ask = |text: &str| {
            let mut message = bytes::BytesMut::new();
            postgres_protocol::message::frontend::query(text, &mut message).unwrap();
            message
        };
        // More than any socket holds, and small ones around it.
        let long = format!("BEGIN /* {} */", "x".repeat(3_000_000));
        for (text, expected) in [("SET a.b = '1'", "SET"), (&long, "BEGIN"), ("COMMIT", "COMMIT")] {
            let (message, mut tags) = (ask(text), Vec::new());
            let completed = |_, tag: &[u8]| tags.push(String::from_utf8_lossy(tag).into_owned());
            let answer = wire.exchange(Outgoing::plain(&message), completed).await;
            assert!(answer.failure.is_none(), "{mode}: {:?}", answer.failure);
            assert_eq!((&*tags, answer.in_transaction), (&[expected.to_owned()][..], expected == "BEGIN"), "{mode}");
            assert_eq!(wire.sent(), message.len());
        }
        let answer = wire.exchange(Outgoing::plain(&ask("SET no_such_setting = 1")), |_, _| {}).await;
        assert_eq!(answer.failure.unwrap().sqlstate.as_deref(), Some("42704"), "{mode}");
        assert!(wire.end().is_none(), "{mode}");
        wire.close_with(b"X\0\0\0\x04").await;
    }
}

#[tokio::test]
async fn a_warning_for_a_root_file_that_require_does_without() {
    let server = Server::shared();
    let text = format!("host=localhost port={} user=app {PASSWORD} sslmode=require sslrootcert=/absent", server.port);
    expect_tls(&text).await;
    let connector = connector(&text, &environment()).unwrap();
    assert!(connector.warnings().iter().any(|warning| warning.contains("/absent")), "{:?}", connector.warnings());
}

#[tokio::test]
async fn default_files_of_the_home_directory() {
    let server = Server::shared();
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".postgresql");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("root.crt"), Authority::new("Another authority").pem()).unwrap();
    let mut environment = environment();
    environment.home = Some(home.path().into());
    let text = format!("host=localhost port={} user=app {PASSWORD} sslmode=require", server.port);
    assert_eq!(failure_in(&text, &environment).await.kind(), Kind::TlsUntrusted);
    std::fs::write(folder.join("root.crt"), server.authority.pem()).unwrap();
    connector(&text, &environment).unwrap().connect().await.map(drop).unwrap();
}

#[tokio::test]
async fn client_certificates() {
    let server = Server::shared();
    let pair = server.authority.client("certuser");
    let (cert, key) = (server.file("client.crt", &pair.cert), server.file("client.key", &pair.key));
    let base = format!("host=localhost port={} user=certuser dbname=app sslmode=require", server.port);
    expect_tls(&format!("{base} sslcert={cert} sslkey={key}")).await;
    expect_tls(&format!("{base} sslcert={cert} sslkey={key} ssl_max_protocol_version=TLSv1.2")).await;
    expect_failure(&base, Kind::NotAllowed, "certificate").await;
    expect_failure(&format!("{base} sslcert={cert} sslkey={key} sslcertmode=disable"), Kind::NotAllowed, "").await;
    let locked = server.file("locked.key", &encrypted(&pair.key));
    expect_failure(&format!("{base} sslcert={cert} sslkey={locked}"), Kind::TlsOther, "is encrypted").await;
    expect_failure(&format!("{base} sslcert={cert} sslkey=/absent"), Kind::TlsOther, "/absent").await;
    let other = server.file("other.key", &server.authority.client("certuser").key);
    expect_failure(&format!("{base} sslcert={cert} sslkey={other}"), Kind::TlsOther, "cannot be used together").await;
    let open = server.file("open.key", &pair.key);
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    expect_failure(&format!("{base} sslcert={cert} sslkey={open}"), Kind::TlsOther, "chmod 600").await;
    let stranger = Authority::new("Another authority").client("certuser");
    let (cert, key) = (server.file("stranger.crt", &stranger.cert), server.file("stranger.key", &stranger.key));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let text = format!("{base} sslcert={cert} sslkey={key} ssl_max_protocol_version={version}");
        expect_failure(&text, Kind::TlsOther, "does not accept the client certificate").await;
    }
}

#[tokio::test]
async fn certificates_of_all_sorts() {
    let server = Server::start();
    let port = server.port;
    let root = server.file("ca.crt", &server.authority.pem());
    let base = format!("host=localhost port={port} user=app {PASSWORD}");
    let full = format!("{base} sslmode=verify-full sslrootcert={root}");
    let only_ca = format!("{base} sslmode=verify-ca sslrootcert={root}");
    let by_address = format!("host=127.0.0.1 port={port} user=app {PASSWORD} sslmode=verify-full sslrootcert={root}");

    server.use_certificate(&server.authority.server("elsewhere.example", &["db.example", "*.pool.example"]));
    expect_tls(&only_ca).await;
    expect_failure(&full, Kind::TlsWrongName, "db.example").await;
    expect_tls(&format!("{full} hostaddr=127.0.0.1").replace("host=localhost", "host=a.pool.example")).await;

    server.use_certificate(&server.authority.server("localhost", &[]));
    expect_tls(&full).await;
    expect_failure(&by_address, Kind::TlsWrongName, "localhost").await;
    server.use_certificate(&server.authority.server("127.0.0.1", &["db.example"]));
    expect_tls(&by_address).await;
    expect_failure(&full, Kind::TlsWrongName, "db.example").await;

    server.use_certificate(&server.authority.expired("localhost"));
    expect_failure(&full, Kind::TlsUntrusted, "expired").await;
    expect_tls(&format!("{base} sslmode=require")).await;

    let own = self_signed("localhost");
    server.use_certificate(&own);
    let listed = server.file("own.crt", &own.cert);
    expect_tls(&format!("{base} sslmode=verify-full sslrootcert={listed}")).await;
    expect_tls(&format!("{base} sslmode=require")).await;
    expect_failure(&full, Kind::TlsUntrusted, "authority's own").await;
    let elsewhere = format!("{base} hostaddr=127.0.0.1 sslmode=verify-full sslrootcert={listed}");
    expect_failure(&elsewhere.replace("host=localhost", "host=db.example"), Kind::TlsWrongName, "localhost").await;

    server.use_certificate(&version_1("localhost"));
    expect_tls(&format!("{base} sslmode=require")).await;
    expect_tls(&format!("{base} sslmode=require ssl_max_protocol_version=TLSv1.2")).await;
    expect_failure(&full, Kind::TlsUntrusted, "").await;
}

#[tokio::test]
async fn direct_tls_and_its_name() {
    let server = Server::shared();
    let front = fake::direct_tls(&server.authority.server("localhost", &["localhost"]), server.port).await;
    let root = server.file("direct-ca.crt", &server.authority.pem());
    let text = format!(
        "host=localhost port={front} user=app {PASSWORD} sslmode=verify-full sslrootcert={root} sslnegotiation=direct"
    );
    connector(&text, &environment()).unwrap().connect().await.map(drop).unwrap_or_else(|error| panic!("{error}"));
    // PostgreSQL before 17 takes the handshake for a broken start-up packet.
    let text = format!("host=localhost port={} user=app {PASSWORD} sslmode=require sslnegotiation=direct", server.port);
    let error = failure(&text).await;
    assert!(error.kind() == Kind::TlsOther && error.to_string().contains("sslnegotiation"), "{error}");
}

#[tokio::test]
async fn prefer_and_allow_follow_the_servers_rules() {
    let server = Server::shared();
    let base = format!("host=localhost port={} dbname=app password=x", server.port);
    for mode in ["prefer", "allow"] {
        expect_plain(&format!("{base} user=plain_only sslmode={mode}")).await;
        expect_tls(&format!("{base} user=tls_only sslmode={mode}")).await;
    }
    expect_failure(&format!("{base} user=plain_only sslmode=require"), Kind::NotAllowed, "pg_hba.conf").await;
    expect_failure(&format!("{base} user=tls_only sslmode=disable"), Kind::NotAllowed, "pg_hba.conf").await;
    expect_failure(&format!("{base} user=rejected"), Kind::NotAllowed, "rejected").await;
}

#[tokio::test]
async fn a_server_without_tls() {
    let port = fake::saying(b"N".to_vec(), Then::Stay).await;
    expect_failure(&format!("host=127.0.0.1 port={port} sslmode=require"), Kind::TlsRefusedByServer, "sslmode=require")
        .await;
}

#[tokio::test]
async fn unix_sockets_never_use_tls() {
    let server = Server::shared();
    let (directory, port) = (server.directory.path().display().to_string(), server.port);
    for mode in ["disable", "prefer", "require", "verify-full"] {
        expect_plain(&format!("host={directory} port={port} user=app sslmode={mode}")).await;
        let encoded = directory.replace('/', "%2F");
        expect_plain(&format!("postgresql://app@{encoded}:{port}/app?sslmode={mode}")).await;
    }
    expect_failure(&format!("host={directory} port=1 user=app"), Kind::Refused, ".s.PGSQL.1").await;
}

#[tokio::test]
async fn passwords_from_everywhere() {
    let server = Server::shared();
    let text = format!("host=localhost port={} user=app dbname=app", server.port);
    let connects = async |text: &str, environment: &Environment| {
        let opened = connector(text, environment)?.connect().await?;
        Ok::<_, ConnectError>(ask(opened, "SELECT current_user").await)
    };
    let environment = environment();
    let right = environment.clone().with("PGPASSWORD", "correct horse");
    assert_eq!(connects(&text, &right).await.unwrap(), "app");

    let home = tempfile::tempdir().unwrap();
    let mut at_home = environment.clone();
    at_home.home = Some(home.path().into());
    let file = home.path().join(".pgpass");
    std::fs::write(&file, format!("localhost:{}:app:app:correct horse\n", server.port)).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert_eq!(connects(&text, &at_home).await.unwrap(), "app");
    let other_database = connector(&text, &at_home).unwrap().with_dbname("postgres").connect().await;
    assert_eq!(other_database.map(drop).unwrap_err().kind(), Kind::MissingPassword);
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let error = failure_in(&text, &at_home).await;
    assert_eq!(error.kind(), Kind::MissingPassword);
    assert!(error.to_string().contains(".pgpass was ignored, because others may read it: chmod 600"), "{error}");
    assert_eq!(connector(&text, &at_home).unwrap().warnings().len(), 1);

    let wrong_file = server.file("wrong.pgpass", "*:*:*:*:hunter2\n");
    for (text, environment, says) in [
        (format!("{text} password=hunter2"), environment.clone(), "--postgres-url"),
        (text.clone(), environment.clone().with("PGPASSWORD", "hunter2"), "PGPASSWORD"),
        (text.clone(), environment.clone().with("PGPASSFILE", &wrong_file), wrong_file.as_str()),
    ] {
        let error = failure_in(&text, &environment).await;
        assert_eq!(error.kind(), Kind::WrongPassword, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        assert_eq!(error.sqlstate().map(|state| state.code()), Some("28P01"));
        assert!(!error.is_retryable());
    }
    let odd = format!("postgresql://odd%40%2F%3A%3F:p%40s%2Fs%3Aw%3Fr%25d@localhost:{}/app", server.port);
    assert_eq!(connects(&odd, &environment).await.unwrap(), "odd@/:?");
    for user in ["md5user", "clear"] {
        let text = format!("host=localhost port={} dbname=app password=x user={user}", server.port);
        assert_eq!(connects(&text, &environment).await.unwrap(), user);
    }
}

#[tokio::test]
async fn each_refusal_is_one_sentence_with_a_remedy() {
    let server = Server::shared();
    let base = format!("host=localhost port={}", server.port);
    let app = format!("{base} user=app {PASSWORD}");
    expect_failure(&format!("{base} user=app"), Kind::MissingPassword, "PGPASSWORD").await;
    expect_failure(&format!("{app} dbname=absent"), Kind::DatabaseMissing, "no database absent").await;
    expect_failure(&format!("{app} dbname=closed"), Kind::NotAllowed, "closed").await;
    expect_failure(&format!("{base} user=crowded dbname=app password=x"), Kind::TooManyConnections, "connections")
        .await;
    expect_failure(&format!("{base} user=nobody password=hunter2"), Kind::WrongPassword, "nobody").await;
    expect_failure(&format!("{app} options='-c nonsense=1'"), Kind::Setting, "nonsense").await;
    expect_failure("host=no..such.host", Kind::Dns, "no..such.host").await;
    expect_failure(&format!("host=127.0.0.1 port={}", free_port()), Kind::Refused, "127.0.0.1:").await;
    expect_failure("postgresql://u:hunter2@h:x/db", Kind::InvalidString, "port must be").await;
}

#[tokio::test]
async fn answers_that_a_real_server_seldom_gives() {
    for (sqlstate, message, kind) in [
        ("57P03", "the database system is starting up", Kind::StartingUp),
        ("53300", "sorry, too many clients already", Kind::TooManyConnections),
        ("53300", "remaining connection slots are reserved for superusers", Kind::TooManyConnections),
        ("28000", "role \"x\" does not exist", Kind::NotAllowed),
        ("08P01", "unsupported startup parameter: options", Kind::PoolerStartupParameter),
        ("08P01", "no more connections allowed (max_client_conn)", Kind::TooManyConnections),
        ("08P01", "no such database: x", Kind::DatabaseMissing),
        ("08P01", "SSL required", Kind::NotAllowed),
        ("XX000", "something else", Kind::Other),
    ] {
        let port = fake::saying(fake::error_response(sqlstate, message), Then::Stay).await;
        let error = failure(&format!("host=127.0.0.1 port={port} sslmode=disable")).await;
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(message) && error.to_string().contains("127.0.0.1"), "{error}");
        assert_eq!(error.sqlstate().map(|state| state.code()), Some(sqlstate));
        assert_eq!(error.is_retryable(), matches!(kind, Kind::StartingUp | Kind::TooManyConnections), "{error}");
    }
    let silent = fake::saying(Vec::new(), Then::Stay).await;
    let text = format!("host=127.0.0.1 port={silent} sslmode=disable connect_timeout=1");
    expect_failure(&text, Kind::Timeout, "connect_timeout").await;
    let leaving = fake::saying(Vec::new(), Then::Leave).await;
    let error = failure(&format!("host=127.0.0.1 port={leaving} sslmode=disable")).await;
    assert!(error.kind() == Kind::Lost && error.is_retryable() && error.to_string().contains("its log"), "{error}");
    let web = fake::saying(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), Then::Leave).await;
    expect_failure(&format!("host=127.0.0.1 port={web} sslmode=disable"), Kind::Other, "Postgres server").await;
}

#[tokio::test]
async fn several_hosts_and_what_they_are() {
    let (server, standby) = (Server::shared(), Server::start().into_standby());
    let (primary, standby_port, dead) = (server.port, standby.port, free_port());
    let starting = fake::saying(fake::error_response("57P03", "the database system is starting up"), Then::Stay).await;
    let connects = async |ports: &str, more: &str| {
        let hosts = vec!["localhost"; ports.split(',').count()].join(",");
        let text = format!("host={hosts} port={ports} user=app {PASSWORD} {more}");
        let opened = connector(&text, &environment())?.connect().await?;
        Ok::<_, ConnectError>(ask(opened, "SELECT current_setting('port')").await.parse::<u16>().unwrap())
    };
    assert_eq!(connects(&format!("{dead},{starting},{primary}"), "sslmode=disable").await.unwrap(), primary);
    let both = format!("{standby_port},{primary}");
    let reversed = format!("{primary},{standby_port}");
    for (ports, attrs, expected) in [
        (&both, "any", standby_port),
        (&both, "read-write", primary),
        (&both, "primary", primary),
        (&reversed, "read-only", standby_port),
        (&reversed, "standby", standby_port),
        (&reversed, "prefer-standby", standby_port),
        (&primary.to_string(), "prefer-standby", primary),
    ] {
        let found = connects(ports, &format!("target_session_attrs={attrs}")).await;
        assert_eq!(found.unwrap_or_else(|error| panic!("{attrs}: {error}")), expected, "{attrs}");
    }
    for (port, attrs) in [(primary, "standby"), (standby_port, "primary"), (standby_port, "read-write")] {
        let error = connects(&port.to_string(), &format!("target_session_attrs={attrs}")).await.unwrap_err();
        assert_eq!(error.kind(), Kind::SessionAttrs, "{error}");
        assert!(error.to_string().contains("target_session_attrs"), "{error}");
    }
    let reader = format!("host=localhost port={primary} user=reader dbname=app password=x target_session_attrs");
    assert_eq!(failure(&format!("{reader}=read-write")).await.kind(), Kind::SessionAttrs);
    connector(&format!("{reader}=read-only"), &environment()).unwrap().connect().await.map(drop).unwrap();
    // A wrong password is final: the next host is not asked.
    let text = format!("host=localhost,localhost port={standby_port},{dead} user=app password=hunter2");
    expect_failure(&text, Kind::WrongPassword, &standby_port.to_string()).await;
    let mut seen = std::collections::BTreeSet::new();
    while seen.len() < 2 {
        seen.insert(connects(&both, "load_balance_hosts=random").await.unwrap());
    }
    let error = connects(&format!("{dead},{starting}"), "sslmode=disable").await.unwrap_err();
    assert!(error.to_string().contains(&dead.to_string()) && error.to_string().contains("starting up"), "{error}");
}

#[tokio::test]
async fn what_the_server_is_told() {
    let server = Server::shared();
    let text = format!("host=localhost port={} user=app {PASSWORD} options='-c geqo=off -c work_mem=1MB'", server.port);
    let connector = connector(&text, &environment()).unwrap();
    let told = "SELECT current_setting('geqo') || current_setting('work_mem') || current_setting('application_name')";
    assert_eq!(ask(connector.connect().await.unwrap(), told).await, "off1MBconnect test");
    let named = format!("{text} application_name=mine fallback_application_name=other");
    let named = self::connector(&named, &environment()).unwrap();
    assert_eq!(ask(named.connect().await.unwrap(), told).await, "off1MBmine");
    assert!(!format!("{connector:?}").contains("correct horse"));
}

#[tokio::test]
async fn through_pgbouncer() {
    let server = Server::shared();
    let bouncer = Bouncer::start(&server);
    let base = format!("host=127.0.0.1 port={} user=app {PASSWORD} sslmode=disable", bouncer.port);
    let connector = connector(&base, &environment()).unwrap();
    assert_eq!(ask(connector.connect().await.unwrap(), "SELECT current_user").await, "app");
    let wanted = format!("{base} target_session_attrs=primary");
    self::connector(&wanted, &environment()).unwrap().connect().await.map(drop).unwrap();
    expect_failure(&format!("{base} options='-c geqo=off'"), Kind::PoolerStartupParameter, "leave options out").await;
    expect_failure(&format!("{base} dbname=absent"), Kind::DatabaseMissing, "absent").await;
    expect_failure(&format!("{base} sslmode=require"), Kind::TlsRefusedByServer, "sslmode=require").await;
    let wrong = base.replace("correct horse", "hunter2");
    expect_failure(&wrong, Kind::WrongPassword, "--postgres-url").await;
}

/// On a connection of its own, encrypted as the first one is.
#[tokio::test]
async fn what_the_server_does_for_a_connection_can_be_cancelled() {
    use postgres_load_test::postgres::connect::Connection;
    let server = Server::shared();
    let base = format!("host=localhost port={} user=app {PASSWORD}", server.port);
    for mode in ["sslmode=disable", "sslmode=prefer", "sslmode=require"] {
        let connector = connector(&format!("{base} {mode}"), &environment()).unwrap();
        let Connection { client, mut driver, canceller, process_id } = connector.connect_whole().await.unwrap();
        let cancelled = async {
            // It may come before the statement has begun.
            loop {
                canceller.cancel().await;
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
        };
        let answer = tokio::select! {
            answer = client.simple_query("SELECT pg_sleep(600)") => answer,
            ended = &mut driver => panic!("{mode}: the connection ended: {ended:?}"),
            () = cancelled => unreachable!("it does not end"),
        };
        assert_eq!(answer.unwrap_err().code().unwrap().code(), "57014", "{mode}");
        let pid: i32 = ask((client, driver), "SELECT pg_backend_pid()").await.parse().unwrap();
        assert_eq!(process_id, Some(pid), "{mode}");
    }
}
