//! The whole page.

use std::time::{Duration, Instant};

use super::*;
use crate::report::html::fixtures::{self, Shape};
use crate::result::tests::sample;

/// The folder that the pages are written to, to look at them and for the test with a browser.
const PAGES: &str = "HTML_PAGES";

fn page_of(result: &RunResult) -> String {
    page(result, &[]).unwrap()
}

#[test]
fn pages_of_all_kinds_of_runs_are_made_and_may_be_looked_at() {
    let slos = ["p99<50ms", "p50<=3ms", "max<10s", "p99.9<20ms"].map(|text| Slo::parse(text).unwrap());
    let mut max = fixtures::run(&Shape::normal());
    max.config.target_rps = None;
    let mut no_stats = sample();
    no_stats.timeline = Default::default();
    let mut nothing = sample();
    nothing.histograms = Default::default();
    nothing.accounting = crate::result::Accounting { scheduled: 6_000, not_started: 6_000, ..Default::default() };
    nothing.latency_ms = crate::result::Summary::new(&Default::default(), 6_000);
    for (name, result) in [
        ("normal", fixtures::run(&Shape::normal())),
        ("outages", fixtures::with_outages()),
        ("fleet", fixtures::fleet()),
        ("few", fixtures::three_requests()),
        ("long", fixtures::ten_minutes()),
        ("max", max),
        ("old", no_stats),
        ("nothing", nothing),
        ("hostile", fixtures::hostile()),
    ] {
        let page = page(&result, &slos).unwrap();
        assert!(page.ends_with("</html>"), "{name}");
        if let Some(folder) = std::env::var_os(PAGES) {
            std::fs::write(std::path::Path::new(&folder).join(format!("{name}.html")), page).unwrap();
        }
    }
}

#[test]
fn the_policy_allows_its_own_script_and_style_and_nothing_else() {
    let page = page_of(&fixtures::with_outages());
    let between = |from: &str, to: &str| {
        let start = page.find(from).expect(from) + from.len();
        page[start..start + page[start..].find(to).expect(to)].to_owned()
    };
    let policy = between("Content-Security-Policy\" content=\"", "\"");
    assert!(policy.starts_with("default-src 'none'; ") && !policy.contains("unsafe"), "{policy}");
    for element in [between("<script>", "</script>"), between("<style>", "</style>")] {
        assert!(policy.contains(&format!("'{}'", hash(&element))), "{policy}");
    }
    assert_eq!(page.matches("<script>").count() + page.matches("<style>").count(), 2);
    for word in [" style=", " onload=", " onclick=", "http://", "https://", "url(", "@import", " src="] {
        let page = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!page.contains(word), "{word}");
    }
}

#[test]
fn text_from_a_document_stays_text() {
    let result = fixtures::hostile();
    let page = page(&result, &[]).unwrap();
    assert!(page.contains("&lt;/script&gt;&lt;script&gt;document.title"));
    assert!(!page.contains("<img") && !page.contains("<script>document") && !page.contains('\u{202e}'));
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (3, 3));
    assert!(!page.contains("<!--"));
    let json = page.split("id=\"document\">").nth(1).unwrap().split("</script>").next().unwrap();
    let embedded: RunResult = serde_json::from_str(json).unwrap();
    assert!(embedded.hostname == result.hostname && embedded.histograms == result.histograms);
}

#[test]
fn a_page_of_ten_minutes_is_small_and_soon_made() {
    let result = fixtures::ten_minutes();
    let begun = Instant::now();
    let page = page_of(&result);
    // Without optimisation, on a busy machine; a release build takes a tenth.
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    println!("{} bytes, {:?}", page.len(), begun.elapsed());
    assert!(page.len() <= 350 * 1024, "{} bytes", page.len());
}

#[test]
fn documents_and_pages_do_not_grow_with_the_length_of_the_run() {
    let ten_seconds = fixtures::run(&Shape { seconds: 10, ..Shape::normal() });
    let runs = [("10 s", ten_seconds), ("10 min", fixtures::ten_minutes()), ("10 h", fixtures::ten_hours())];
    for (name, result) in &runs {
        let begun = Instant::now();
        let page = page_of(result);
        let took = begun.elapsed();
        let document = serde_json::to_string(result).unwrap().len();
        println!("{name}: document {document} bytes, page {} bytes in {took:?}", page.len());
        assert!(document <= 400 * 1024, "{name}: {document} bytes");
        assert!(page.len() <= 500 * 1024, "{name}: {} bytes", page.len());
    }
}

#[test]
fn a_document_with_long_lists_is_soon_shown() {
    let mut result = fixtures::with_outages();
    let events = result.events.clone();
    result.events = (0..100_000).map(|at| events[at % events.len()].clone()).collect();
    let waits = &mut result.findings.server_stats.as_mut().unwrap().waits;
    waits.events = (0..1_000).map(|at| waits.events[at % waits.events.len()].clone()).collect();
    waits.events.iter_mut().for_each(|event| event.by_bin = vec![0.1; 1_000]);
    let timeline = &mut result.timeline;
    timeline.latency = (0..10_000).map(|at| timeline.latency[at % 60].clone()).collect();
    timeline.offered = vec![400; 10_000];
    let begun = Instant::now();
    let page = page_of(&result);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(page.matches("<rect").count() < 1_000, "{}", page.matches("<rect").count());
}

#[test]
fn documents_of_earlier_builds_have_a_page_and_a_text() {
    let Ok(serde_json::Value::Object(mut fields)) = serde_json::to_value(fixtures::fleet()) else { unreachable!() };
    let new = |fields: &mut serde_json::Map<String, Value>| {
        for name in ["timeline", "events", "limit", "server_stats"] {
            fields.remove(name);
        }
        fields["generator"].as_object_mut().unwrap().remove("machine_cpu_pct");
        fields["server"].as_object_mut().unwrap().remove("pooled");
    };
    new(&mut fields);
    for vm in fields["per_vm_results"].as_array_mut().unwrap() {
        new(vm["result"].as_object_mut().unwrap());
    }
    let result: RunResult = serde_json::from_value(Value::Object(fields)).unwrap();
    assert!(page_of(&result).contains("The document has no latency over time."));
    let mut text = Vec::new();
    crate::report::text::report(&mut text, &result).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("STATUS: INVALID") && !text.contains("LIMIT:"), "{text}");
}

#[test]
fn what_is_missing_is_said() {
    let text = page_of(&sample());
    for sentence in ["The document has no latency over time.", "The server&#39;s statistics were not read"] {
        assert!(text.contains(sentence) || text.contains(&sentence.replace("&#39;", "'")), "{sentence}");
    }
}
