//! A real terminal, tmux: what stands on its screen, and what becomes of that when it is resized.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{PATIENCE, Program, public_folder, take_part};

/// A terminal in which a program runs; gone when dropped.
pub struct Terminal {
    folder: tempfile::TempDir,
}

impl Terminal {
    /// Runs the program in a terminal of so many columns and rows. When it ends, the screen says `EXIT` and its code.
    pub fn run((columns, rows): (usize, usize), program: &Program) -> Self {
        take_part();
        let terminal = Self { folder: public_folder() };
        let (script, config) = (terminal.folder.path().join("run.sh"), terminal.folder.path().join("conf"));
        // Ctrl-C goes to the shell too.
        fs::write(&script, format!("trap : INT\n{}\necho EXIT $?\nexec sleep 600\n", program.shell_line())).unwrap();
        fs::write(&config, "set -g status off\nset -g default-terminal screen-256color\n").unwrap();
        let (columns, rows) = (columns.to_string(), rows.to_string());
        let begin = ["-u", "-f", config.to_str().unwrap(), "new-session", "-d", "-x", &columns, "-y", &rows];
        terminal.tmux(&[&begin[..], &["sh", script.to_str().unwrap()]].concat());
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S").arg(self.folder.path().join("socket")).args(arguments).env_remove("TMUX").stdin(Stdio::null());
        let output = tmux.output().unwrap_or_else(|error| panic!("tmux: {error}; scripts/test.sh installs it"));
        assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What stands on the screen, row by row.
    pub fn screen(&self) -> Vec<String> {
        self.tmux(&["capture-pane", "-p"]).lines().map(str::to_owned).collect()
    }

    /// The same with what has left it at the top.
    pub fn history(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-S", "-"])
    }

    pub fn resize(&self, (columns, rows): (usize, usize)) {
        self.tmux(&["resize-window", "-x", &columns.to_string(), "-y", &rows.to_string()]);
    }

    /// Types a key, such as `C-c`.
    pub fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    /// Waits until the screen is as wanted, and returns it.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let screen = self.screen();
            if is_wanted(&screen) {
                return screen;
            }
            assert!(Instant::now() < until, "waited in vain until {what}:\n{}", screen.join("\n"));
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The screen at the end of the program.
    #[track_caller]
    pub fn wait_for_exit(&self) -> Vec<String> {
        self.wait_until("the program ends", |screen| screen.iter().any(|row| row.starts_with("EXIT ")))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let socket = self.folder.path().join("socket");
        let _ = Command::new("tmux").arg("-S").arg(socket).arg("kill-server").output();
    }
}

/// The rows below the last one that begins with `text`, as far as something stands on them.
#[track_caller]
pub fn rows_below<'a>(screen: &'a [String], text: &str) -> Vec<&'a str> {
    let above = screen.iter().rposition(|row| row.starts_with(text));
    let above = above.unwrap_or_else(|| panic!("no row begins with {text:?}:\n{}", screen.join("\n")));
    screen[above + 1..].iter().map(String::as_str).filter(|row| !row.is_empty()).collect()
}

/// The second that a live line shows: the number before `/600s`.
pub fn position(screen: &[String]) -> Option<u64> {
    let row = screen.iter().rev().find(|row| row.contains("/600s"))?;
    row.split("/600s").next()?.rsplit([' ', ']']).next()?.parse().ok()
}

/// The last row before `EXIT`, and the code after it.
#[track_caller]
pub fn last_words(screen: &[String]) -> (&str, &str) {
    let at = screen.iter().position(|row| row.starts_with("EXIT ")).expect("the program has ended");
    (&screen[at - 1], &screen[at]["EXIT ".len()..])
}
