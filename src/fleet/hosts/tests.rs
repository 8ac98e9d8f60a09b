//! Tables of what `--vms` can hold, and that nothing at all makes its reading panic.

use proptest::prelude::*;

use super::*;

fn no_files(_: &Path) -> io::Result<String> {
    Err(io::Error::from(io::ErrorKind::NotFound))
}

fn parsed(text: &str) -> Vec<Host> {
    parse(text, &no_files).unwrap_or_else(|faults| panic!("{text}: {faults:?}"))
}

fn faults(text: &str) -> Vec<String> {
    parse(text, &no_files).expect_err(text)
}

fn host(name: &str, user: Option<&str>, address: &str, port: Option<u16>) -> Host {
    Host { name: name.into(), user: user.map(str::to_owned), address: address.into(), port }
}

#[test]
fn every_form_of_one_host() {
    for (text, user, address, port) in [
        ("vm1", None, "vm1", None),
        ("vm1.example.com", None, "vm1.example.com", None),
        ("my_alias", None, "my_alias", None),
        ("user@host:2222", Some("user"), "host", Some(2222)),
        ("root@10.0.0.1", Some("root"), "10.0.0.1", None),
        ("10.0.0.1:22", None, "10.0.0.1", Some(22)),
        ("[::1]:2222", None, "::1", Some(2222)),
        ("[::1]", None, "::1", None),
        ("user@[::1]", Some("user"), "::1", None),
        ("user@[::1]:65535", Some("user"), "::1", Some(65535)),
        ("fe80::1", None, "fe80::1", None),
        ("fe80::1%eth0", None, "fe80::1%eth0", None),
        ("bob@fe80::1", Some("bob"), "fe80::1", None),
        ("DOMAIN\\bob@vm", Some("DOMAIN\\bob"), "vm", None),
        ("bob@example.com@vm", Some("bob@example.com"), "vm", None),
        ("a.b+c_d-e@vm", Some("a.b+c_d-e"), "vm", None),
    ] {
        assert_eq!(parsed(text), [host(text, user, address, port)], "{text}");
    }
}

#[test]
fn lists_and_ranges() {
    for (text, names) in [
        (" a , b,,c ,", "a b c"),
        ("a\nb\r\nc", "a b c"),
        ("a b\tc", "a b c"),
        ("a  b , c;d ; e\u{a0}f", "a b c d e f"),
        ("vm[1,3] vm[5-6]\tx@y:22", "vm1 vm3 vm5 vm6 x@y:22"),
        ("vm[8-11]", "vm8 vm9 vm10 vm11"),
        ("vm[08-11].example.com", "vm08.example.com vm09.example.com vm10.example.com vm11.example.com"),
        ("vm[1,3,7-9]", "vm1 vm3 vm7 vm8 vm9"),
        ("vm[1,3],x", "vm1 vm3 x"),
        ("10.0.0.[1-4]", "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4"),
        ("r[1-2]n[01-02]", "r1n01 r1n02 r2n01 r2n02"),
        ("bob@vm[1-2]:22", "bob@vm1:22 bob@vm2:22"),
        ("vm[5-5]", "vm5"),
        ("vm[098-101]", "vm098 vm099 vm100 vm101"),
        ("[1-2].example.com", "1.example.com 2.example.com"),
    ] {
        let names: Vec<&str> = names.split(' ').collect();
        assert_eq!(parsed(text).iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), names, "{text}");
    }
    let in_range = &parsed("bob@vm[1-2]:2222")[1];
    assert_eq!(*in_range, host("bob@vm2:2222", Some("bob"), "vm2", Some(2222)));
    assert_eq!(parsed("vm[1-10000]").len(), MOST_HOSTS);
}

#[test]
fn what_is_wrong_is_said_with_the_item_and_the_remedy() {
    for (text, expected) in [
        ("", "--vms names no host"),
        (" , ,", "--vms names no host"),
        ("-oProxyCommand=x", "cannot begin with \"-\""),
        ("user@-oProxyCommand=x", "cannot begin with \"-\""),
        ("-x@host", "a user cannot begin with \"-\""),
        ("[0-1]x,-[1-2]", "cannot begin with \"-\""),
        ("vm[1, 3]", "a range cannot hold spaces"),
        ("a\u{200b} b", "cannot hold '\\u{200b}'"),
        ("a\u{1b}[31m", "cannot hold control characters"),
        ("a&reboot", "cannot hold '&'"),
        ("$(reboot)", "cannot hold '$'"),
        ("`x`", "cannot hold '`'"),
        ("münchen", "cannot hold 'ü'"),
        ("bo$b@host", "a user cannot hold '$'"),
        ("ssh://host", "is not a port"),
        ("a/b", "a URL or path is no host"),
        ("@", "needs the path of a file"),
        ("user@", "the host's name is missing"),
        (":22", "the host's name is missing"),
        ("host:", "is not a port"),
        ("host:0", "is not a port"),
        ("host:65536", "is not a port"),
        ("host:+22", "is not a port"),
        ("host:ssh", "is not a port"),
        ("[::1]22", "only a port can follow"),
        ("[::zz]", "is not an IPv6 address"),
        ("1:2:3", "is not an IPv6 address"),
        ("fe80::1%", "is not the zone"),
        ("fe80::1%a!b", "is not the zone"),
        ("fe80::[1-2]", "ranges and IPv6 do not mix"),
        ("vm[3-1]", "runs backwards: write [1-3]"),
        ("vm[]", "is not a range of numbers"),
        ("vm[1-]", "is not a range of numbers"),
        ("vm[a-b]", "is not a range of numbers"),
        ("vm[1,,2]", "is not a range of numbers"),
        ("vm[1-2", "never closed"),
        ("vm1-2]", "never opened"),
        ("vm[1-10001]", "more than 10000 hosts"),
        ("a,vm[1-10000]", "more than 10000 hosts"),
        ("vm[0-18446744073709551615]", "more than 10000 hosts"),
        ("vm[1-9999][1-9999][1-9999][1-9999][1-9999]", "more than 10000 hosts"),
        ("vm[99999999999999999999]", "is not a range of numbers"),
        ("a,A", "names a more than once (also as A)"),
        ("vm[1-3],vm2", "names vm2 more than once"),
        ("[::1],::1", "names [::1] more than once (also as ::1)"),
        ("@missing.txt", "the file \"missing.txt\" cannot be read"),
    ] {
        let faults = faults(text);
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert!(faults[0].starts_with("--vms"), "{faults:?}");
        assert!(faults[0].contains(expected), "{text}: {faults:?}");
        assert!(!faults[0].chars().any(char::is_control), "{text}: {faults:?}");
    }
}

#[test]
fn all_faults_come_at_once() {
    assert_eq!(faults("a&b,vm[3-1],host:0,ok").len(), 3);
    assert_eq!(faults("vm[1-99999],wm[1-99999],a,a,a").len(), 2);
}

#[test]
fn long_texts_are_refused_before_they_are_multiplied() {
    let zeros = "0".repeat(100_000);
    for text in [
        // A width beyond 65,535 is also more than can be formatted.
        format!("vm[{zeros}1-{zeros}9999]"),
        format!("{}[1-9999]", "a".repeat(1_000_000)),
        format!("vm[1-100]{}[1-100]", "a".repeat(250)),
    ] {
        let faults = faults(&text);
        assert!(faults.len() == 1 && faults[0].contains("at most 253 characters"), "{faults:?}");
        assert!(faults[0].len() < 300, "{faults:?}");
    }
    assert_eq!(parsed(&format!("{}[1-10]", "a".repeat(251))).len(), 10);
}

#[test]
fn of_many_faults_some_are_told() {
    let faults = faults(&"host:0,".repeat(100_000));
    assert_eq!(faults.len(), MOST_FAULTS + 1);
    assert!(faults[MOST_FAULTS].contains("99980 more"), "{faults:?}");
}

#[test]
fn not_the_same_host_if_user_or_port_differ() {
    assert_eq!(parsed("a,b@a,a:22,a:23,c@a").len(), 5);
}

#[test]
fn files_of_hosts() {
    let text = "\u{feff}# our machines\r\nvm1, vm2 # two\r\n\r\n  root@vm[3-4]:2222\r\n";
    let read = |path: &Path| match path.to_str() {
        Some("my hosts.txt") => Ok(text.to_owned()),
        Some("more") => Ok("vm8\tvm9;vm10".to_owned()),
        Some("nested") => Ok("a,@my hosts.txt".to_owned()),
        Some("empty") => Ok("# nothing\n".to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    };
    let hosts = parse("first,@my hosts.txt,last", &read).unwrap();
    let names: Vec<_> = hosts.iter().map(|host| host.name.as_str()).collect();
    assert_eq!(names, ["first", "vm1", "vm2", "root@vm3:2222", "root@vm4:2222", "last"]);

    let hosts = parse("@more first\t@my hosts.txt", &read).unwrap_err();
    assert!(hosts.len() == 1 && hosts[0].contains("\"my\" cannot be read"), "{hosts:?}");
    let hosts = parse("first @more", &read).unwrap();
    assert_eq!(hosts.iter().map(|host| host.name.as_str()).collect::<Vec<_>>(), ["first", "vm8", "vm9", "vm10"]);

    let nested = parse("@nested", &read).unwrap_err();
    assert!(nested.len() == 1 && nested[0].contains("files do not name files"), "{nested:?}");
    let empty = parse("@empty", &read).unwrap_err();
    assert!(empty.len() == 1 && empty[0].contains("\"empty\" names no host"), "{empty:?}");
    let both = parse("vm1,@my hosts.txt", &read).unwrap_err();
    assert!(both.len() == 1 && both[0].contains("vm1 more than once"), "{both:?}");
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(text in "\\PC*", file in ".*") {
        let _ = parse(&text, &|_| Ok(file.clone()));
    }

    #[test]
    fn what_comes_out_can_steer_nothing(text in "[-a-z0-9@:\\[\\],.%_\\\\+ #\t\n]{0,40}") {
        for host in parse(&text, &|_| Ok(text.clone())).unwrap_or_default() {
            prop_assert!(!host.address.is_empty() && !host.address.starts_with('-'));
            prop_assert!(host.address.chars().all(|c| c.is_ascii_alphanumeric() || "._:%-".contains(c)));
            let user = host.user.unwrap_or("x".into());
            prop_assert!(!user.is_empty() && !user.starts_with('-'));
            prop_assert!(!host.name.chars().any(char::is_control));
        }
    }

    #[test]
    fn a_range_counts_what_it_says(first in 0u32..300, more in 0u32..300, width in 1usize..6) {
        let last = first + more;
        let names = parsed(&format!("vm[{first:0width$}-{last:0width$}]"));
        prop_assert_eq!(names.len(), more as usize + 1);
        let padded = if format!("{first:0width$}").len() > first.to_string().len() { width } else { 0 };
        prop_assert_eq!(&names[more as usize].address, &format!("vm{last:0padded$}"));
    }
}
