//! Lists of hosts, and the files that they name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use postgres_load_test::testing::hosts::{MOST_HOSTS, parse};

fuzz_target!(|texts: (&str, &str)| {
    let (list, file) = texts;
    match parse(list, &|_| Ok(file.to_owned())) {
        Ok(hosts) => {
            assert!(!hosts.is_empty() && hosts.len() <= MOST_HOSTS);
            for host in hosts {
                // What ssh is given must not steer it, and what is printed must not steer the terminal.
                assert!(!host.address.is_empty() && !host.address.starts_with('-') && host.address.len() <= 253);
                assert!(host.address.chars().all(|c| c.is_ascii_alphanumeric() || "._:%-".contains(c)));
                assert!(host.user.is_none_or(|user| !user.is_empty() && !user.starts_with('-')));
                assert!(!host.name.chars().any(char::is_control));
            }
        }
        Err(faults) => {
            assert!(!faults.is_empty() && faults.len() <= 21);
            assert!(
                faults.iter().all(|fault| fault.len() < 2_000 && !fault.chars().any(char::is_control)),
                "{faults:?}"
            );
        }
    }
});
