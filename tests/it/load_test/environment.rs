//! What the environment says: libpq's variables and services as psql reads them, and variables that are set but empty
//! or unreadable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{PASSWORD, Ran, SMALL, TestServer, load_test, psql, user};

fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
    folder.join(name)
}

/// The database and user of psql, and where the tables were made, in the same environment.
#[test]
fn variables_and_services_count_as_with_psql() {
    let server = TestServer::start();
    let me = user();
    if me != "postgres" {
        server.sql(&format!("CREATE ROLE \"{me}\" SUPERUSER LOGIN"));
        server.create_database(&me);
    }
    server.create_database("load");
    let folder = tempfile::tempdir().unwrap();
    let socket = server.socket_dir().display().to_string();
    let (home, system) = (folder.path().join("home"), folder.path().join("system"));
    let service = format!("# one\n[other]\nhost=nowhere.invalid\n[lt]\nhost={socket}\nuser=postgres\ndbname=load\n");
    let chosen = file(folder.path(), "chosen", &service.replace("dbname=load", "dbname=postgres"));
    file(&home, ".pg_service.conf", &service);
    file(&system, "pg_service.conf", &service.replace("[lt]", "[of_system]"));
    let [chosen, home, system] = [&chosen, &home, &system].map(|path| path.display().to_string());
    let (socket, chosen, home, system) = (&*socket, &*chosen, &*home, &*system);
    for (variables, text) in [
        (vec![("PGHOST", socket), ("PGUSER", "postgres")], None),
        (vec![("PGHOST", socket)], None),
        (vec![("PGHOST", socket), ("PGDATABASE", "load")], None),
        (vec![("PGHOST", socket), ("PGPORT", "5432"), ("PGUSER", "postgres"), ("PGDATABASE", "load")], None),
        (vec![("PGHOST", socket), ("PGUSER", "postgres")], Some("dbname=load")),
        (vec![("PGHOST", socket)], Some("postgresql://")),
        (vec![("PGHOST", socket)], Some("postgresql://postgres@/load")),
        (vec![("PGSERVICE", "lt"), ("HOME", home)], None),
        (vec![("HOME", home)], Some("service=lt")),
        (vec![("HOME", home)], Some("postgresql:///?service=lt&dbname=postgres")),
        (vec![("PGSERVICE", "lt"), ("HOME", home), ("PGHOST", "nowhere.invalid"), ("PGDATABASE", "no")], None),
        (vec![("PGSERVICE", "lt"), ("HOME", home), ("PGSERVICEFILE", chosen)], None),
        (vec![("PGSERVICE", "of_system"), ("HOME", home), ("PGSYSCONFDIR", system)], None),
        (vec![("PGSERVICE", "none"), ("HOME", home), ("PGSYSCONFDIR", system)], None),
        (vec![("PGSERVICE", "of_system"), ("HOME", home), ("PGSERVICEFILE", chosen), ("PGSYSCONFDIR", system)], None),
        (vec![("PGSERVICE", "lt"), ("PGSERVICEFILE", "/absent")], None),
        (vec![("PGHOST", "/absent")], None),
    ] {
        let query = "SELECT current_user || ' ' || current_database()";
        let mut psql = psql();
        psql.env_clear().args(["-XAtqc", query]).args(text.map(|text| ["-d", text]).into_iter().flatten());
        let mut ours = load_test(&["--setup", "--duration", "0"]);
        ours.env_remove("HOME").envs(text.map(|text| ("POSTGRES_URL", text)));
        let theirs = psql.envs(variables.iter().copied()).run();
        let ours = ours.envs(variables.iter().copied()).run();
        assert_eq!(ours.code == Some(0), theirs.code == Some(0), "{variables:?} {text:?}: {ours:?}; psql: {theirs:?}");
        if theirs.code == Some(0) {
            let (user, database) = theirs.stdout.trim().split_once(' ').unwrap();
            let expected = format!("Ready: logged tables in {user}@[{socket}]:5432/{database}\n");
            assert_eq!(ours.stdout, expected, "{variables:?} {text:?}");
        }
    }
}

#[test]
fn the_header_says_where_the_target_comes_from() {
    let server = TestServer::start();
    let mut run = load_test(&["--setup", "--rps", "20", "--duration", "1"]);
    run.args(SMALL).env("PGHOST", server.socket_dir()).env("PGUSER", "postgres");
    let ran = run.run().expect_measured();
    assert!(ran.stdout.replace("\n                     ", " ").contains("(from PGHOST, PGUSER)"), "{}", ran.stdout);
}

#[test]
fn what_is_empty_or_unreadable_is_refused_by_name() {
    let not_utf8 = OsStr::from_bytes(b"hunter2\xff");
    for (name, value, says) in [
        ("POSTGRES_URL", OsStr::new(""), "error: POSTGRES_URL: is set but empty"),
        ("POSTGRES_URL", OsStr::new(" \n"), "error: POSTGRES_URL: is set but empty"),
        ("POSTGRES_URL", not_utf8, "error: POSTGRES_URL: is not UTF-8"),
        ("PGHOST", OsStr::new(""), "PGHOST is set but empty"),
        ("PGDATABASE", OsStr::new(""), "PGDATABASE is set but empty"),
        ("PGPASSWORD", OsStr::new(""), "PGPASSWORD is set but empty"),
        ("PGPASSWORD", not_utf8, "PGPASSWORD is not UTF-8"),
        ("PGSERVICE", OsStr::new(""), "PGSERVICE is set but empty"),
        ("POSTGRES_URL", OsStr::new("postgres://127.0.0.1:1/"), "error: POSTGRES_URL: dbname is empty"),
        ("POSTGRES_URL", OsStr::new("postgres://127.0.0.1:1/lt/"), "error: POSTGRES_URL: the database name holds a /"),
    ] {
        let ran = load_test(&["--setup", "--duration", "0"]).env(name, value).run();
        let ran = ran.expect_refusal(2, &[says]);
        assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    }
    let ran = load_test(&["--postgres-url", "", "--duration", "1"]).run();
    ran.expect_refusal(2, &["error: --postgres-url: is set but empty"]);
    let ran = load_test(&["--rps"]).arg(not_utf8).run();
    let ran = ran.expect_refusal(2, &["--rps: is not UTF-8"]);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn a_database_whose_name_was_never_given_is_not_made() {
    let server = TestServer::start();
    let url = format!("host={} user=postgres", server.socket_dir().display());
    server.sql("CREATE ROLE nameless SUPERUSER LOGIN");
    let url = url.replace("user=postgres", "user=nameless");
    let ran = load_test(&["--setup", "--duration", "0", "--postgres-url", &url]).run();
    ran.expect_refusal(3, &["there is no database nameless", "name the database"]);
    assert_eq!(server.sql("SELECT count(*) FROM pg_database WHERE datname = 'nameless'"), "0");
}

/// TLS is demanded and cannot be had, so that nothing is connected to, whatever listens here.
#[test]
fn a_database_url_that_is_not_read_is_mentioned() {
    let home = tempfile::tempdir().unwrap();
    let run = |name: &str| -> Ran {
        let mut run = load_test(&["--duration", "1"]);
        run.env("HOME", home.path()).env("PGSSLMODE", "verify-full");
        run.env(name, "postgres://u:hunter2@127.0.0.1:1/d?sslmode=disable").run()
    };
    let ran = run("DATABASE_URL").expect_refusal(3, &["DATABASE_URL is set, but not read", "POSTGRES_URL"]);
    assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
    let ran = run("POSTGRES_URL").expect_refusal(3, &["127.0.0.1:1"]);
    assert!(!ran.stderr.contains("DATABASE_URL"), "{}", ran.stderr);
}

#[test]
fn a_password_file_that_others_may_read_is_named_where_the_login_fails() {
    let server = TestServer::setup().tcp(PASSWORD).start();
    let home = tempfile::tempdir().unwrap();
    let path = file(home.path(), ".pgpass", "*:*:*:*:hunter2\n");
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", server.port());
    let run = |mode: u32| -> Ran {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        load_test(&["--duration", "1", "--postgres-url", &url]).env("HOME", home.path()).run()
    };
    run(0o644).expect_refusal(3, &["wants a password", ".pgpass was ignored", "chmod 600"]);
    run(0o640).expect_refusal(3, &["wants a password", ".pgpass was ignored", "chmod 600"]);
    run(0o600).expect_refusal(3, &["did not accept the password", "correct its line in"]);
    std::fs::write(&path, "elsewhere:*:*:*:hunter2\n").unwrap();
    run(0o600).expect_refusal(3, &["wants a password", "no line of", "is for 127.0.0.1:"]);
}
