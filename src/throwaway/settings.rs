//! Owns the text of the throwaway server's configuration files.
//! Pure: must not know folders' contents, processes or the network.

use super::{ThrowawayError, ThrowawayOptions};

/// Fewest connections the server is tuned for.
const LEAST_CONNECTIONS: u32 = 200;

/// The tuning for a high write throughput that the load test's documentation recommends for a server of one's own.
const TUNED: [(&str, &str); 4] =
    [("shared_buffers", "256MB"), ("wal_buffers", "64MB"), ("max_wal_size", "2GB"), ("synchronous_commit", "off")];

/// The text of postgresql.conf. Of two lines for one setting the server takes the later.
pub(super) fn postgresql_conf(options: &ThrowawayOptions, port: u16, socket_dir: &str, cluster_name: &str) -> String {
    // What initdb found out about this system comes first, so that everything after it wins.
    let mut text = String::from("include 'data/postgresql.conf'\n");
    let mut line = |name: &str, value: &str| text.push_str(&format!("{name} = '{}'\n", quoted(value)));
    for (name, value) in TUNED {
        line(name, value);
    }
    line("max_connections", &options.max_connections.max(LEAST_CONNECTIONS).to_string());
    for (name, value) in &options.settings {
        line(name, value);
    }
    line("listen_addresses", if options.tcp { "127.0.0.1" } else { "" });
    line("port", &port.to_string());
    line("unix_socket_directories", &format!("\"{}\"", socket_dir.replace('"', "\"\"")));
    line("cluster_name", cluster_name);
    line("logging_collector", "off");
    line("log_destination", "stderr");
    text
}

/// The text of pg_hba.conf: the caller's, else trust on the socket (whose folder is closed to others) and, over TCP,
/// the superuser's password.
pub(super) fn pg_hba_conf(options: &ThrowawayOptions) -> Result<String, ThrowawayError> {
    if let Some(text) = &options.hba {
        return Ok(text.clone());
    }
    let mut text = String::from("local all all trust\n");
    if options.tcp {
        if options.superuser_password.is_none() {
            return Err(ThrowawayError::OpenDoor);
        }
        text.push_str("host all all 127.0.0.1/32 scram-sha-256\n");
    }
    Ok(text)
}

fn quoted(value: &str) -> String {
    value.replace('\\', "\\\\").replace('\'', "''")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(settings: &[(&str, &str)]) -> ThrowawayOptions {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        ThrowawayOptions { settings, ..ThrowawayOptions::default() }
    }

    #[test]
    fn the_callers_settings_come_after_the_tuned_ones() {
        let text = postgresql_conf(&with(&[("shared_buffers", "1GB")]), 5432, "/s", "c");
        let tuned = text.find("shared_buffers = '256MB'").unwrap();
        let asked = text.find("shared_buffers = '1GB'").unwrap();
        assert!(tuned < asked);
    }

    #[test]
    fn connections_never_fall_below_the_tuned_number() {
        for (asked, given) in [(0, "200"), (200, "200"), (201, "201"), (5000, "5000")] {
            let options = ThrowawayOptions { max_connections: asked, ..ThrowawayOptions::default() };
            let text = postgresql_conf(&options, 5432, "/s", "c");
            assert!(text.contains(&format!("max_connections = '{given}'\n")), "{asked}");
        }
    }

    #[test]
    fn values_are_quoted() {
        let text = postgresql_conf(&with(&[("log_line_prefix", r"it's \ %p")]), 5432, "/a b", "c");
        assert!(text.contains("log_line_prefix = 'it''s \\\\ %p'\n"));
        assert!(text.contains("unix_socket_directories = '\"/a b\"'\n"));
    }

    #[test]
    fn no_way_in_over_tcp_without_a_password_or_own_rules() {
        let mut options = ThrowawayOptions { tcp: true, ..ThrowawayOptions::default() };
        assert!(matches!(pg_hba_conf(&options), Err(ThrowawayError::OpenDoor)));
        options.superuser_password = Some("p".into());
        assert!(pg_hba_conf(&options).unwrap().contains("scram-sha-256"));
        options.hba = Some("local all all reject\n".into());
        assert_eq!(pg_hba_conf(&options).unwrap(), "local all all reject\n");
    }
}
