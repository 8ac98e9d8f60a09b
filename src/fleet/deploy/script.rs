//! What is sent to a host's shell. Owns the script and its quoting. It has to mean the same in dash, bash, busybox and
//! zsh's sh, and the command that receives it the same in fish and csh too, as login shells are what users like.

use super::error::Cause;

/// Reads one line and runs it: the only thing that a login shell gets to see.
pub(super) const COMMAND: &str = r#"exec /bin/sh -c 'IFS= read -r s && eval "$s"'"#;

/// What begins our lines, among all that login shells print.
pub(super) const MARK: &[u8] = b"@plt ";

/// Longer than any path.
const LONGEST_PATH_BYTES: usize = 1024;

/// Lines are joined with spaces, and those that begin with # left out. Every answer begins with a line break: what was
/// printed before may not have ended with one. Standard input is the channel: no program may read from it but `head`.
///
/// Facts come first, then "ready"; then orders are read:
/// - `try`: does what is there run? Answer "tried".
/// - `put SIZE SHA256`, `force SIZE SHA256`: answer "kept" where that is there by now (not with `force`), else "send", and
///   after the bytes "stored". A folder gets a file for each build, named by its sum: another coordinator may bring
///   another build at the same time. Those that nobody has used for a day are removed.
/// - `run`: run the agent, and tell on standard error how it ended.
///
/// Failures are answered with "failed STAGE what the system said", and end the script.
const SCRIPT: &str = r#"
export LC_ALL=C PATH="${PATH:+$PATH:}/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";
t=;
clean() { if [ -n "$t" ]; then rm -f -- "$t"; t=; fi; };
trap clean EXIT;
trap 'clean; exit 1' HUP INT TERM PIPE;
say() { printf '\n@plt %s\n' "$1"; };
fail() { clean; say "failed $1 $(printf %s "$2" | tr '\n\r' '  ' | cut -c 1-400)"; exit 1; };

# A tool that is not there prints nothing.
tool=;
for c in sha256sum shasum openssl; do
  if [ -z "$tool" ] && command -v "$c" >/dev/null 2>&1; then tool=$c; fi;
done;
sum() {
  case $tool in
    sha256sum) sha256sum <"$1";;
    shasum) shasum -a 256 <"$1";;
    openssl) openssl dgst -sha256 -r <"$1";;
  esac 2>/dev/null | { read -r x y; printf %s "$x"; };
};

case $p in '~') p=$HOME;; '~/'*) p=$HOME/${p#??};; /*) ;; *) p=$HOME/$p;; esac;
while :; do case $p in ?*/) p=${p%/};; *) break;; esac; done;
h='[0-9a-f][0-9a-f][0-9a-f][0-9a-f]'; h=$h$h$h$h;
named=;
if [ -f "$p" ]; then b=$p; named=1; else b=$p/load_test; fi;
d=${b%/*};
if [ ! -e "$b" ]; then
  e=$(ls -t "$d"/load_test-$h 2>/dev/null </dev/null | head -n 1);
  if [ -f "$e" ]; then b=$e; fi;
fi;
sha=; present=no;
if [ -f "$b" ]; then present=yes; sha=$(sum "$b"); fi;

libc=$(getconf GNU_LIBC_VERSION 2>/dev/null </dev/null);
if [ -z "$libc" ]; then
  libc=unknown;
  for f in /lib/ld-musl-*; do if [ -e "$f" ]; then libc=musl; fi; done;
fi;

try() {
  [ -x "$1" ] || fail execute "it is not executable for this user";
  e=$(${limit:+timeout 30} "$1" --version 2>&1 </dev/null) || fail execute "${e:-it ended without a word, or not within 30 s}";
};

# Without a limit, a network that is cut would leave it waiting for ever.
limit=;
if timeout 5 true >/dev/null 2>&1 </dev/null; then limit='timeout 600'; fi;

put() {
  if [ -z "$named" ]; then b=$d/load_test-$(printf %s "$3" | cut -c 1-16); fi;
  if [ -d "$b" ]; then fail place "$b is a folder"; fi;
  e=$(mkdir -p -- "$d" 2>&1 </dev/null) || fail create "$e";
  if [ "$1" = put ] && [ -f "$b" ] && [ "$(sum "$b")" = "$3" ]; then say kept; return; fi;
  e=$(mktemp "$d/.load_test.XXXXXX" 2>&1 </dev/null) || fail create "$e";
  t=$e;
  say send;
  e=$({ $limit head -c "$2" >"$t"; } 2>&1) || fail write "$e";
  [ "$(($(wc -c <"$t")))" -eq "$2" ] || fail short "$(($(wc -c <"$t"))) of $2 bytes came";
  [ "$(sum "$t")" = "$3" ] || fail checksum "its SHA-256 is $(sum "$t")";
  e=$(chmod 755 "$t" 2>&1 </dev/null) || fail create "$e";
  try "$t";
  e=$(mv -f -- "$t" "$b" 2>&1 </dev/null) || fail place "$e";
  t=;
  if [ -z "$named" ]; then find "$d"/load_test-$h -prune -type f -mtime +0 -exec rm -f {} + 2>/dev/null </dev/null; fi;
  say stored;
};

say "system=$(uname -s)";
say "machine=$(uname -m)";
say "libc=$libc";
say "path=$b";
say "id=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null </dev/null) $(readlink /proc/self/ns/pid) $(readlink /proc/self/ns/net) $(uname -n)";
say "present=$present";
say "tool=$tool";
say "sha=$sha";
say ready;
while IFS= read -r o; do
  set -- $o;
  case $1 in
    try) try "$b"; say tried;;
    put|force) put "$@";;
    run)
      case $b in */load_test-$h) touch -c "$b" 2>/dev/null </dev/null;; esac;
      "$b" --agent;
      c=$?;
      printf '\n@plt ended %s\n' "$c" >&2;
      exit "$c";;
    *) fail order "$1";;
  esac;
done
"#;

/// The one line that is sent first, for a path as the user gave it.
pub(super) fn script(remote_path: &str) -> Result<String, Cause> {
    let wrong = |what: &str| Err(Cause::WrongPath(what.to_owned()));
    if remote_path.is_empty() {
        return wrong("it is empty");
    }
    if remote_path.len() > LONGEST_PATH_BYTES {
        return wrong("it is too long");
    }
    if remote_path.chars().any(char::is_control) {
        return wrong("it holds control characters");
    }
    if remote_path.starts_with('~') && remote_path != "~" && !remote_path.starts_with("~/") {
        return wrong("of home directories only one's own can be given, as ~/…");
    }
    let lines = SCRIPT.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let body = lines.collect::<Vec<_>>().join(" ");
    Ok(format!("p={}; {body}", quoted(remote_path)))
}

/// A word for sh that holds exactly this text.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn it_is_one_line_that_shells_understand() {
        let script = script("~/it's a \"path\" $HOME `x` \\").unwrap();
        assert!(!script.contains('\n') && script.len() < 6000, "{}", script.len());
        for shell in ["sh", "dash", "bash", "busybox"] {
            let mut command = Command::new(shell);
            command.args(if shell == "busybox" { &["sh", "-n", "-c"][..] } else { &["-n", "-c"] });
            match command.arg(&script).output() {
                Ok(output) => assert!(output.status.success() && output.stderr.is_empty(), "{shell}: {output:?}"),
                Err(_) => {
                    // The test harness swallows what goes through `println`.
                    let _ = writeln!(std::io::stderr(), "SKIPPED {shell}: it is not installed");
                }
            }
        }
    }

    #[test]
    fn words_stay_words() {
        for text in ["", "a b", "it's", "''", "$HOME `x` \\ \"", "-n", "*"] {
            let output = Command::new("/bin/sh").args(["-c", &format!("printf %s {}", quoted(text))]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), if text == "-n" { "-n" } else { text });
        }
    }

    #[test]
    fn paths_that_cannot_be_are_refused() {
        for path in ["", "a\nb", "a\0b", "~other/x", &"x".repeat(2000)] {
            assert!(matches!(script(path), Err(Cause::WrongPath(_))), "{path:?}");
        }
    }
}
