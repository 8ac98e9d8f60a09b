//! Reading result documents from files and standard input.
//!
//! A file holds one document or several, one after another, plain or compressed with gzip. Before the first one there may
//! be other text, such as the greeting of a login shell; behind it there may not.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use rustix::fs::{FileType, Stat, fstat, stat};

use super::Part;
use crate::result::{FORMAT, RunResult};

/// The longest document that is read, bytes. A single VM's has some 64 KB.
pub const MAX_DOCUMENT_BYTES: usize = 16 * 1024 * 1024;
/// The most that is read of a file, and of standard input, bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;
/// The most other text that is passed over before the first document, bytes.
const MAX_NOISE_BYTES: usize = 64 * 1024;

/// Why documents cannot be read. Each message is a sentence with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("there is nothing to merge; name the files that load_test --json-output wrote, or - for standard input")]
    NothingNamed,
    #[error("{file} cannot be read: {source}; give a file that load_test --json-output wrote")]
    Unreadable { file: String, source: io::Error },
    /// What is written would destroy what is read.
    #[error("{file} is also where the result would be written ({written}); give another file for the result")]
    Overwritten { file: String, written: &'static str },
    #[error("{file} is a folder; name the files in it, for example {file}/*.json")]
    Folder { file: String },
    #[error("{file} is empty, so that VM's load_test wrote no result; see what it said on stderr")]
    Empty { file: String },
    #[error("{file} is {form}; {remedy} it first: this program reads JSON in UTF-8, plain or compressed with gzip")]
    Encoded { file: String, form: &'static str, remedy: &'static str },
    #[error("{file} holds {what} and not a result as JSON; was it written with --json-output?")]
    NotJson { file: String, what: &'static str },
    #[error(
        "{file} breaks off within its {}; it was not written or copied to the end, so take it anew",
        ordinal(*number)
    )]
    Truncated { file: String, number: usize },
    #[error("{file}: its {} is not a result of load_test ({problem}); was it written with --json-output?", ordinal(*number))]
    NotAResult { file: String, number: usize, problem: String },
    #[error(
        "{file}: its {} is longer than {} MB, and a VM's own result has some 64 KB; a merged result cannot be merged \
         again",
        ordinal(*number),
        MAX_DOCUMENT_BYTES >> 20
    )]
    TooLong { file: String, number: usize },
}

fn ordinal(number: usize) -> String {
    if number == 1 { "first document".to_owned() } else { format!("document number {number}") }
}

/// Reads every document of the files; `-` is `stdin`, which is read once however often it is named.
///
/// # Errors
/// The first file that cannot be read, or holds something else.
pub fn read(paths: &[PathBuf], stdin: &mut dyn Read) -> Result<Vec<Part>, ReadError> {
    if paths.is_empty() {
        return Err(ReadError::NothingNamed);
    }
    let (mut results, mut stdin) = (Vec::new(), Some(stdin));
    for path in paths {
        let file = shown(path);
        let content = if path == Path::new("-") {
            let Some(stdin) = stdin.take() else { continue };
            content(&file, stdin)?
        } else {
            if path.is_dir() {
                return Err(ReadError::Folder { file });
            }
            let mut opened = File::open(path).map_err(|source| ReadError::Unreadable { file: file.clone(), source })?;
            content(&file, &mut opened)?
        };
        documents(&file, &plain(&file, content)?, &mut results)?;
    }
    Ok(named(results))
}

/// Refuses files that the result would overwrite: those of the options in `outputs`, and the one that standard output was sent to,
/// which the shell may have emptied already. Files are the same where device and inode are.
pub fn check_output(paths: &[PathBuf], outputs: &[(&'static str, Option<&Path>)]) -> Result<(), ReadError> {
    let regular = |stat: rustix::io::Result<Stat>| {
        stat.ok().filter(|stat| FileType::from_raw_mode(stat.st_mode).is_file()).map(|stat| (stat.st_dev, stat.st_ino))
    };
    let is_stream = |path: &Path| path == Path::new("-");
    let stdout = regular(fstat(io::stdout()));
    let of = |path: &Path| if is_stream(path) { stdout } else { regular(stat(path)) };
    let mut written: Vec<_> = outputs.iter().map(|(flag, path)| (*flag, path.and_then(of))).collect();
    written.push(("standard output", stdout));
    for path in paths {
        let input = if is_stream(path) { regular(fstat(io::stdin())) } else { regular(stat(path)) };
        let same = written.iter().find(|(_, output)| input.is_some() && *output == input);
        if let Some(&(written, _)) = same {
            return Err(ReadError::Overwritten { file: shown(path), written });
        }
    }
    Ok(())
}

/// What a file is called in messages.
fn shown(path: &Path) -> String {
    let path = path.display().to_string();
    match path.as_str() {
        "-" => "standard input".to_owned(),
        // Somebody may have put a connection string here, with its password.
        path if path.contains("://") || path.contains("password=") => "what was given as a file".to_owned(),
        _ => path,
    }
}

/// The content itself, where it is compressed with gzip.
fn plain(file: &str, content: Vec<u8>) -> Result<Vec<u8>, ReadError> {
    const FORMS: [(&[u8], &str, &str); 6] = [
        (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress"),
        (b"\xfd7zXZ\0", "compressed with xz", "decompress"),
        (b"BZh", "compressed with bzip2", "decompress"),
        (b"PK\x03\x04", "a zip archive", "unpack"),
        (b"\xff\xfe", "text in UTF-16", "convert"),
        (b"\xfe\xff", "text in UTF-16", "convert"),
    ];
    if content.starts_with(b"\x1f\x8b") {
        return self::content(&format!("{file} (gzip)"), &mut MultiGzDecoder::new(&content[..]));
    }
    match FORMS.into_iter().find(|(mark, ..)| content.starts_with(mark)) {
        Some((_, form, remedy)) => Err(ReadError::Encoded { file: file.to_owned(), form, remedy }),
        None => Ok(content),
    }
}

fn content(file: &str, from: &mut dyn Read) -> Result<Vec<u8>, ReadError> {
    let mut content = Vec::new();
    let unreadable = |source| ReadError::Unreadable { file: file.to_owned(), source };
    from.take(MAX_FILE_BYTES + 1).read_to_end(&mut content).map_err(unreadable)?;
    if content.len() as u64 > MAX_FILE_BYTES {
        return Err(unreadable(io::Error::other("it is longer than 1 GB")));
    }
    Ok(content)
}

/// All documents of one file.
fn documents(file: &str, content: &[u8], results: &mut Vec<(String, RunResult)>) -> Result<(), ReadError> {
    let mut rest = after_noise(file, content)?;
    for number in 1.. {
        rest = after_statuses(rest);
        if rest.is_empty() {
            break;
        }
        // So that a document beyond all measure is not parsed to its end first.
        let within = &rest[..rest.len().min(MAX_DOCUMENT_BYTES + 1)];
        let mut documents = serde_json::Deserializer::from_slice(within).into_iter::<RunResult>();
        let parsed = documents.next();
        let end = documents.byte_offset();
        match parsed {
            Some(Ok(result)) if end <= MAX_DOCUMENT_BYTES => {
                let file = if number == 1 { file.to_owned() } else { format!("{file}, {}", ordinal(number)) };
                results.push((file, result));
            }
            Some(Err(error)) if error.is_eof() && within.len() == rest.len() => {
                return Err(ReadError::Truncated { file: file.to_owned(), number });
            }
            Some(Err(error)) if !error.is_eof() => {
                let problem = super::short(&error.to_string());
                return Err(ReadError::NotAResult { file: file.to_owned(), number, problem });
            }
            _ => return Err(ReadError::TooLong { file: file.to_owned(), number }),
        }
        rest = &rest[end..];
    }
    Ok(())
}

/// Passes over blanks, and over the line that a run writes to stderr beside its document: container logs may have it in
/// either order.
fn after_statuses(mut rest: &[u8]) -> &[u8] {
    loop {
        rest = rest.trim_ascii_start();
        if !rest.starts_with(b"STATUS: ") {
            return rest;
        }
        let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
        rest = &rest[end..];
    }
}

/// Where the first document begins: with its first field as this program writes it, or else at the first line that
/// begins like JSON.
fn after_noise<'a>(file: &str, content: &'a [u8]) -> Result<&'a [u8], ReadError> {
    // Some programs put it before a text.
    let content = content.strip_prefix(b"\xef\xbb\xbf").unwrap_or(content);
    if content.trim_ascii().is_empty() {
        return Err(ReadError::Empty { file: file.to_owned() });
    }
    let noise = &content[..content.len().min(MAX_NOISE_BYTES)];
    let braces = || noise.iter().enumerate().filter(|(_, byte)| **byte == b'{').map(|(at, _)| at);
    let inside = |at: usize| content[at + 1..].trim_ascii_start();
    let begins_line = |at: &usize| {
        let before = noise[..*at].iter().rev().find(|byte| !matches!(byte, b' ' | b'\t'));
        matches!(before, None | Some(b'\n'))
    };
    let ours = braces().find(|at| inside(*at).starts_with(b"\"format\""));
    let json = braces().filter(begins_line).find(|at| inside(*at).first() == Some(&b'"'));
    // Fields may have been sorted on the way; such a document must not be passed over for the next one.
    let is_document = |from: usize, to: usize| content[from..to].windows(FORMAT.len()).any(|w| w == FORMAT.as_bytes());
    let begins = match (json, ours) {
        (Some(json), Some(ours)) if json < ours && is_document(json, ours) => Some(json),
        (json, ours) => ours.or(json),
    };
    if let Some(at) = begins {
        return Ok(&content[at..]);
    }
    let shown = String::from_utf8_lossy(noise);
    let is_report = shown.contains("LOAD TEST") || shown.contains("STATUS: ");
    let what = if is_report { "a report for people" } else { "other text" };
    Err(ReadError::NotJson { file: file.to_owned(), what })
}

/// Names of VMs; where several have the same, with their shares.
fn named(results: Vec<(String, RunResult)>) -> Vec<Part> {
    let mut times: HashMap<String, usize> = HashMap::new();
    results.iter().for_each(|(_, result)| *times.entry(result.hostname.clone()).or_default() += 1);
    results
        .into_iter()
        .map(|(file, result)| {
            let share = result.run.share;
            let hostname = match times.get(&result.hostname) {
                Some(2..) => format!("{} (share {}/{})", result.hostname, share.index.saturating_add(1), share.of),
                _ => result.hostname.clone(),
            };
            Part { hostname, file: Some(file), result, clock: None, start_skew_ms: None, lost: None }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::tests::sample;
    use crate::schedule::Share;

    fn document(hostname: &str, index: u64) -> String {
        let mut result = sample();
        result.hostname = hostname.to_owned();
        result.run.share = Share { index, of: 3 };
        serde_json::to_string(&result).unwrap()
    }

    fn read_stdin(content: &[u8]) -> Result<Vec<String>, ReadError> {
        let parts = read(&[PathBuf::from("-")], &mut &content[..])?;
        Ok(parts.into_iter().map(|part| part.hostname).collect())
    }

    #[test]
    fn documents_may_stand_one_after_another_and_behind_other_text() {
        let [one, two] = [document("h1", 0), document("h2", 1)];
        let pretty = serde_json::to_string_pretty(&serde_json::from_str::<RunResult>(&one).unwrap()).unwrap();
        let sorted = serde_json::to_string(&serde_json::from_str::<serde_json::Value>(&one).unwrap()).unwrap();
        for content in [
            format!("{one}\n{two}\n"),
            format!("{one}{two}"),
            format!("\n\n  {pretty}\r\n\r\n{two}  \n"),
            format!("\u{feff}{one}{two}"),
            format!("Welcome {{ to }} h1\n{{\"a\": \"greeting\"}}\n{one}\n{two}"),
            format!("h1$ {one}{two}"),
            format!("STATUS: FAILED - {{\"a\" missing}}\n{one}\nSTATUS: DEGRADED - why\n{two}\nSTATUS: FAILED"),
            format!("Last login: today\n  {sorted}\n{two}"),
        ] {
            assert_eq!(read_stdin(content.as_bytes()).unwrap(), ["h1", "h2"], "{content}");
        }
    }

    #[test]
    fn vms_of_one_name_are_told_apart_by_their_shares() {
        let content = [document("h", 0), document("other", 1), document("h", 2)].concat();
        assert_eq!(read_stdin(content.as_bytes()).unwrap(), ["h (share 1/3)", "other", "h (share 3/3)"]);
    }

    #[test]
    fn what_is_no_result_is_refused_with_its_name() {
        let one = document("h1", 0);
        let too_long = format!("{{\"format\": \"{}\"}}", "x".repeat(MAX_DOCUMENT_BYTES));
        let mut report = Vec::new();
        crate::report::text::report(&mut report, &sample()).unwrap();
        let cases: [(Vec<u8>, &[&str]); 12] = [
            (Vec::new(), &["is empty"]),
            (b" \n ".to_vec(), &["is empty"]),
            (report, &["a report for people", "--json-output"]),
            (b"ssh: Could not resolve hostname".to_vec(), &["other text", "--json-output"]),
            (vec![0xff; 5_000], &["other text"]),
            (b"{\"a\": 1}".to_vec(), &["first document", "missing field"]),
            (one[..one.len() / 2].into(), &["breaks off within its first document"]),
            (format!("{one}{}", &one[..40]).into(), &["breaks off within its document number 2"]),
            (format!("{one}\nConnection closed").into(), &["document number 2 is not a result"]),
            (one.replace("\"scheduled\":6000", "\"scheduled\":-1").into(), &["first document", "-1"]),
            (too_long.clone().into(), &["longer than 16 MB"]),
            (too_long[..too_long.len() - 2].into(), &["longer than 16 MB"]),
        ];
        for (content, words) in cases {
            let text = read_stdin(&content).expect_err(words[0]).to_string();
            assert!(text.starts_with("standard input") && words.iter().all(|word| text.contains(word)), "{text}");
            assert!(text.len() < 400, "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let content = format!("{{\"format\": {}", "[".repeat(1_000_000));
        assert!(read_stdin(content.as_bytes()).is_err());
        let nested = "{\"per_vm_results\":[{\"result\":".repeat(100_000);
        assert!(read_stdin(nested.as_bytes()).is_err());
    }

    #[test]
    fn paths_that_cannot_be_read_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let nothing = &mut io::empty();
        let error = |path: &Path| read(&[path.to_owned()], &mut io::empty()).unwrap_err().to_string();
        assert!(error(folder.path()).contains("is a folder"));
        assert!(!error(Path::new("postgres://u:hunter2@h/db")).contains("hunter2"));
        let absent = error(&folder.path().join("r1.json"));
        assert!(absent.contains("r1.json") && absent.contains("No such file"), "{absent}");
        assert!(matches!(read(&[], nothing), Err(ReadError::NothingNamed)));
        let file = folder.path().join("r.json");
        std::fs::write(&file, document("h1", 0)).unwrap();
        let paths = [PathBuf::from("-"), file, PathBuf::from("-")];
        let parts = read(&paths, &mut document("h2", 1).as_bytes()).unwrap();
        assert_eq!(parts.iter().map(|part| part.hostname.as_str()).collect::<Vec<_>>(), ["h2", "h1"]);
    }
}
