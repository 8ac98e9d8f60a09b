//! libpq itself as the oracle, by way of psql: the same strings connect, encrypted or not, and the same strings fail.

use super::certificates::Authority;
use super::server::{Server, psql_with};
use super::{ENCRYPTION, PASSWORD, encryption};

#[tokio::test]
async fn psql_agrees() {
    let server = Server::shared();
    let (directory, port) = (server.socket_dir(), server.port);
    let (trusted, wrong) = (server.authority.pem(), Authority::new("Another authority").pem());
    let both = format!("{wrong}{trusted}");
    let mut texts: Vec<String> = Vec::new();
    let files = [("trusted", &trusted), ("wrong", &wrong), ("both", &both)];
    let roots = files.map(|(name, text)| server.public_file(&format!("psql-{name}.crt"), text));
    for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
        for user in ["clear password=x", "plain_only password=x", "tls_only password=x"] {
            let base = format!("port={port} dbname=app user={user} sslmode={mode}");
            texts.push(format!("host=localhost {base}"));
            texts.push(format!("host=localhost {base} sslrootcert=/absent"));
            texts.extend(roots.iter().map(|root| format!("host=localhost {base} sslrootcert={root}")));
        }
        texts.push(format!("host=db.example hostaddr=127.0.0.1 port={port} user=app {PASSWORD} sslmode={mode}"));
        texts.push(format!(
            "host=db.example hostaddr=127.0.0.1 port={port} user=app {PASSWORD} sslmode={mode} sslrootcert={}",
            roots[0]
        ));
        texts.push(format!("host={directory} port={port} user=app sslmode={mode} sslrootcert=/absent"));
    }
    texts.extend([
        format!(" host = localhost\tport= {port} user ='app' password = correct\\ horse "),
        format!("postgres://app:correct%20horse@localhost:{port}"),
        format!(
            "postgresql://app:correct%20horse@localhost:1,localhost:{port}/app?sslmode=require&application_name=a%26b"
        ),
        format!("postgresql:///app?host=localhost&port={port}&user=app&password=correct%20horse&ssl=true"),
        format!("postgresql://app:wrong@localhost:{port}/app"),
        format!("postgresql://localhost:{port}/app?user=app&password=correct%20horse&sslmode=require&sslsni=0"),
        format!("postgresql://app:correct%20horse@localhost:{port}/app?channel_binding=require&sslmode=disable"),
        format!("postgresql://app:correct%20horse@localhost:{port}/app?target_session_attrs=standby"),
        format!("postgresql://app:correct%20horse@localhost:{port}/app?target_session_attrs=prefer-standby"),
        format!("postgresql://app:correct%20horse@localhost:{port}/app?connect_timeout=%205%20&keepalives_idle=30"),
        format!("postgresql://app:correct%20horse@localhost:{port}/app?sslmode=REQUIRE"),
        format!("postgresql://app:correct%zz@localhost:{port}/app"),
    ]);
    for text in texts {
        let (ours, theirs) = (encryption(&text).await, psql_with(&text, ENCRYPTION));
        assert_eq!(ours.as_ref().ok(), theirs.as_ref().ok(), "{text}: {ours:?}, and psql: {theirs:?}");
    }
}
