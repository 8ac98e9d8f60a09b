//! Running programs, ours and others, and what they said.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, TestServer, result, skipped, take_part, wait_until};

/// Small documents, so that a busy test machine is not what limits the load.
pub const SMALL: [&str; 4] = ["--output-size-kb", "2", "--raw-response-size-kb", "2"];

/// A superuser's password on TCP, with what has a meaning in connection strings.
pub const PASSWORD: &str = "a secret: 100%/@?";

/// A program that is about to run. None of this process's settings for Postgres reach it.
pub struct Program {
    command: Command,
    input: Option<Vec<u8>>,
    /// Whether a test has sent a stream elsewhere; otherwise it is read.
    has_stdout: bool,
    has_stderr: bool,
}

/// `load_test` with these arguments.
pub fn load_test(arguments: &[&str]) -> Program {
    let mut program = Program::new(env!("CARGO_BIN_EXE_load_test"));
    program.args(arguments);
    program
}

/// `coordinator` with these arguments.
pub fn coordinator(arguments: &[&str]) -> Program {
    let mut program = Program::new(env!("CARGO_BIN_EXE_coordinator"));
    program.args(arguments);
    program
}

impl Program {
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PG") || text.starts_with("POSTGRES") || text == "DATABASE_URL" {
                command.env_remove(name);
            }
        }
        Self { command, input: None, has_stdout: false, has_stderr: false }
    }

    pub fn arg(&mut self, argument: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(argument);
        self
    }

    pub fn args(&mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.command.args(arguments);
        self
    }

    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    pub fn envs<'a>(&mut self, variables: impl IntoIterator<Item = (&'a str, &'a str)>) -> &mut Self {
        self.command.envs(variables);
        self
    }

    pub fn env_remove(&mut self, name: impl AsRef<OsStr>) -> &mut Self {
        self.command.env_remove(name);
        self
    }

    pub fn env_clear(&mut self) -> &mut Self {
        self.command.env_clear();
        self
    }

    pub fn current_dir(&mut self, folder: impl AsRef<Path>) -> &mut Self {
        self.command.current_dir(folder);
        self
    }

    /// What it reads from standard input.
    pub fn input(&mut self, text: impl Into<Vec<u8>>) -> &mut Self {
        self.input = Some(text.into());
        self
    }

    pub fn stdin(&mut self, from: impl Into<Stdio>) -> &mut Self {
        self.command.stdin(from);
        self
    }

    pub fn stdout(&mut self, to: impl Into<Stdio>) -> &mut Self {
        self.has_stdout = true;
        self.command.stdout(to);
        self
    }

    pub fn stderr(&mut self, to: impl Into<Stdio>) -> &mut Self {
        self.has_stderr = true;
        self.command.stderr(to);
        self
    }

    /// In a process group of its own, as a shell with job control starts it.
    pub fn own_group(&mut self) -> &mut Self {
        self.command.process_group(0);
        self
    }

    /// Debian's `libfaketime` answers when it asks for the time of day. The monotonic clock is left alone, as in life.
    pub fn fake_time(&mut self, variable: &str, value: impl AsRef<OsStr>) -> &mut Self {
        let names = ["libfaketime.so.1", "libfaketimeMT.so.1"];
        let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files = folders.flat_map(|folder| names.map(|name| folder.join("faketime").join(name)));
        let library = files.find(|path| path.exists());
        let library = library.expect("no libfaketime in /usr/lib/*/faketime: run scripts/test.sh, which installs it");
        self.env("LD_PRELOAD", library).env(variable, value);
        self.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1")
    }

    /// Changes the arguments, for what a fixture has set.
    pub fn change_args(&mut self, change: impl FnOnce(&mut Vec<OsString>)) -> &mut Self {
        let mut arguments: Vec<OsString> = self.command.get_args().map(ToOwned::to_owned).collect();
        change(&mut arguments);
        let mut changed = Self::new(self.command.get_program());
        changed.args(arguments);
        changed.take_environment_of(&self.command);
        self.command = changed.command;
        self
    }

    /// Replaces what follows an option.
    pub fn set_option(&mut self, option: &str, value: &str) -> &mut Self {
        self.change_args(|arguments| {
            let at = arguments.iter().position(|argument| argument == option).expect("the option is there");
            arguments[at + 1] = value.into();
        })
    }

    fn take_environment_of(&mut self, command: &Command) {
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => self.command.env(name, value),
                None => self.command.env_remove(name),
            };
        }
    }

    /// The same program as the last words of another command, such as `nice -n 10`.
    pub fn within(&self, outer: &[&str]) -> Self {
        let mut program = Self::new(outer[0]);
        program.args(&outer[1..]).arg(self.command.get_program()).args(self.command.get_args());
        program.take_environment_of(&self.command);
        program
    }

    /// The same program after a script of `/bin/sh`, in its place.
    pub fn under_shell(&self, script: &str) -> Self {
        self.within(&["/bin/sh", "-c", &format!("{script}; exec \"$0\" \"$@\"")])
    }

    /// The same program with mounts of its own, which the script makes. `None`, with the reason told, where they are not
    /// permitted.
    pub fn with_mounts(&self, script: &str) -> Option<Self> {
        // Root needs no more, and would lose its way to the server's socket as root of a world of its own.
        let unshare = ["unshare", "--mount", "--map-root-user"];
        let unshare = if rustix::process::geteuid().is_root() { &unshare[..2] } else { &unshare };
        let tried = Command::new(unshare[0]).args(&unshare[1..]).arg("true").output().unwrap();
        if !tried.status.success() {
            skipped(format!("no mounts here: {}", String::from_utf8_lossy(&tried.stderr).trim()));
            return None;
        }
        Some(self.under_shell(&format!("set -e; {script}")).within(unshare))
    }

    /// The same program on a terminal that `script` makes; what it writes there is its standard output.
    pub fn on_terminal(&self) -> Self {
        let mut program = Self::new("script");
        program.args(["-qec", &self.shell_words(), "/dev/null"]).env("TERM", "xterm");
        program.take_environment_of(&self.command);
        program
    }

    /// Program and arguments, quoted for a shell.
    pub fn shell_words(&self) -> String {
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        words.map(quoted).collect::<Vec<_>>().join(" ")
    }

    /// As a line of a shell, with the environment.
    pub fn shell_line(&self) -> String {
        let variables = self.command.get_envs().map(|(name, value)| match value {
            Some(value) => format!("export {}={}; ", name.to_str().unwrap(), quoted(value)),
            None => format!("unset {}; ", name.to_str().unwrap()),
        });
        format!("{}{}", variables.collect::<String>(), self.shell_words())
    }

    /// Runs to the end.
    pub fn run(&mut self) -> Ran {
        self.start().finish()
    }

    /// Runs in the background.
    pub fn start(&mut self) -> Started {
        take_part();
        if self.input.is_some() {
            self.command.stdin(Stdio::piped());
        }
        if !self.has_stdout {
            self.command.stdout(Stdio::piped());
        }
        if !self.has_stderr {
            self.command.stderr(Stdio::piped());
        }
        let spawned = self.command.spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{:?}: {error}", self.command.get_program()));
        if let Some(input) = self.input.take() {
            let mut stdin = child.stdin.take().unwrap();
            // A program that refuses its arguments does not read it all.
            std::thread::spawn(move || stdin.write_all(&input));
        }
        Started {
            stdout: Reader::new(child.stdout.take()),
            stderr: Reader::new(child.stderr.take()),
            child: Some(child),
        }
    }

    /// The process alone, whose streams a test reads itself.
    pub fn spawn(&mut self) -> Child {
        take_part();
        self.command.spawn().unwrap()
    }
}

fn quoted(text: &OsStr) -> String {
    format!("'{}'", text.to_str().unwrap().replace('\'', "'\\''"))
}

/// Reads a stream to its end in a thread of its own.
struct Reader {
    bytes: Arc<Mutex<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    fn new(stream: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::<Mutex<Vec<u8>>>::default();
        let copy = Arc::clone(&bytes);
        let thread = stream.map(|stream| {
            std::thread::spawn(move || {
                let (mut stream, mut line) = (BufReader::new(stream), Vec::new());
                while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                    copy.lock().unwrap().append(&mut line);
                }
            })
        });
        Self { bytes, thread }
    }

    fn so_far(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn all(mut self) -> String {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        let bytes = std::mem::take(&mut *self.bytes.lock().unwrap());
        String::from_utf8(bytes).expect("what a program says is UTF-8")
    }
}

/// A program in the background; killed when dropped.
pub struct Started {
    child: Option<Child>,
    stdout: Reader,
    stderr: Reader,
}

impl Started {
    pub fn id(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.id().cast_signed()).unwrap(), signal).unwrap();
    }

    /// Stops the process for a while, as `kill -STOP` does.
    pub fn freeze(&self, pause: Duration) {
        self.signal(Signal::STOP);
        std::thread::sleep(pause);
        self.signal(Signal::CONT);
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.so_far()
    }

    /// Waits until standard output contains `text`.
    #[track_caller]
    pub fn wait_for_stdout(&self, text: &str) {
        wait_until(&format!("it says {text:?}"), || self.stdout.so_far().contains(text));
    }

    /// Waits until standard error contains `text`.
    #[track_caller]
    pub fn wait_for_stderr(&self, text: &str) {
        let begun = Instant::now();
        while !self.stderr().contains(text) {
            assert!(begun.elapsed() < PATIENCE, "{text:?} never came: {}", self.stderr());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end; a program that does not come to one is killed, and the test fails.
    #[track_caller]
    pub fn finish(mut self) -> Ran {
        let mut child = self.child.take().unwrap();
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if begun.elapsed() > PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("it does not end: {}", self.stderr());
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let empty = || Reader::new(None::<std::io::Empty>);
        let stdout = std::mem::replace(&mut self.stdout, empty()).all();
        let stderr = std::mem::replace(&mut self.stderr, empty()).all();
        Ran { code: status.code(), stdout, stderr }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What a program came to.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// The result document on standard output, whose counts must add up.
    #[track_caller]
    pub fn json(&self) -> Value {
        let json = serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"));
        result::assert_sound(&json);
        json
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// The run took place. Whether it passed is up to the machine, which may be busy, and not judged here.
    #[track_caller]
    pub fn expect_measured(self) -> Self {
        assert!(matches!(self.code, Some(0 | 1)), "{:?}\n{}\n{}", self.code, self.stdout, self.stderr);
        self
    }

    /// Nothing was run, and the message has all of `parts`.
    #[track_caller]
    pub fn expect_refusal(self, code: i32, parts: &[&str]) -> Self {
        let ran = self.expect(code);
        for part in parts {
            assert!(ran.stderr.contains(part), "{part:?} is missing from {}", ran.stderr);
        }
        assert_eq!(ran.stdout, "");
        ran
    }
}

/// A run of `load_test` with this connection string, with small documents and JSON output.
pub fn load_at(url: &str, arguments: &[&str]) -> Program {
    load_test(&[&["--json-output", "--postgres-url", url], &SMALL[..], arguments].concat())
}

impl TestServer {
    /// The same against this server.
    pub fn watched_load(&self, arguments: &[&str]) -> Program {
        load_at(&self.url(), arguments)
    }

    /// The same without the server's statistics, for which the end of a run waits longer than a second.
    pub fn load(&self, arguments: &[&str]) -> Program {
        self.watched_load(&[&["--no-server-stats"], arguments].concat())
    }
}

/// The `load_test` under test without what debuggers need, which is nine tenths of it: tests send it over SSH.
pub fn small_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_load_test"));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("small_load_test");
        let unfinished = path.with_extension(std::process::id().to_string());
        let stripped = Command::new("strip").arg("-o").arg(&unfinished).arg(built).status();
        if !stripped.is_ok_and(|status| status.success()) {
            fs::copy(built, &unfinished).unwrap();
        }
        fs::rename(unfinished, &path).unwrap();
        path
    })
}

/// A Python with PyPI's `hdrhistogram`, HdrHistogram's own reader for that language, and `yaml`.
pub fn python() -> PathBuf {
    let installed = || Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("venv/bin/python");
    let found = std::env::var_os("HDR_PYTHON").map_or_else(installed, PathBuf::from);
    let at = found.display();
    assert!(found.exists(), "no Python with hdrhistogram at {at}: run scripts/test.sh, which installs it");
    found
}
