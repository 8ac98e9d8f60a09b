//! What a person sees on a terminal.

use super::fleet::TestFleet;
use crate::harness::terminal::{Terminal, last_words, position, rows_below};

const VMS: &str = "127.0.1.[1-3]";
const ABOVE: &str = "Starting 3 VMs";

/// Every VM has its row before the test and its line during it, whatever the width, and after every change of it.
#[test]
fn tables_and_live_lines_fit_terminals_of_any_size_and_survive_resizes() {
    let fleet = TestFleet { is_watched: true, ..TestFleet::start() };
    let load = fleet.command(VMS, &["--rps", "10", "--duration", "600"]);
    for (first, more) in [
        ((80, 24), &[(80, 24), (40, 24), (200, 24), (60, 24), (80, 8), (80, 24)][..]),
        ((40, 24), &[(40, 24), (80, 24)]),
    ] {
        let terminal = Terminal::run(first, &load);
        let begun = |screen: &[String]| screen.iter().any(|row| row.starts_with(ABOVE));
        terminal.wait_until("the load begins", begun);
        let history = terminal.history();
        let table: Vec<&str> = history.lines().skip_while(|row| !row.starts_with("  VM ")).take(4).collect();
        assert!(table[1..].iter().all(|row| row.starts_with("  127.0.1.")), "a row is broken in two:\n{history}");
        assert!(table[0].contains(" SSH ") && table[0].contains("DB ms"), "{history}");
        assert_eq!(table[0].contains("max_connections"), first.0 >= 80, "{history}");
        let mut seen = 0;
        for size in more {
            terminal.resize(*size);
            let screen = terminal.wait_until("two seconds more are shown", |screen| position(screen) > Some(seen + 1));
            seen = position(&screen).unwrap();
            let rows = rows_below(&screen, ABOVE);
            // What the server's sessions wait for comes last, where there is room and something to say.
            let is_whole =
                |row: &&str| row.contains(" RPS") && ["errors", "late", "%"].iter().any(|end| row.ends_with(end));
            assert!(rows.len() == 4 && rows.iter().all(is_whole), "{size:?}: {screen:#?}");
            assert!(rows[..3].iter().all(|row| row.starts_with("  127.0.1.")), "{size:?}: {screen:#?}");
            assert_eq!(rows[3].contains("p99 "), size.0 > 40, "{size:?}: {screen:#?}");
        }
        // Fewer rows than VMs.
        terminal.resize((60, 5));
        let fits =
            |screen: &[String]| position(screen) > Some(seen + 1) && screen.join("\n").contains("... and 1 more");
        terminal.wait_until("there is room for two VMs only", fits);
        terminal.resize((80, 24));
        terminal.press("C-c");
        let screen = terminal.wait_for_exit();
        let (headline, code) = last_words(&screen);
        assert!(code == "130" && headline.contains(" RPS ") && headline.contains(", p99 "), "{screen:#?}");
        assert!(terminal.history().contains("\nVMS:\n"));
    }
    fleet.assert_nothing_left();
}

#[test]
fn a_dumb_terminal_gets_plain_lines() {
    let fleet = TestFleet::start();
    let mut load = fleet.command("127.0.1.[1-2]", &["--rps", "10", "--duration", "6"]);
    load.env("TERM", "dumb");
    let terminal = Terminal::run((80, 24), &load);
    terminal.wait_for_exit();
    let history = terminal.history();
    assert!(history.contains("\n  Progress: 5s elapsed, ") && !history.contains("/6s"), "{history}");
}
