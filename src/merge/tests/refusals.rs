//! What does not belong together, and what contradicts itself.

use super::*;
use crate::fleet::tests::hostile::{spoil, told};
use crate::result::{THROWAWAY_TARGET, TableRows, Verification};
use crate::text::terminal::steers;

/// What is done to the second of two documents, and what is said of it.
type Refusal = (&'static str, fn(&mut Vec<Part>), fn(&MergeError) -> bool, &'static [&'static str]);

#[test]
fn what_does_not_belong_together_is_refused() {
    let refusals: &[Refusal] = &[
        ("nothing", |p| p.clear(), |e| *e == MergeError::Nothing, &[]),
        (
            "format",
            |p| p[1].result.format = "x".into(),
            |e| matches!(e, MergeError::OtherFormat { .. }),
            &["h2", "x version 1"],
        ),
        ("version", |p| p[1].result.version = 2, |e| matches!(e, MergeError::OtherFormat { .. }), &["h2", "version 2"]),
        (
            "build",
            |p| p[1].result.tool_build = "f".into(),
            |e| matches!(e, MergeError::OtherBuild { .. }),
            &["h1", "h2", "(build f)"],
        ),
        (
            "tool",
            |p| p[1].result.tool_version = "9.9".into(),
            |e| matches!(e, MergeError::OtherBuild { .. }),
            &["version 9.9"],
        ),
        (
            "config",
            |p| {
                p[1].result.config.seed = 2;
                p[1].result.config.drain_seconds = 7.0;
                p[1].result.config.prepared_statements = false;
                p[1].result.config.target = "elsewhere".into();
            },
            |e| matches!(e, MergeError::UnlikeConfig { .. }),
            &["h1 and h2", "drain_seconds is 30.0 and 7.0", "prepared_statements is true and false", "and 1 more"],
        ),
        (
            "throwaway",
            |p| p.iter_mut().for_each(|p| p.result.config.target = THROWAWAY_TARGET.into()),
            |e| matches!(e, MergeError::ThrowawayServers { .. }),
            &["--postgres-url"],
        ),
        ("twice", |p| p[1] = p[0].clone(), |e| matches!(e, MergeError::SameResultTwice { .. }), &["h1", "twice"]),
        (
            "share",
            |p| p[1].result.run.share.index = 0,
            |e| matches!(e, MergeError::SameShareTwice { .. }),
            &["share 1 of 2"],
        ),
        (
            "whole",
            |p| p.iter_mut().for_each(|p| p.result.run.share = Share::WHOLE),
            |e| matches!(e, MergeError::SameShareTwice { .. }),
            &["whole schedule", "--share"],
        ),
        (
            "of",
            |p| p[1].result.run.share.of = 3,
            |e| matches!(e, MergeError::OtherDivision { .. }),
            &["h1 ran a part of 2", "h2 a part of 3"],
        ),
        (
            "merged",
            |p| p[1].result = merged(two()),
            |e| matches!(e, MergeError::AlreadyMerged { .. }),
            &["h2", "VMs' own"],
        ),
        (
            "phases",
            |p| p[1].result.phases_ms[0].name = "x".into(),
            |e| matches!(e, MergeError::Contradiction { .. }),
            &["its phases_ms[0].name is \"x\""],
        ),
        (
            "time",
            |p| {
                p[1].result.run.started_unix_ns += 3_600 * SECOND;
                rederive(&mut p[1]);
            },
            |e| matches!(e, MergeError::NoCommonTime { .. }),
            &["h1 had stopped measuring 3590.0 s before h2", "--start-at"],
        ),
        (
            "histogram",
            |p| p[1].result.histograms.latency.base64 = "HISTFAAA".into(),
            |e| matches!(e, MergeError::Histogram { .. }),
            &["h2", "latency"],
        ),
        (
            "phase histogram",
            |p| p[1].result.histograms.phases[0] = p[1].result.histograms.latency.clone(),
            |e| matches!(e, MergeError::Histogram { .. }),
            &["h2", "phases[0]", "precision"],
        ),
    ];
    for (name, change, is_it, words) in refusals {
        let mut parts = two();
        change(&mut parts);
        let error = merge(parts, Vec::new()).expect_err(name);
        assert!(is_it(&error), "{name}: {error:?}");
        let text = error.to_string();
        assert!(words.iter().all(|word| text.contains(word)), "{name}: {text}");
        assert!(!error.is_bug());
    }
}

type Change = fn(&mut Part);

/// What an honest VM found of these requests.
fn verified(part: &mut Part) -> &mut Verification {
    let rows = part.result.accounting.ok;
    let tables = ["chat_inference", "model_inference", "variant_by_episode"];
    let tables = tables.map(|table| TableRows { table: table.to_owned(), rows }).into();
    part.result.verification.insert(Verification { acknowledged: rows, tables, ..Verification::default() })
}

#[test]
fn rows_of_several_vms_are_added() {
    let mut parts = two();
    parts.iter_mut().for_each(|part| _ = verified(part));
    let sum = merged(parts.clone()).verification.unwrap();
    assert_eq!((sum.acknowledged, sum.tables[2].rows, sum.difference()), (400, 400, None));
    let down = Verification::failed(parts[1].result.accounting.ok, 0, "it is down".to_owned());
    parts[1].result.verification = Some(down);
    let merged = judged(merged(parts));
    assert_eq!((merged.status, merged.reason.contains("h2: it is down")), (Status::Failed, true), "{}", merged.reason);
}

#[test]
fn a_document_that_contradicts_itself_is_refused() {
    let changes: &[(&str, Change)] = &[
        ("identity", |p| p.result.accounting.skipped += 1),
        ("overflow", |p| p.result.accounting.ok = u64::MAX),
        ("both overflow", |p| (p.result.accounting.ok, p.result.accounting.scheduled) = (u64::MAX, u64::MAX)),
        ("no share", |p| p.result.run.share.of = 0),
        ("share outside", |p| p.result.run.share.index = 2),
        ("share at the end", |p| p.result.run.share = Share { index: u64::MAX, of: u64::MAX }),
        ("negative window", |p| p.result.run.window_seconds = -1.0),
        ("endless window", |p| p.result.run.window_seconds = 1e18),
        ("window that is no number", |p| p.result.run.window_start_s = f64::NAN),
        ("infinite CPU", |p| p.result.generator.cpu_seconds = f64::INFINITY),
        ("negative percentile", |p| p.result.lateness_ms.p99 = Some(-5.0)),
        ("infinite clock", |p| {
            p.clock = Some(ClockComparison {
                reference: ClockReference::Coordinator,
                offset_ms: f64::INFINITY,
                bound_ms: 0.0,
                offset_after_ms: None,
                bound_after_ms: None,
            });
        }),
        ("totals", |p| p.result.throughput.total_requests += 1),
        ("latency count", |p| p.result.latency_ms.count += 1),
        ("completed", |p| p.result.throughput.completed_in_window = 10_000),
        ("timeline", |p| p.result.throughput.timeline.completed[0] += 1),
        ("timeline overflow", |p| p.result.throughput.timeline.completed = vec![u64::MAX; 3]),
        ("no bins", |p| p.result.throughput.timeline.bin_seconds = 0),
        ("long bins", |p| p.result.throughput.timeline.bin_seconds = 1 << 63),
        ("many bins", |p| p.result.throughput.timeline.completed = vec![0; 601]),
        ("offered nothing", |p| p.result.throughput.offered_rps = None),
        ("errors", |p| {
            let error = |count| ErrorCount {
                origin: ErrorOrigin::Request,
                class: String::new(),
                sqlstate: None,
                count,
                example: String::new(),
                first_s: None,
                last_s: None,
            };
            p.result.errors = vec![error(u64::MAX), error(u64::MAX)];
        }),
        ("past range", |p| p.result.histograms.latency.past_range = u64::MAX),
        ("empty histogram", |p| p.result.histograms.latency = EncodedHistogram::default()),
        ("service count", |p| p.result.histograms.service_time.past_range = 1),
        ("lateness count", |p| p.result.histograms.lateness.past_range = 1),
        ("phase count", |p| p.result.histograms.phases[0].past_range = 1),
        ("phases missing", |p| p.result.histograms.phases.clear()),
        ("phases too many", |p| {
            p.result.phases_ms = vec![p.result.phases_ms[0].clone(); 9];
            p.result.histograms.phases = vec![p.result.histograms.phases[0].clone(); 9];
        }),
        ("warnings", |p| p.result.warnings = vec![String::new(); 5_000]),
        ("workers", |p| p.result.config.workers = usize::MAX),
        ("no warm-up", |p| p.result.run.warmup.ok = 1),
        ("sizes", |p| p.result.config.workload = crate::workload::Workload::of_kb(1e300)),
        ("rates", |p| p.result.throughput.actual_rps *= 2.0),
        ("offered", |p| p.result.throughput.offered_rps = Some(1.0)),
        ("achieved", |p| p.result.throughput.target_achieved_pct = Some(200.0)),
        ("success", |p| p.result.throughput.success_rate = None),
        ("flattered", |p| p.result.latency_ms.p99 = Some(0.1)),
        ("left out", |p| p.result.service_time_ms.max = None),
        ("no bound", |p| p.result.latency_ms.p99_is_lower_bound ^= true),
        ("beyond all measure", |p| p.result.data_written_mb = 1e300),
        ("build", |p| p.result.tool_build = "\u{9b}2J".to_owned()),
        ("hostname", |p| p.result.hostname = "\u{1b}[31mh".to_owned()),
        ("endless hostname", |p| p.result.hostname = "h".repeat(1_000_000)),
        ("round trip", |p| p.result.phases_ms[0].name = "\u{202e}".to_owned()),
        ("endless warning", |p| p.result.warnings = vec!["w".repeat(1_000_000)]),
        ("endless version", |p| p.result.server.version = Some("1".repeat(1_000_000))),
        ("endless target", |p| p.result.config.target = "t".repeat(1_000_000)),
        ("rows of another table", |p| verified(p).tables[0].table = "foo".to_owned()),
        ("a table too few", |p| _ = verified(p).tables.pop()),
        ("a table too many", |p| verified(p).tables.push(TableRows { table: "foo".to_owned(), rows: 0 })),
        ("no tables and no error", |p| verified(p).tables.clear()),
        ("tables and an error", |p| verified(p).error = Some("it is down".to_owned())),
        ("others in doubt", |p| verified(p).unsettled = 1_000_000),
        ("others acknowledged", |p| verified(p).acknowledged += 1),
        ("more settled than in doubt", |p| verified(p).committed = 1),
        ("endless rows", |p| verified(p).tables[0].rows = u64::MAX),
    ];
    for (name, change) in changes {
        let mut parts = two();
        change(&mut parts[1]);
        let error = merge(parts, Vec::new()).expect_err(name);
        assert!(matches!(error, MergeError::Contradiction { .. }), "{name}: {error:?}");
        assert!(error.to_string().starts_with("h2: its document contradicts itself ("), "{name}: {error}");
        assert!(error.to_string().len() < 300 && !error.to_string().chars().any(steers), "{name}: {error}");
    }
}

#[test]
fn a_vm_with_an_endless_name_is_refused_in_few_words() {
    let mut parts = two();
    parts[1].hostname = "\u{9b}".repeat(1_000_000);
    let error = merge(parts, Vec::new()).unwrap_err().to_string();
    assert!(error.len() < 400 && error.contains("its name has"), "{error}");
}

proptest! {
    #[test]
    fn no_lie_in_a_document_does_harm(lies in prop::collection::vec((any::<usize>(), any::<usize>()), 1..4)) {
        let mut document = serde_json::to_value(&two()[1].result).unwrap();
        lies.into_iter().for_each(|(place, lie)| spoil(&mut document, place, lie));
        let content = document.to_string();
        if let Ok(mut parts) = files::read(&["-".into()], &mut content.as_bytes()) {
            parts.truncate(1);
            let _ = told(parts.clone());
            parts.push(two().remove(0));
            match merge(parts, Vec::new()) {
                Ok(merged) => prop_assert!(merged.accounting.holds()),
                Err(error) => prop_assert!(!error.is_bug() && error.to_string().len() < 3_000, "{}", error),
            }
        }
    }

    #[test]
    fn no_bytes_do_harm(before: Vec<u8>, cut in 0usize..4_000, byte: u8) {
        let mut content = serde_json::to_vec(&two()[1].result).unwrap();
        let cut = cut % content.len();
        content[cut] = byte;
        for content in [&before[..], &content[..], &[&before[..], b"\n", &content[..cut]].concat()] {
            if let Err(error) = files::read(&["-".into()], &mut &content[..]) {
                prop_assert!(error.to_string().len() < 1_000, "{}", error);
            }
        }
    }
}
