//! Writes what the fuzzer begins with, so that it need not find the form of a document by itself: `seeds FOLDER`.

use std::fs;
use std::io::Read;
use std::path::Path;

use base64::Engine;
// The counters of the coverage are in it.
use libfuzzer_sys as _;
use postgres_load_test::testing::protocol::{AgentEvent, Order, PlanOrder};
use postgres_load_test::testing::hostile::{honest, lines, spoken};
use postgres_load_test::testing::LoadTestOptions;
use postgres_load_test::testing::Share;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: seeds FOLDER")?;
    let write = |target: &str, number: usize, content: &[u8]| {
        let folder = Path::new(&folder).join(target);
        fs::create_dir_all(&folder).and_then(|()| fs::write(folder.join(format!("seed-{number}")), content))
    };
    let texts: &[(&str, &[&str])] = &[
        (
            "options",
            &[
                "--rps\n100\n--duration\n1m30s\n--workers\n8\n--slo\np99<20ms\n--share\n1/3\n--start-at\n1900000000",
                "--vms\nvm[1-3]\n--rps-per-vm\n10\n--deploy\nnever\n--ssh-user\nme\n--postgres-url\npostgres://u@h/d",
                "--rps\nmax\n--arrival\npoisson\n--max-lag\n500ms\n--setup\nunlogged\n--seed\n7\n--pipeline",
            ],
        ),
        (
            "conninfo",
            &[
                "postgresql://u:p%40@h1:1,[::1]:2/db?sslmode=verify-full&sslrootcert=system&connect_timeout=3",
                "host=/run user=u password='a b\\'c' port=5433 options='-c a=1' keepalives=0",
                "psql \"host=h hostaddr=127.0.0.1 target_session_attrs=primary load_balance_hosts=random\"",
            ],
        ),
        (
            "hosts",
            &["vm[01-16].example.com,root@10.0.0.[1-4]:2222", "[::1]:22,fe80::1%eth0,DOM\\bob@h", "@file,a # b\nc"],
        ),
    ];
    for (target, seeds) in texts {
        for (number, text) in seeds.iter().enumerate() {
            write(target, number, text.as_bytes())?;
        }
    }
    let plan = Order::Plan(Box::new(PlanOrder {
        options: <LoadTestOptions as clap::Parser>::try_parse_from([
            "load_test",
            "--postgres-url",
            "postgres://u@h/d",
        ])?,
        share: Share { index: 0, of: 2 },
        pgpassword: Some("secret".to_owned()),
    }));
    for (number, order) in [plan, Order::Start { at_unix_ns: 1 }, Order::Ping { number: 1 }].iter().enumerate() {
        write("order", number, &serde_json::to_vec(order)?)?;
    }
    let events = honest();
    let conversation = lines(&events);
    for (number, line) in conversation.iter().enumerate() {
        let after = [u8::try_from(number)?];
        write("event", number, &[&after, &spoken(std::slice::from_ref(line))[..]].concat())?;
        write("lie", number, &[1, u8::try_from(number)?, 3, 0, 4])?;
    }
    if let Some(AgentEvent::Result(result)) = events.last() {
        write("merge", 0, &serde_json::to_vec(result)?)?;
        write("merge", 1, format!("Welcome\n{}", serde_json::to_string_pretty(result)?).as_bytes())?;
        for (number, encoded) in [&result.histograms.latency, &result.histograms.phases[0]].into_iter().enumerate() {
            let bytes = base64::engine::general_purpose::STANDARD.decode(&encoded.base64)?;
            let mut inner = vec![0; 8];
            flate2::read::ZlibDecoder::new(&bytes[8..]).read_to_end(&mut inner)?;
            write("histogram", number, &inner)?;
        }
    }
    let message = |tag: u8, body: &[u8]| [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat();
    let parts = [
        message(b'1', b""),
        message(b'2', b""),
        message(b'C', b"INSERT 0 1\0"),
        message(b'N', b"SNOTICE\0\0"),
        message(b'E', b"SERROR\0VERROR\0C40P01\0Mdeadlock\0Dwhy\0\0"),
        message(b'Z', b"I"),
    ];
    write("server", 0, &parts.concat())?;
    write("server", 1, &parts[4])?;
    write("server", 2, b"SERROR\0VFATAL\0C57P01\0Mend\0Dwhy\0\0")?;
    Ok(())
}
