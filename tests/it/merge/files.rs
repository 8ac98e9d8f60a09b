//! Where results are read from and written to: other programs' hands, compressed files, and files that must stay.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

use super::{merge, run_shares};
use crate::harness::{Program, TestServer, document, entries, is_installed, text};

/// Readers that keep every number as an f64, as most do, and what they make of standard input. Python is made to.
const READERS: [(&str, &[&str]); 3] = [
    ("jq", &["."]),
    ("node", &["-e", "process.stdout.write(JSON.stringify(JSON.parse(require('fs').readFileSync(0))))"]),
    (
        "python3",
        &[
            "-c",
            "import json, sys\n\
             def whole(x):\n\
             \x20   if isinstance(x, dict): return {k: whole(v) for k, v in x.items()}\n\
             \x20   if isinstance(x, list): return [whole(v) for v in x]\n\
             \x20   return int(x) if isinstance(x, float) and x.is_integer() else x\n\
             json.dump(whole(json.load(sys.stdin, parse_int=float)), sys.stdout)",
        ],
    ),
];

/// What an f64 holds exactly.
const MOST_EXACT: u64 = 1 << 53;

fn too_wide(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Number(number) if !number.is_f64() && number.as_u64().is_none_or(|n| n > MOST_EXACT) => {
            found.push(format!("{path}: {number}"));
        }
        Value::Array(items) => items.iter().for_each(|item| too_wide(item, path, found)),
        Value::Object(fields) => {
            fields.iter().for_each(|(name, field)| too_wide(field, &format!("{path}.{name}"), found));
        }
        _ => {}
    }
}

#[test]
fn what_other_readers_write_back_is_still_the_same_result() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let seed = u64::MAX.to_string();
    let arguments =
        ["--rps", "20", "--duration", "2", "--warmup", "1", "--arrival", "poisson", "--seed", &seed, "--verify"];
    let files = run_shares(&server, folder.path(), &["1/2", "2/2"], &arguments);
    let [one, two] = [text(&files[0]), text(&files[1])];
    let honest = merge(&["--json-output", one, two]).run().json();
    for document in [&document(&files[0]), &honest] {
        let mut found = Vec::new();
        too_wide(document, "", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
    assert_eq!(honest["config"]["seed"], seed.as_str());
    let t0: u64 = honest["run"]["started_unix_ns"].as_str().unwrap().parse().unwrap();
    assert!(t0 > MOST_EXACT);
    let mut readers = 0;
    for (program, arguments) in READERS {
        if !is_installed(program) {
            continue;
        }
        let ran = Program::new(program).args(arguments).stdin(fs::File::open(one).unwrap()).run().expect(0);
        let written_back = folder.path().join(format!("{program}.json"));
        fs::write(&written_back, ran.stdout).unwrap();
        let ran = merge(&["--json-output", text(&written_back), two]).run();
        assert!(matches!(ran.code, Some(0 | 1)), "{program}: {ran:?}");
        let json = ran.json();
        for name in ["accounting", "throughput", "latency_ms", "phases_ms", "histograms", "config", "verification"] {
            assert_eq!(json[name], honest[name], "{program}: {name}");
        }
        assert_eq!(json["run"]["started_unix_ns"], honest["run"]["started_unix_ns"], "{program}");
        readers += 1;
    }
    assert!(readers > 0);
}

#[test]
fn files_are_named_and_read_and_never_destroyed() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let files = run_shares(&server, folder.path(), &["1/2", "2/2"], &["--rps", "20", "--duration", "1"]);
    let [one, two] = [text(&files[0]), text(&files[1])];
    let content = fs::read(one).unwrap();
    let unchanged = |name: &str| assert!(fs::read(one).unwrap() == content, "{name}");

    // A file that is named twice, or two runs of one share, are refused with the names of the files.
    let copy = at("copy.json");
    fs::copy(one, &copy).unwrap();
    merge(&[one, two, &copy]).run().expect_refusal(3, &["the same result was given twice", one, &copy]);
    let mut again = document(&files[0]);
    again["run"]["start_delay_ms"] = 0.125.into();
    fs::write(&copy, again.to_string()).unwrap();
    merge(&[one, two, &copy])
        .run()
        .expect_refusal(3, &["are two runs of share 1 of 2", one, &copy, "leave out the one"]);
    again["config"]["drain_seconds"] = 9.0.into();
    fs::write(&copy, again.to_string()).unwrap();
    merge(&[two, &copy]).run().expect_refusal(3, &["drain_seconds is", two, &copy]);
    again["hostname"] = "".into();
    fs::write(&copy, again.to_string()).unwrap();
    merge(&[two, &copy]).run().expect_refusal(3, &["its name is empty", &copy]);

    // Compressed.
    let zipped = at("r2.json.gz");
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&fs::read(two).unwrap()).unwrap();
    fs::write(&zipped, encoder.finish().unwrap()).unwrap();
    assert_eq!(merge(&["--json-output", one, &zipped]).run().json(), merge(&["--json-output", one, two]).run().json());
    let half = fs::read(&zipped).unwrap();
    fs::write(&copy, &half[..half.len() / 2]).unwrap();
    merge(&[one, &copy]).run().expect_refusal(3, &[&copy, "(gzip) cannot be read"]);
    for (mark, words) in [
        (&b"\x28\xb5\x2f\xfd..."[..], "is compressed with zstd; decompress it first"),
        (b"PK\x03\x04...", "is a zip archive; unpack it first"),
        (b"\xff\xfe{\0", "is text in UTF-16; convert it first"),
    ] {
        fs::write(&copy, mark).unwrap();
        merge(&[one, &copy]).run().expect_refusal(3, &[&copy, words]);
    }

    // A refusal leaves what is there, and makes nothing.
    let (kept, absent) = (at("kept.json"), at("absent.json"));
    fs::write(&kept, "kept").unwrap();
    let before = entries(folder.path());
    for output in [&kept, &absent] {
        merge(&["--output", output, one, one]).run().expect_refusal(3, &["twice"]);
        merge(&["--output", output, one, &copy]).run().expect_refusal(3, &["UTF-16"]);
    }
    assert_eq!((entries(folder.path()), fs::read(&kept).unwrap()), (before, b"kept".to_vec()));

    // An input under any of its names is no place for the result.
    let (linked, symlinked) = (at("linked.json"), at("symlinked.json"));
    fs::hard_link(one, &linked).unwrap();
    std::os::unix::fs::symlink(one, &symlinked).unwrap();
    let dotted = at("./r1.json");
    for output in [one, &linked, &symlinked, &dotted] {
        merge(&["--output", output, one, two])
            .run()
            .expect_refusal(3, &[one, "is also where the result", "(--output)"]);
        unchanged(output);
    }
    let ran = merge(&["--output", &linked, "-", two]).stdin(fs::File::open(one).unwrap()).run();
    ran.expect_refusal(3, &["standard input is also where the result", "(--output)"]);
    let append = fs::OpenOptions::new().append(true).open(one).unwrap();
    let ran = merge(&["--json-output", one, two]).stdout(append).run();
    ran.expect_refusal(3, &[one, "(standard output)"]);
    unchanged("standard output");
    // What is no regular file may be both.
    assert!(matches!(merge(&["--output", "/dev/null", one, two]).run().code, Some(0 | 1)));
    assert!(matches!(merge(&["--output", &kept, one, two]).run().code, Some(0 | 1)));
    assert_eq!(document(Path::new(&kept))["num_vms"], 2);
}
