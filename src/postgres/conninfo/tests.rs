//! Tables: what consoles print, what each parameter means, what is refused and how.

use super::*;
use proptest::prelude::*;

fn environment() -> Environment {
    let mut environment = Environment::of_user("me");
    environment.home = Some("/home/me".into());
    environment
}

fn spec(text: &str) -> ConnectionSpec {
    ConnectionSpec::parse(text, &environment()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn fault(text: &str) -> String {
    ConnectionSpec::parse(text, &environment()).expect_err(text).to_string()
}

#[test]
fn defaults_are_those_of_libpq() {
    let spec = spec("");
    assert_eq!(spec.describe(), "me@localhost:5432/me");
    assert_eq!(spec.hosts, [HostSpec { host: Host::Default, hostaddr: None, port: 5432 }]);
    assert_eq!((spec.tls.mode, &spec.tls.root), (SslMode::Prefer, &RootCert::Default));
    assert_eq!(spec.passfile, Some("/home/me/.pgpass".into()));
    assert_eq!(spec.connect_timeout, Some(Duration::from_secs(10)));
    assert_eq!((spec.channel_binding, spec.tls.sni), (ChannelBinding::Prefer, true));
}

#[test]
fn strings_as_consoles_print_them() {
    for (text, description, mode, root) in [
        (
            "psql 'host=eu.horizon.example port=5432 user=postgres.abc123 password=pscale_pw_x dbname=postgres \
             sslnegotiation=direct sslmode=verify-full sslrootcert=system'",
            "postgres.abc123@eu.horizon.example:5432/postgres",
            SslMode::VerifyFull,
            RootCert::System,
        ),
        (
            "postgresql://postgres.abc:pscale_pw_x@eu.horizon.example:6432/postgres?sslmode=verify-full&sslrootcert=system",
            "postgres.abc@eu.horizon.example:6432/postgres",
            SslMode::VerifyFull,
            RootCert::System,
        ),
        (
            "host=x.eu-west-1.rds.example port=5432 dbname=app user=admin sslrootcert=/certs/global-bundle.pem sslmode=verify-full",
            "admin@x.eu-west-1.rds.example:5432/app",
            SslMode::VerifyFull,
            RootCert::File("/certs/global-bundle.pem".into()),
        ),
        (
            "postgresql://owner:npg_x@ep-cool-1-pooler.neon.example/neondb?sslmode=require&channel_binding=require",
            "owner@ep-cool-1-pooler.neon.example:5432/neondb",
            SslMode::Require,
            RootCert::Default,
        ),
        (
            "postgresql://u@localhost/db?gssencmode=disable&client_encoding=UTF8&krbsrvname=postgres&sslcompression=0",
            "u@localhost:5432/db",
            SslMode::Prefer,
            RootCert::Default,
        ),
    ] {
        let spec = spec(text);
        assert_eq!(spec.describe(), description);
        assert_eq!((spec.tls.mode, spec.tls.root), (mode, root), "{text}");
    }
}

#[test]
fn hosts_ports_and_addresses() {
    let tcp = |name: &str, port| HostSpec { host: Host::Tcp(name.into()), hostaddr: None, port };
    let unix = |name: &str, port| HostSpec { host: Host::Unix(name.into()), hostaddr: None, port };
    for (text, expected) in [
        ("postgres://a:1,b:2", vec![tcp("a", 1), tcp("b", 2)]),
        ("postgres://a,b,c", vec![tcp("a", 5432), tcp("b", 5432), tcp("c", 5432)]),
        ("host=a,b port=7", vec![tcp("a", 7), tcp("b", 7)]),
        ("host=a,b port=,7", vec![tcp("a", 5432), tcp("b", 7)]),
        ("postgres://[::1]:7/db", vec![tcp("::1", 7)]),
        ("postgres://%2Frun%2Fpg:7/db", vec![unix("/run/pg", 7)]),
        ("host=/tmp,@abstract,h", vec![unix("/tmp", 5432), unix("@abstract", 5432), tcp("h", 5432)]),
    ] {
        assert_eq!(spec(text).hosts, expected, "{text}");
    }
    let both = spec("host=db.example hostaddr=127.0.0.1");
    assert_eq!(both.hosts[0].hostaddr, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(spec("hostaddr=::1").describe(), "me@[::1]:5432/me");
}

#[test]
fn the_environment_fills_in_what_the_string_leaves_out() {
    let environment = environment()
        .with("PGHOST", "env.example")
        .with("PGPORT", "7")
        .with("PGUSER", "envuser")
        .with("PGPASSWORD", "hunter2")
        .with("PGDATABASE", "envdb")
        .with("PGSSLMODE", "require")
        .with("PGCONNECT_TIMEOUT", "3")
        .with("PGOPTIONS", "-c geqo=off");
    let spec = ConnectionSpec::parse("", &environment).unwrap();
    assert_eq!(spec.describe(), "envuser@env.example:7/envdb");
    assert_eq!((spec.tls.mode, spec.connect_timeout), (SslMode::Require, Some(Duration::from_secs(3))));
    assert!(spec.is_password_from_environment);
    assert_eq!(spec.password, Some(Secret::new("hunter2")));
    assert!(!format!("{spec:?}{environment:?}").contains("hunter2"));
    let spec = ConnectionSpec::parse("postgres://u:p@h:1/d?options=", &environment).unwrap();
    assert_eq!(spec.describe(), "u@h:1/d");
    assert_eq!((spec.password, spec.options), (Some(Secret::new("p")), None));
    assert!(!spec.is_password_from_environment);
}

#[test]
fn a_fault_of_the_environment_names_the_variable() {
    let error = ConnectionSpec::parse("", &environment().with("PGSSLMODE", "often")).unwrap_err().to_string();
    assert!(error.contains("PGSSLMODE must be disable, allow"), "{error}");
    let error = ConnectionSpec::parse("", &environment().with("PGSERVICE", "x")).unwrap_err().to_string();
    assert!(error.contains("PGSERVICE cannot be looked up: there is no service file"), "{error}");
}

#[test]
fn a_service_comes_after_the_string_and_before_the_environment() {
    let file = "[lt]\nhost=service.example\nport=6\nuser=s\npassword=hunter2\n[bad]\nhost = x\n[port]\nport=x\n";
    let environment = environment()
        .with_service_file("/etc/one.conf".as_ref(), "[other]\nhost=y\n")
        .with_service_file("/etc/two.conf".as_ref(), file)
        .with("PGPORT", "7")
        .with("PGDATABASE", "envdb");
    let of = |text: &str| ConnectionSpec::parse(text, &environment).map(|spec| spec.describe());
    assert_eq!(of("service=lt").unwrap(), "s@service.example:6/envdb");
    assert_eq!(of("postgres://u@h/d?service=lt").unwrap(), "u@h:6/d");
    assert_eq!(
        ConnectionSpec::parse("", &environment.clone().with("PGSERVICE", "lt")).unwrap().describe(),
        "s@service.example:6/envdb"
    );
    let spec = ConnectionSpec::parse("service=lt", &environment).unwrap();
    assert_eq!((spec.password, &*spec.place), (Some(Secret::new("hunter2")), "the service file or PGDATABASE"));
    for (text, says) in [
        ("service=none", "service cannot be looked up: no such service is in /etc/one.conf or /etc/two.conf"),
        ("service=bad", "the service of service holds a line with no parameter of that name"),
        ("service=port", "port must be a number"),
        ("service=", "service is empty"),
    ] {
        let error = of(text).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("hunter2"), "{text}: {error}");
    }
}

#[test]
fn what_is_empty_is_no_default() {
    for (text, says) in [
        ("postgres://h/", "dbname is empty"),
        ("postgres://u:p@h/?sslmode=disable", "dbname is empty"),
        ("dbname=''", "dbname is empty"),
        ("postgres://h/db?host=", "host is empty"),
        ("postgres://:pw@h/db", "user is empty"),
        ("postgres://@h/db", "user is empty"),
        ("postgres://h/db/", "the database name holds a /"),
        ("user='' dbname=x", "user is empty"),
        ("service=''", "service is empty"),
    ] {
        assert!(fault(text).contains(says), "{text}: {}", fault(text));
    }
    // Another place says it.
    assert_eq!(spec("postgres://h/?dbname=x").describe(), "me@h:5432/x");
    let with =
        |variable: &str, value: &str| ConnectionSpec::parse("postgres://h/", &environment().with(variable, value));
    assert_eq!(with("PGDATABASE", "x").unwrap().describe(), "me@h:5432/x");
    assert!(with("PGDATABASE", "").unwrap_err().to_string().contains("PGDATABASE is set but empty"));
    for variable in ["PGHOST", "PGPASSWORD", "PGSSLMODE", "PGOPTIONS", "PGSERVICE"] {
        let empty = environment().with(variable, "");
        let error = ConnectionSpec::parse("dbname=x", &empty).unwrap_err().to_string();
        assert!(error.contains(&format!("{variable} is set but empty")), "{error}");
        let unreadable = environment().with_unreadable(&[variable.to_owned()]);
        let error = ConnectionSpec::parse("dbname=x", &unreadable).unwrap_err().to_string();
        assert!(error.contains(&format!("{variable} is not UTF-8")), "{error}");
        // What the string says needs no variable.
        let said = "postgres://u:p@h/d?sslmode=disable&options=-cx%3D1";
        assert_eq!(ConnectionSpec::parse(said, &empty).is_ok(), variable != "PGSERVICE", "{variable}");
    }
    assert!(!spec("postgres://h").is_dbname_given && spec("postgres://h/me").is_dbname_given);
}

#[test]
fn figures_that_the_kernel_refuses_are_refused_by_name() {
    for name in ["connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"] {
        for value in ["40000000000", "1.5", "1e3", "NaN", "soon"] {
            assert!(fault(&format!("{name}={value}")).contains(&format!("{name} must be a whole number from 0 to ")));
        }
    }
    for (text, says) in [
        ("keepalives_idle=40000", "keepalives_idle must be a whole number from 0 to 32767"),
        ("keepalives_interval=32768", "keepalives_interval must be a whole number from 0 to 32767"),
        ("keepalives_count=128", "keepalives_count must be a whole number from 0 to 127"),
        ("port=65536", "port must be a number from 1 to 65535"),
    ] {
        assert!(fault(text).contains(says), "{text}: {}", fault(text));
    }
    // libpq does not look at what it does not use.
    for text in ["keepalives=0 keepalives_idle=40000", "host=/tmp keepalives_idle=40000", "keepalives_idle=-1"] {
        spec(text);
    }
}

#[test]
fn a_portable_string_says_all_that_the_environment_does() {
    let environment = environment()
        .with_service_file("/s".as_ref(), "[lt]\nhost=service.example\noptions=-c a='b\\c'\n")
        .with("PGPASSWORD", "hunter2")
        .with("PGSSLMODE", "require")
        .with("PGDATABASE", "it's \\ odd")
        .with("PGSERVICE", "lt");
    let portable = ConnectionSpec::portable("port=7", &environment).unwrap();
    assert!(!portable.expose().contains("hunter2") && !portable.expose().contains("service="), "{}", portable.expose());
    let here = ConnectionSpec::parse("port=7", &environment).unwrap();
    let bare = Environment::of_user("another").with("PGPASSWORD", "hunter2");
    let there = ConnectionSpec::parse(portable.expose(), &bare).unwrap();
    let like_here = ConnectionSpec { place: here.place.clone(), passfile: here.passfile.clone(), ..there };
    let tls = crate::postgres::conninfo::TlsSpec { home: here.tls.home.clone(), ..like_here.tls.clone() };
    assert_eq!(ConnectionSpec { tls, ..like_here }, here);
    assert!(ConnectionSpec::portable("port=x", &environment).is_err());
}

#[test]
fn times_and_switches() {
    let spec = spec(
        "connect_timeout=0 keepalives=0 keepalives_idle=30 keepalives_interval=0 keepalives_count=4 \
         tcp_user_timeout=1500 sslsni=0 load_balance_hosts=random target_session_attrs=prefer-standby \
         ssl_min_protocol_version=TLSv1 application_name=x fallback_application_name=y passfile=/p replication=false",
    );
    assert_eq!((spec.connect_timeout, spec.tcp_user_timeout), (None, Some(Duration::from_millis(1500))));
    let expected = Keepalives { enabled: false, idle: Some(Duration::from_secs(30)), interval: None, count: Some(4) };
    assert_eq!((spec.keepalives, spec.tls.sni), (expected, false));
    assert_eq!(spec.load_balance_hosts, LoadBalanceHosts::Random);
    assert_eq!(spec.target_session_attrs, TargetSessionAttrs::PreferStandby);
    assert_eq!((spec.tls.min_version, spec.passfile), (TlsVersion::V1_0, Some("/p".into())));
}

#[test]
fn what_is_refused_is_named_with_a_remedy() {
    for (text, says) in [
        ("sslmode=often", "sslmode must be disable, allow, prefer, require, verify-ca or verify-full"),
        ("postgres://h?sslmode=", ""),
        ("channel_binding=x", "channel_binding must be disable, prefer or require"),
        ("target_session_attrs=x", "target_session_attrs must be any"),
        ("sslnegotiation=x", "sslnegotiation must be postgres or direct"),
        ("sslnegotiation=direct", "sslmode must be require"),
        ("sslrootcert=system sslmode=require", "sslmode must be verify-full"),
        ("gssencmode=require", "gssencmode may only be disable or prefer"),
        ("require_auth=scram-sha-256", "require_auth is not supported"),
        ("service=x", "service cannot be looked up"),
        ("servicefile=x", "servicefile is not supported: name the file in PGSERVICEFILE"),
        ("sslcrl=x", "sslcrl is not supported"),
        ("sslpassword=hunter2", "sslpassword is not supported"),
        ("client_encoding=LATIN1", "client_encoding may only be"),
        ("replication=database", "replication may only be"),
        ("schema=public", "schema is not a connection parameter"),
        ("port=0", "port must be a number from 1 to 65535"),
        ("host=a,b port=1,2,3", "port must be one number"),
        ("host=a,b hostaddr=127.0.0.1", "hostaddr must list as many"),
        ("hostaddr=localhost", "hostaddr must be IPv4 or IPv6"),
        ("connect_timeout=soon", "connect_timeout must be a whole number"),
        ("keepalives=yes", "keepalives must be 0 or 1"),
        ("ssl_max_protocol_version=TLSv1.1", "ssl_max_protocol_version must be"),
        ("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2", "ssl_min_protocol_version must not"),
    ] {
        if says.is_empty() {
            spec(text);
            continue;
        }
        let error = fault(text);
        assert!(error.contains(says), "{text}: {error}");
        assert!(error.contains("--postgres-url") && !error.contains("hunter2"), "{text}: {error}");
    }
    let both = fault("sslmode=often colour=red");
    assert!(both.contains("sslmode") && both.contains("colour"), "{both}");
    assert!(ConnectionSpec::parse("", &Environment::default()).unwrap_err().to_string().contains("user is missing"));
}

#[test]
fn however_much_is_wrong_little_is_said() {
    for text in [
        format!("hostaddr={}", "x,".repeat(50_000)),
        format!("host={} port={}", "h,".repeat(50_000), "0,".repeat(50_000)),
        format!("postgres://h?{}", (0..20_000).map(|at| format!("a{}=1&", "b".repeat(at % 30))).collect::<String>()),
        format!("postgres://h?{}", "q%5B0=1&".repeat(20_000)),
    ] {
        let error = ConnectionSpec::parse(&text, &environment()).unwrap_err();
        assert!(error.to_string().len() < 4_000, "{error}");
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in any::<String>(), tail in "[a-z:/@?=&%,' \\[\\]\\\\]{0,40}") {
        for text in [&text, &tail, &format!("postgres://{text}"), &format!("postgres://{tail}"), &format!("host={tail}")] {
            let _ = ConnectionSpec::parse(text, &environment());
        }
    }

    /// Whatever surrounds it and however badly it is encoded, an error or description never holds the password.
    #[test]
    fn a_password_never_shows(password in "[A-Z0-9@/:?#&% '\\\\,\\[\\]=]{0,8}Xq7Zk[A-Z0-9@/:?#&% '\\\\,\\[\\]=]{0,8}",
                              tail in "[a-z:/@?=&%,']{0,12}") {
        for text in [
            format!("postgres://me:{password}@h:5432/db{tail}"),
            format!("postgres://me:{password}@h{tail}"),
            format!("postgres://h/db?password={password}&{tail}"),
            format!("postgres://h?password={password}{tail}"),
            format!("host=h password={password} {tail}"),
            format!("host=h password='{password}' {tail}"),
            password.clone(),
        ] {
            let shown = match ConnectionSpec::parse(&text, &environment()) {
                Ok(spec) => format!("{} {spec:?}", spec.describe()),
                Err(error) => format!("{error} {error:?}"),
            };
            prop_assert!(!shown.contains("Xq7Zk"), "{text}: {shown}");
        }
    }
}
