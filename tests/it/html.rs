//! The HTML page: when it is written, and how it looks in a real browser (headless Chromium).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::{
    Program, SMALL, TestServer, coordinator, document, entries, is_installed, load_test, skipped, start_at, text,
};

/// Runs in a copy of a page without its policy. Writes down what a reader could not read: texts upon each other, texts
/// that reach out of the page, and a page that is wider than its window.
const PROBE: &str = r#"
window.addEventListener('load', () => {
  const faults = [];
  document.querySelectorAll('details').forEach((details) => { details.open = true; });
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) faults.push('the page is wider than ' + width);
  const texts = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const parent = node.parentElement;
    if (!node.data.trim() || parent.closest('script, title, desc, .skip, [hidden]')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) {
      if (box.width < 1 || box.height < 1) continue;
      const text = node.data.trim().slice(0, 40);
      if (!parent.closest('.scroll') && (box.left < -0.5 || box.right > width + 0.5)) faults.push('cut: ' + text);
      texts.push({ text, left: box.left, right: box.right, top: box.top, bottom: box.bottom, parent });
    }
  }
  texts.sort((one, other) => one.top - other.top);
  texts.forEach((one, at) => {
    for (let next = at + 1; next < texts.length && texts[next].top < one.bottom - 3; next += 1) {
      const other = texts[next];
      const apart = other.left > one.right - 1 || other.right < one.left + 1;
      if (!apart && one.parent.closest('.scroll') === other.parent.closest('.scroll')) {
        faults.push('overlap: ' + one.text + ' / ' + other.text);
      }
    }
  });
  // The script: zoom by keyboard in all charts over time at once, switches, exact values.
  const plots = [...document.querySelectorAll('.chart .plot')];
  const views = () => plots.map((plot) => plot.querySelector('.data').getAttribute('viewBox')).join();
  const key = (name) => plots[0].dispatchEvent(new KeyboardEvent('keydown', { key: name, bubbles: true }));
  const whole = views();
  key('+');
  if (plots[0].querySelector('.data').viewBox.baseVal.width >= 4 && views() === whole) faults.push('no zoom');
  key('Escape');
  if (views() !== whole) faults.push('no reset');
  key('ArrowRight');
  const tip = document.querySelector('#tip');
  if (tip.hidden || !/\d/.test(tip.textContent)) faults.push('no exact values');
  const entry = document.querySelector('.legend button');
  entry.click();
  if (entry.getAttribute('aria-pressed') !== 'false' || !document.querySelector('path.off')) faults.push('no switch');
  document.querySelector('#theme').click();
  if (!document.documentElement.dataset.theme) faults.push('no theme');
  document.querySelector('#download').click();
  const requests = performance.getEntriesByType('resource').length;
  if (requests) faults.push(requests + ' requests');
  parent.postMessage('PROBED ' + texts.length + ' texts; ' + faults.slice(0, 8).join('; ') + ';', '*');
});
"#;

/// What a browser has loaded: the document, and what it said of the page.
fn browse(page: &Path, arguments: &[&str]) -> (String, Vec<String>) {
    let profile = tempfile::tempdir().unwrap();
    let profile = format!("--user-data-dir={}", text(profile.path()));
    let mut browser = Program::new("chromium");
    browser.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    browser.args(["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom", &profile]);
    let ran = browser.args(arguments).arg(format!("file://{}", text(page))).run();
    let said = ran.stderr.lines().filter(|line| line.contains(":CONSOLE")).map(str::to_owned).collect();
    (ran.stdout, said)
}

/// Fails where a reader would miss something.
fn assert_readable(page: &Path, folder: &Path) {
    let name = page.file_stem().unwrap().to_str().unwrap();
    let html = fs::read_to_string(page).unwrap();
    let (dom, said) = browse(page, &["--window-size=1280,900"]);
    assert_eq!(said, [""; 0], "{name}");
    assert!(dom.contains("id=\"theme\">"), "the script of {name} did not run");
    let from = html.find("<meta http-equiv").expect("a policy");
    let to = from + html[from..].find('>').unwrap() + 1;
    let probed = format!("{}<script>{PROBE}</script>{}", &html[..from], &html[to..]);
    let copy = folder.join(format!("{name}-probed.html"));
    fs::write(&copy, probed).unwrap();
    // A window is at least 500 pixels wide; a frame is as narrow as a telephone.
    for width in [1280, 390] {
        let frame = folder.join(format!("{name}-frame.html"));
        let listen =
            "addEventListener('message', (event) => { document.getElementById('found').textContent = event.data; })";
        let markup = format!(
            "<!doctype html><script>{listen}</script><p id=found></p>\
             <iframe width={width} height=900 src='{name}-probed.html'></iframe>"
        );
        fs::write(&frame, markup).unwrap();
        let (dom, said) = browse(&frame, &["--window-size=1400,1000"]);
        let found = dom.split("PROBED ").nth(1).and_then(|rest| rest.split("</p>").next());
        let found = found.unwrap_or_else(|| panic!("{name} was not probed: {said:?}"));
        assert!(found.ends_with("texts; ;") && !found.starts_with("0 "), "{name} at {width} pixels: {found}");
    }
}

/// What happens to few runs, in one document.
fn eventful(mut result: Value) -> Value {
    let long = "a word of some length ".repeat(12);
    result["hostname"] = json!("load-generator-17.internal.eu-west-1.compute.example.com");
    result["outages"] = json!([
        {"started_s": 0.4, "first_error_s": 0.5, "recovered_s": 1.6, "seconds": 1.2},
        {"started_s": 2.0, "first_error_s": null, "recovered_s": null, "seconds": 1.0},
    ]);
    result["generator"]["stalls"] = json!([{"started_s": 1.1, "seconds": 0.4}]);
    result["events"] = json!([
        {"kind": "outage", "started_s": 0.4, "seconds": 1.2, "hostname": null, "text": "outage of 1.2 s"},
        {"kind": "first-error", "started_s": 0.5, "seconds": 0.0, "hostname": null, "text": "first error: connection closed"},
        {"kind": "stall", "started_s": 1.1, "seconds": 0.4, "hostname": result["hostname"], "text": long},
        {"kind": "lost-vm", "started_s": 3.0, "seconds": 0.0, "hostname": "loader-2", "text": "last answers of a VM that was lost"},
        {"kind": "checkpoint", "started_s": 2.0, "seconds": 0.6, "hostname": null, "text": "checkpoint: timed, 0.6 s"},
        {"kind": "no-statistics", "started_s": 2.5, "seconds": 0.5, "hostname": null, "text": long},
    ]);
    result["errors"] = json!([{
        "origin": "request", "class": "connection closed", "sqlstate": "57P01", "count": 7, "example": long,
        "first_s": 0.5, "last_s": 1.5,
    }]);
    result["warnings"] = json!([long, "</script><img src=x onerror=alert(1)>"]);
    result["advice"] = json!([long]);
    result["reason"] = json!(long);
    result["limit"]["sentence"] = json!(long);
    result["limit"]["evidence"] = json!([long, "short"]);
    result["limit"]["try"] = json!(["--workers 20"]);
    result
}

/// As if the run had gone on for ten minutes: 150 bins of four seconds, and a checkpoint in every minute.
fn ten_minutes(mut result: Value) -> Value {
    const BINS: usize = 150;
    fn longer(list: &mut Value) {
        let short = list.as_array().unwrap();
        *list = (0..BINS).map(|at| short[at % short.len()].clone()).collect();
    }
    result["run"]["window_seconds"] = json!(600.0);
    result["config"]["duration_seconds"] = json!(600.0);
    let lists =
        [&mut result["timeline"]].into_iter().flat_map(|timeline| timeline.as_object_mut().unwrap().values_mut());
    lists.filter(|value| value.is_array()).for_each(longer);
    result["timeline"]["bin_seconds"] = json!(4);
    let waits = &mut result["server_stats"]["waits"];
    longer(&mut waits["samples"]);
    waits["events"].as_array_mut().unwrap().iter_mut().for_each(|event| longer(&mut event["by_bin"]));
    waits["bin_seconds"] = json!(4);
    let checkpoints = (0..10).map(|minute| {
        let started_s = f64::from(minute) * 60.0 + 7.3;
        json!({"kind": "checkpoint", "started_s": started_s, "seconds": 31.0, "hostname": null, "text": "checkpoint: timed"})
    });
    result["events"] = checkpoints.collect();
    result
}

fn write(folder: &Path, name: &str, value: &Value) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, serde_json::to_vec(value).unwrap()).unwrap();
    path
}

/// The page of a result file.
fn page_of(result: &Path) -> PathBuf {
    let page = result.with_extension("html");
    let ran =
        load_test(&["report", text(result), "--html", text(&page), "--slo", "p99<20ms", "--slo", "max<=1s"]).run();
    assert_eq!(ran.expect(0).stdout, "");
    page
}

#[test]
fn pages_are_readable_at_any_width_and_ask_for_nothing() {
    if !is_installed("chromium") {
        return skipped("chromium is not installed");
    }
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let [page, result] = ["run.html", "run.json"].map(|name| folder.path().join(name));
    let output = ["--html", text(&page), "--output", text(&result), "--slo", "p99<10s"];
    server
        .watched_load(&[&["--rps", "50", "--duration", "3", "--warmup", "1"][..], &output].concat())
        .run()
        .expect_measured();
    assert_readable(&page, folder.path());
    assert_readable(&page_of(&write(folder.path(), "eventful.json", &eventful(document(&result)))), folder.path());
    let long = page_of(&write(folder.path(), "long.json", &ten_minutes(document(&result))));
    assert!(fs::read_to_string(&long).unwrap().contains("10:00"));
    assert_readable(&long, folder.path());
    let few = folder.path().join("few.json");
    server.watched_load(&["--rps", "3", "--duration", "1", "--output", text(&few)]).run().expect_measured();
    assert_readable(&page_of(&few), folder.path());
}

#[test]
fn a_merge_has_a_page_with_each_vm_and_the_lost_ones() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let start = start_at(8);
    let shares: Vec<_> = ["1/3", "2/3"]
        .into_iter()
        .map(|share| {
            let file = folder.path().join(format!("r{}.json", &share[..1]));
            let options =
                ["--share", share, "--start-at", &start, "--rps", "60", "--duration", "2", "--output", text(&file)];
            (server.watched_load(&options).start(), file)
        })
        .collect();
    let files: Vec<PathBuf> = shares
        .into_iter()
        .map(|(started, file)| {
            started.finish().expect_measured();
            file
        })
        .collect();
    let page = folder.path().join("merged.html");
    coordinator(&["merge", text(&files[0]), text(&files[1]), "--html", text(&page)]).run().expect(1);
    let html = fs::read_to_string(&page).unwrap();
    for words in ["INVALID", "Lost or missing", "id=\"vms\"", "share 1/3"] {
        assert!(html.contains(words), "{words}");
    }
    if is_installed("chromium") {
        assert_readable(&page, folder.path());
    } else {
        skipped("chromium is not installed");
    }
}

#[test]
fn a_report_of_a_file_is_that_of_the_run() {
    let server = TestServer::with_tables();
    let folder = tempfile::tempdir().unwrap();
    let result = folder.path().join("r.json");
    let (url, output) = (server.url(), ["--rps", "20", "--duration", "1", "--output", text(&result)]);
    let ran = load_test(&[&["--postgres-url", &url][..], &SMALL, &output].concat()).run().expect_measured();
    let shown = load_test(&["report", text(&result)]).run().expect(0);
    assert!(ran.stdout.ends_with(&shown.stdout), "{}", shown.stdout);
    for (name, value, said) in [
        ("format", json!("another program's"), "use the load_test of the release that wrote it"),
        ("version", json!(2), "version 2"),
        ("data_written_mb", json!(1e300), "its data_written_mb is 1e300"),
    ] {
        let mut changed = document(&result);
        changed[name] = value;
        let file = write(folder.path(), "changed.json", &changed);
        load_test(&["report", text(&file)]).run().expect_refusal(3, &["changed.json", said]);
        let page = folder.path().join("changed.html");
        load_test(&["report", text(&file), "--html", text(&page)]).run().expect_refusal(3, &[said]);
        assert!(!page.exists());
    }
    let page = load_test(&["report", "-", "--html", "-"]).input(fs::read(&result).unwrap()).run().expect(0).stdout;
    assert!(page.starts_with("<!DOCTYPE html>") && page.ends_with("</html>"), "{}", page.len());
}

#[test]
fn what_is_refused_leaves_no_page_and_destroys_none() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    let unreachable = "postgresql://postgres@127.0.0.1:1/db";
    load_test(&["--postgres-url", unreachable, "--html", text(&page)]).run().expect(3);
    load_test(&["report", "/nonexistent.json", "--html", text(&page)]).run().expect_refusal(3, &["/nonexistent.json"]);
    load_test(&["--ephemeral", "--html", "-"]).run().expect_refusal(2, &["--html", "give a file"]);
    let foreign = folder.path().join("foreign.json");
    fs::write(&foreign, "{\"format\": \"another program's\", \"version\": 1}").unwrap();
    load_test(&["report", text(&foreign), "--html", text(&page)])
        .run()
        .expect_refusal(3, &["not a result of load_test"]);
    fs::remove_file(&foreign).unwrap();
    coordinator(&["merge", "r.json", "--html", "-"]).run().expect_refusal(2, &["--html", "give a file"]);
    assert_eq!(entries(folder.path()), [""; 0]);
    fs::write(&page, "{}").unwrap();
    load_test(&["report", text(&page), "--html", text(&page)]).run().expect_refusal(3, &["--html", "another file"]);
    assert_eq!(fs::read_to_string(&page).unwrap(), "{}");
}
