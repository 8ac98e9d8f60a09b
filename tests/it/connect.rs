//! Connecting, against a real PostgreSQL with TLS, SCRAM, a private authority and client certificates, against a real
//! PgBouncer, and against listeners that misbehave. Nothing here judges by the time that it takes.

mod against_psql;
mod certificates;
mod fake;
mod server;
mod servers;
mod tls;

use tokio_postgres::{Client, SimpleQueryMessage};

use crate::library::{ConnectError, ConnectErrorKind as Kind, ConnectionSpec, Connector, Driver, Environment};

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
