//! Logging in, refusals, several hosts, poolers, and cancelling.

use super::fake::{self, Then};
use super::server::Server;
use super::{Kind, PASSWORD, ask, connector, environment, expect_failure, failure, failure_in};
use crate::harness::free_port;
use crate::library::{ConnectError, Connection, Environment, Outgoing, Wire};

#[tokio::test]
async fn a_connection_goes_on_without_the_driver_whatever_it_is_encrypted_with() {
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
    let bouncer = server.bouncer();
    let base = format!("host=127.0.0.1 port={} user=app {PASSWORD} sslmode=disable", bouncer.port());
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
