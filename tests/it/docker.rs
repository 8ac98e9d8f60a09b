//! The container monitor against a real engine with a real container, and against scripted engines that fail midway.
//!
//! Where `DOCKER_HOST` or the default socket leads to an engine, that one is used, and what the test made in it is
//! removed. Otherwise the test starts an engine of its own in a private directory (as root, from Debian's `docker.io`).
//! Where neither works, it says SKIPPED on stderr.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

use crate::harness::docker::Engine;
use crate::harness::{SMALL, TestServer, load_test, skipped};
use crate::library::{ContainerError, ContainerMonitor};

#[tokio::test]
async fn a_real_container() {
    let engine = match Engine::find_or_start().await {
        Ok(engine) => engine,
        Err(reason) => return skipped(format!("no Docker engine here: {reason}")),
    };
    let burner = engine.run_cpu_burner();
    an_unknown_container_is_an_error_that_names_it(&engine, &burner).await;
    a_busy_container_is_seen_to_be_busy(&engine, &burner).await;
    a_run_reports_the_container(&engine, &burner);
    a_container_that_stops_midway_is_a_warning(&engine, &burner).await;
    a_stopped_container_is_an_error_that_names_it(&engine, &burner).await;
}

async fn an_unknown_container_is_an_error_that_names_it(engine: &Engine, burner: &str) {
    for unknown in ["no-such-container", "no/such?container=1"] {
        let error = ContainerMonitor::attach_at(engine.address(), unknown).await.unwrap_err();
        assert!(matches!(error, ContainerError::NoSuchContainer { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(unknown) && text.contains(burner), "{text}");
    }
}

async fn a_busy_container_is_seen_to_be_busy(engine: &Engine, burner: &str) {
    let monitor = ContainerMonitor::attach_at(engine.address(), burner).await.unwrap();
    assert_eq!(monitor.latest(), None, "one reading is no sample yet");
    monitor.mark_start();
    sleep(Duration::from_millis(4500)).await;
    let latest = monitor.latest().expect("a sample after four seconds");
    let usage = monitor.usage();

    // One loop keeps one core busy. Other tests take their share of the machine, so no more than 5 % is expected.
    let (average, max) = (usage.cpu_percent_avg.unwrap(), usage.cpu_percent_max.unwrap());
    assert!(average > 5.0 && average < 130.0, "{usage:?}");
    assert!(latest.cpu_percent > 5.0 && max >= average && max >= latest.cpu_percent, "{latest:?} {usage:?}");
    let (average, max) = (usage.memory_mib_avg.unwrap(), usage.memory_mib_max.unwrap());
    assert!(average > 0.0 && average < 64.0 && max >= average, "{usage:?}");
    assert!((2..=5).contains(&usage.samples), "{usage:?}");
    assert_eq!((usage.name.as_str(), usage.warning), (burner, None));
}

/// The program itself: figures in the progress, in the JSON document; a container that does not exist ends it early.
fn a_run_reports_the_container(engine: &Engine, burner: &str) {
    let server = TestServer::with_tables();
    let run = |container: &str, more: &[&str]| {
        let arguments = [&["--rps", "20", "--docker-container", container], &SMALL[..], more].concat();
        load_test(&arguments).env("POSTGRES_URL", server.url()).env("DOCKER_HOST", engine.address()).run()
    };
    let ran = run(burner, &["--duration", "6", "--json-output"]);
    let json = ran.json();
    let container = &json["container"];
    assert_eq!(container["name"], burner);
    assert!(container["cpu_percent_avg"].as_f64().unwrap() > 5.0, "{container}");
    assert!(container["memory_mib_max"].as_f64().unwrap() > 0.0, "{container}");
    assert!(ran.stderr.contains("CPU: ") && ran.stderr.contains("Mem: "), "{}", ran.stderr);
    let stdout = run(burner, &["--duration", "3"]).stdout;
    assert!(stdout.contains(&format!("DOCKER CONTAINER ({burner}):\n  CPU Avg:            ")), "{stdout}");
    run("no-such-container", &["--duration", "60"]).expect_refusal(3, &["no-such-container", burner]);
}

async fn a_container_that_stops_midway_is_a_warning(engine: &Engine, burner: &str) {
    let monitor = ContainerMonitor::attach_at(engine.address(), burner).await.unwrap();
    sleep(Duration::from_millis(2500)).await;
    engine.stop(burner);
    sleep(Duration::from_millis(2500)).await;
    assert_eq!(monitor.latest(), None);
    let usage = monitor.usage();
    assert!(usage.samples >= 1 && usage.cpu_percent_avg.unwrap() > 5.0, "{usage:?}");
    assert!(usage.warning.as_deref().is_some_and(|text| text.contains(burner)), "{usage:?}");
}

async fn a_stopped_container_is_an_error_that_names_it(engine: &Engine, burner: &str) {
    let error = ContainerMonitor::attach_at(engine.address(), burner).await.unwrap_err();
    assert!(matches!(error, ContainerError::NotRunning { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("docker start {burner}")), "{error}");
}

#[tokio::test]
async fn no_engine_is_an_error_that_names_the_address() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for address in ["unix:///nonexistent/docker.sock".to_owned(), format!("tcp://{nobody}")] {
        let error = ContainerMonitor::attach_at(&address, "db").await.unwrap_err();
        assert!(matches!(error, ContainerError::Engine { .. }), "{error:?}");
        assert!(error.to_string().contains(&address), "{error}");
    }
    let error = ContainerMonitor::attach_at("ssh://db-host", "db").await.unwrap_err();
    assert!(matches!(error, ContainerError::Address { .. }), "{error:?}");
}

/// A reading of a container on two cores; `seconds` of the machine's time, all of it on one core.
fn reading(seconds: u64) -> String {
    format!(
        r#"{{"cpu_stats":{{"cpu_usage":{{"total_usage":{seconds}000000000}},"system_cpu_usage":{}000000000,"online_cpus":2}},"memory_stats":{{"usage":3145728,"stats":{{"inactive_file":1048576}}}}}}"#,
        2 * seconds
    )
}

/// What a scripted engine does once it has sent its readings.
#[derive(Clone, Copy)]
enum Ending {
    Close,
    Garbage,
    Silence,
}

/// An engine with one container, `db`, that sends `readings` a tenth of a second apart and then fails.
async fn scripted_engine(readings: u64, ending: Ending) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, readings, ending));
        }
    });
    address
}

async fn answer(mut stream: TcpStream, readings: u64, ending: Ending) {
    let mut request = vec![0; 4096];
    let length = stream.read(&mut request).await.unwrap();
    let request = String::from_utf8_lossy(&request[..length]);
    let request = request.lines().next().unwrap_or_default();
    let body = if request.contains("/stats") {
        String::new()
    } else if request.contains("/json") {
        r#"{"Id":"1234","Name":"/db","State":{"Status":"running","Running":true}}"#.to_owned()
    } else {
        r#"{"ApiVersion":"1.53"}"#.to_owned()
    };
    // Without a length, the end of the connection is the end of the body.
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    if body.is_empty() {
        for k in 1..=readings {
            stream.write_all(format!("{}\n", reading(k)).as_bytes()).await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
        match ending {
            Ending::Close => {}
            Ending::Garbage => stream.write_all(b"{\"cpu_stats\": 7}\n").await.unwrap(),
            Ending::Silence => sleep(Duration::from_secs(60)).await,
        }
    }
}

#[tokio::test]
async fn a_stream_that_dies_midway_leaves_what_it_gave_and_a_warning() {
    for ending in [Ending::Close, Ending::Garbage] {
        let address = scripted_engine(4, ending).await;
        let monitor = ContainerMonitor::attach_at(&address, "db").await.unwrap();
        sleep(Duration::from_millis(1000)).await;
        let usage = monitor.usage();
        assert_eq!(usage.samples, 3, "{usage:?}"); // four readings have three intervals
        assert_eq!((usage.cpu_percent_avg, usage.cpu_percent_max), (Some(100.0), Some(100.0))); // 1/2 × 2 cores
        assert_eq!((usage.memory_mib_avg, usage.memory_mib_max), (Some(2.0), Some(2.0))); // 3 − 1 MiB
        assert!(usage.warning.is_some_and(|text| text.contains("db") && text.contains("ended")));
    }
}

#[tokio::test]
async fn a_stream_that_falls_silent_holds_nothing_up() {
    let address = scripted_engine(3, Ending::Silence).await;
    let monitor = ContainerMonitor::attach_at(&address, "db").await.unwrap();
    sleep(Duration::from_millis(1000)).await;
    assert!(monitor.latest().is_some());
    sleep(Duration::from_millis(5000)).await;
    assert_eq!(monitor.latest(), None, "too old to be shown as the present");
    let begun = Instant::now();
    let usage = monitor.usage();
    assert!(begun.elapsed() < Duration::from_millis(100));
    assert_eq!(usage.samples, 2);
    assert!(usage.warning.is_some_and(|text| text.contains("no statistics")));
}

#[tokio::test]
async fn an_engine_without_a_reading_is_an_error_before_the_run() {
    let address = scripted_engine(0, Ending::Close).await;
    let error = ContainerMonitor::attach_at(&address, "db").await.unwrap_err();
    assert!(matches!(error, ContainerError::NoStatistics { .. }), "{error:?}");
}
