//! A coordinator for tests: starts an agent, pings it, sends orders, reads what it says. Waits are generous.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{PATIENCE, Program, TestServer, load_test};
use crate::library::{
    Event, Hello, Line, LoadTestOptions, Order, PlanOrder, Preflight, Ready, RunResult, Share, Snapshot, VERSION,
    wall_clock_ns,
};

/// The name of the agents' connections.
pub const NAME: &str = "agent under test";

type Step = fn(&mut Agent, &TestServer, &[&str]);

type Input = Arc<Mutex<Option<Box<dyn Write + Send>>>>;

/// An agent under way; killed when dropped.
pub struct Agent {
    child: Child,
    input: Input,
    lines: Receiver<Line>,
    all_output: Arc<Mutex<Vec<u8>>>,
    pinging: Arc<AtomicBool>,
    stalled: Arc<AtomicBool>,
    /// Of each pong: its number and time, and when it was read.
    pub pongs: Vec<(u64, u64, u64)>,
    pub seconds: Vec<Snapshot>,
    pub incidents: usize,
    pub hello: Hello,
}

/// What is left when an agent has ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stderr: String,
    pub output: String,
    pub took: Duration,
}

/// The agent as a program.
pub fn program() -> Program {
    let mut program = load_test(&["--agent"]);
    program.own_group().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    program
}

impl Agent {
    pub fn start() -> Self {
        Self::start_program(&mut program())
    }

    pub fn start_program(program: &mut Program) -> Self {
        let mut child = program.spawn();
        let output = child.stdout.take().unwrap();
        Self::meet(child, output)
    }

    /// After a script of a shell.
    pub fn start_under_shell(script: &str) -> Self {
        let mut program = program().under_shell(script);
        Self::start_program(program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// With a socket for its output that holds next to nothing.
    pub fn start_on_narrow_channel() -> Self {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        socket2::SockRef::from(&theirs).set_send_buffer_size(4_096).unwrap();
        let output = Stdio::from(std::os::fd::OwnedFd::from(theirs));
        let child = program().stdout(output).spawn();
        Self::meet(child, ours)
    }

    fn meet(mut child: Child, output: impl Read + Send + 'static) -> Self {
        let input: Input = Arc::new(Mutex::new(Some(Box::new(child.stdin.take().unwrap()))));
        let (sender, lines) = channel();
        let all_output = Arc::new(Mutex::new(Vec::new()));
        let (pinging, stalled) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
        let (copy, is_stalled) = (Arc::clone(&all_output), Arc::clone(&stalled));
        std::thread::spawn(move || {
            let mut output = BufReader::with_capacity(4_096, output);
            let mut line = Vec::new();
            loop {
                while is_stalled.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                line.clear();
                if output.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                    return;
                }
                copy.lock().unwrap().extend_from_slice(&line);
                if line == b"\n" {
                    continue;
                }
                let parsed: Line = serde_json::from_slice(&line)
                    .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&line)));
                assert!(line.starts_with(b"{\"agent\":"));
                assert_eq!(parsed.agent, VERSION);
                if sender.send(parsed).is_err() {
                    return;
                }
            }
        });
        let (ping_input, ping) = (Arc::clone(&input), Arc::clone(&pinging));
        let mut agent = Self {
            child,
            input,
            lines,
            all_output,
            pinging,
            stalled,
            pongs: Vec::new(),
            seconds: Vec::new(),
            incidents: 0,
            hello: Hello {
                build: String::new(),
                tool_version: String::new(),
                pid: 0,
                hostname: String::new(),
                processors: 0,
                open_files: None,
            },
        };
        // It speaks first: nothing has been sent yet.
        match agent.next() {
            Some(Event::Hello(hello)) => agent.hello = hello,
            other => panic!("no hello but {other:?}"),
        }
        assert_eq!(agent.all_output.lock().unwrap()[0], b'\n');
        std::thread::spawn(move || {
            for number in 0.. {
                if ping.load(Ordering::Relaxed) && !write(&ping_input, &text(&Order::Ping { number })) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        agent
    }

    /// Past the named phases, with a plan for `server`.
    pub fn start_up_to(server: &TestServer, phase: &str, arguments: &[&str]) -> Self {
        let mut agent = Self::start();
        for (name, step) in Self::PHASES {
            if phase == "hello" {
                break;
            }
            step(&mut agent, server, arguments);
            if name == phase {
                break;
            }
        }
        agent
    }

    const PHASES: [(&str, Step); 4] = [
        ("plan", |agent, server, arguments| _ = agent.plan(plan(server, arguments))),
        ("set_up", |agent, _, _| agent.set_up()),
        ("connect", |agent, _, _| _ = agent.connect()),
        ("start", |agent, _, _| _ = agent.begin(Duration::from_millis(300))),
    ];

    pub fn send(&self, order: &Order) {
        assert!(write(&self.input, &text(order)), "the agent does not listen");
    }

    /// Whether the agent took it is not judged.
    pub fn send_text(&self, line: &[u8]) -> bool {
        write(&self.input, line)
    }

    pub fn hang_up(&self) {
        *self.input.lock().unwrap() = None;
    }

    pub fn stop_pinging(&self) {
        self.pinging.store(false, Ordering::Relaxed);
    }

    /// Whether its output is left unread.
    pub fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it says next, apart from pongs, seconds and incidents, which are collected; `None` where it says no more.
    pub fn next(&mut self) -> Option<Event> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "the agent says nothing that matters");
            match self.lines.recv_timeout(PATIENCE) {
                Ok(Line { event, .. }) => match event {
                    Event::Pong { number, unix_ns } => self.pongs.push((number, unix_ns, wall_clock_ns())),
                    Event::Alive | Event::Watched { .. } => {}
                    Event::Second(second) => self.seconds.push(*second),
                    Event::Incident { .. } => self.incidents += 1,
                    event => return Some(event),
                },
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => panic!("the agent says nothing"),
            }
        }
    }

    /// Collects what has come by now, without waiting.
    pub fn drain(&mut self) {
        while let Ok(Line { event, .. }) = self.lines.try_recv() {
            if let Event::Pong { number, unix_ns } = event {
                self.pongs.push((number, unix_ns, wall_clock_ns()));
            }
        }
    }

    #[track_caller]
    pub fn plan(&mut self, order: PlanOrder) -> Preflight {
        self.send(&Order::Plan(Box::new(order)));
        match self.next() {
            Some(Event::Preflight(preflight)) => *preflight,
            other => panic!("no preflight but {other:?}"),
        }
    }

    #[track_caller]
    pub fn set_up(&mut self) {
        self.send(&Order::SetUp);
        self.expect_set_up();
    }

    #[track_caller]
    pub fn expect_set_up(&mut self) {
        let event = self.next();
        assert!(matches!(event, Some(Event::SetUp)), "{event:?}");
    }

    #[track_caller]
    pub fn connect(&mut self) -> Ready {
        self.send(&Order::Connect);
        match self.next() {
            Some(Event::Ready(ready)) => *ready,
            other => panic!("no ready but {other:?}"),
        }
    }

    /// Starts after `delay`; returns T0.
    #[track_caller]
    pub fn begin(&mut self, delay: Duration) -> u64 {
        let at_unix_ns = wall_clock_ns() + delay.as_nanos() as u64;
        self.begin_at(at_unix_ns);
        at_unix_ns
    }

    /// Starts at T0; returns how far ahead that was, milliseconds.
    #[track_caller]
    pub fn begin_at(&mut self, at_unix_ns: u64) -> f64 {
        self.send(&Order::Start { at_unix_ns });
        match self.next() {
            Some(Event::Started { ahead_ms }) => ahead_ms,
            other => panic!("not started but {other:?}"),
        }
    }

    #[track_caller]
    pub fn result(&mut self) -> RunResult {
        match self.next() {
            Some(Event::Result(result)) => *result,
            other => panic!("no result but {other:?}"),
        }
    }

    /// The sentence with which it gives up; it must end by itself after it.
    #[track_caller]
    pub fn failure(mut self) -> String {
        let message = match self.next() {
            Some(Event::Failed { message }) => message,
            other => panic!("not failed but {other:?}"),
        };
        let ended = self.wait();
        assert_eq!(ended.code, Some(3), "{}", ended.stderr);
        message
    }

    /// Waits until it has ended by itself.
    pub fn wait(mut self) -> Ended {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE, "the agent goes on");
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = begun.elapsed();
        while self.lines.recv_timeout(PATIENCE).is_ok() {}
        let mut stderr = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let output = String::from_utf8(self.all_output.lock().unwrap().clone()).unwrap();
        Ended { code: status.code(), stderr, output, took }
    }

    /// Waits until it has ended, without reading what it has still to say.
    #[track_caller]
    pub fn expect_code(mut self, code: i32) {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "the agent goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.child.wait().unwrap().code(), Some(code));
    }

    /// Hangs up after the result.
    #[track_caller]
    pub fn part(self) -> Ended {
        self.hang_up();
        let ended = self.wait();
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        ended
    }

    /// It must notice soon that it is alone, say so, and leave no connection behind.
    #[track_caller]
    pub fn expect_abandoned(self, within: Duration, part: &str) {
        let ended = self.wait();
        assert_eq!(ended.code, Some(3), "{}", ended.stderr);
        assert!(ended.stderr.contains(part), "{part} is not in {}", ended.stderr);
        assert!(ended.took < within, "it took {:?}", ended.took);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.pinging.store(false, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(order: &Order) -> Vec<u8> {
    let mut line = serde_json::to_vec(order).unwrap();
    line.push(b'\n');
    line
}

fn write(input: &Input, line: &[u8]) -> bool {
    input.lock().unwrap().as_mut().is_some_and(|input| input.write_all(line).and_then(|()| input.flush()).is_ok())
}

/// The options of a command line with small documents.
pub fn options(url: &str, arguments: &[&str]) -> LoadTestOptions {
    let small = ["load_test", "--output-size-kb", "2", "--raw-response-size-kb", "2", "--application-name", NAME];
    let mut options = LoadTestOptions::try_parse_from(small.iter().chain(arguments)).unwrap();
    options.target.postgres_url = Some(url.to_owned());
    options
}

pub fn plan(server: &TestServer, arguments: &[&str]) -> PlanOrder {
    share_of(server, arguments, Share::WHOLE)
}

pub fn share_of(server: &TestServer, arguments: &[&str], share: Share) -> PlanOrder {
    PlanOrder { options: options(&server.url(), arguments), test: 7, share, pgpassword: None }
}

pub fn connections(server: &TestServer) -> u64 {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name = '{NAME}'");
    server.sql(&sql).parse().unwrap()
}
