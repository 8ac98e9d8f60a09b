//! Encryption: what `sslmode` and its relatives mean, and whose certificates are accepted.

use super::certificates::{Authority, encrypted, self_signed, version_1};
use super::fake::{self, Then};
use super::server::Server;
use super::{
    Kind, PASSWORD, connector, encryption, environment, expect_failure, expect_plain, expect_tls, failure, failure_in,
};

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
    let (directory, port) = (server.socket_dir(), server.port);
    for mode in ["disable", "prefer", "require", "verify-full"] {
        expect_plain(&format!("host={directory} port={port} user=app sslmode={mode}")).await;
        let encoded = directory.replace('/', "%2F");
        expect_plain(&format!("postgresql://app@{encoded}:{port}/app?sslmode={mode}")).await;
    }
    expect_failure(&format!("host={directory} port=1 user=app"), Kind::Refused, ".s.PGSQL.1").await;
}
