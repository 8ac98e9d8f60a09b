//! The parameters whose values come from a fixed list of words, each spelled and meant as in libpq:
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS>. Pure.

/// A parameter whose value is one of a fixed list of words.
pub(super) trait Keyword: Copy + 'static {
    /// Every allowed word with its meaning, in the order in which errors list them.
    const WORDS: &'static [(&'static str, Self)];
}

macro_rules! keywords {
    ($($(#[$meta:meta])* $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $text:literal),+ $(,)? })+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_meta])* $variant),+ }

        impl $name {
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl Keyword for $name {
            const WORDS: &'static [(&'static str, Self)] = &[$(($text, Self::$variant)),+];
        }
    )+};
}

keywords! {
    /// `sslmode`: whether to encrypt and what to verify, as libpq means it. The order is from weak to strong.
    #[derive(PartialOrd, Ord)]
    SslMode {
        Disable = "disable",
        /// Plaintext first, TLS when the server refuses that.
        Allow = "allow",
        /// TLS first, plaintext when that cannot be had (the default).
        Prefer = "prefer",
        /// TLS or nothing; the certificate is verified only if there is a root certificate file.
        Require = "require",
        /// TLS with a certificate from a trusted authority; its name is not looked at.
        VerifyCa = "verify-ca",
        /// TLS with a trusted certificate that is made out for the host.
        VerifyFull = "verify-full",
    }

    /// `sslnegotiation`: how TLS is asked for.
    SslNegotiation {
        /// With an SSLRequest message, which every server understands (the default).
        Postgres = "postgres",
        /// With the TLS handshake itself (PostgreSQL 17 and some proxies): one round trip less.
        Direct = "direct",
    }

    /// `channel_binding`: whether SCRAM authentication is tied to the TLS connection.
    ChannelBinding {
        Disable = "disable",
        Prefer = "prefer",
        Require = "require",
    }

    /// `target_session_attrs`: which of several servers will do.
    TargetSessionAttrs {
        Any = "any",
        ReadWrite = "read-write",
        ReadOnly = "read-only",
        Primary = "primary",
        Standby = "standby",
        PreferStandby = "prefer-standby",
    }

    /// `load_balance_hosts`: in which order hosts and addresses are tried.
    LoadBalanceHosts {
        Disable = "disable",
        Random = "random",
    }

    /// `ssl_min_protocol_version` and `ssl_max_protocol_version`.
    #[derive(PartialOrd, Ord)]
    TlsVersion {
        V1_0 = "TLSv1",
        V1_1 = "TLSv1.1",
        V1_2 = "TLSv1.2",
        V1_3 = "TLSv1.3",
    }

    /// `sslcertmode`: whether a client certificate is offered.
    SslCertMode {
        Disable = "disable",
        Allow = "allow",
    }
}
