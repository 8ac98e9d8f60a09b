//! Which `load_test` fits a VM: compares the ELF file's header with what the VM reports. Owns that
//! comparison and its words; knows no SSH. glibc versions are (major, minor).

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, FileKind};
use sha2::{Digest, Sha256};

/// What a VM reports. Texts are as they came, but short, and fit for a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// `uname -s`.
    pub system: String,
    /// `uname -m`.
    pub machine: String,
    /// `glibc 2.36`, `musl` or `unknown`.
    pub libc: String,
    /// The absolute path of the binary there.
    pub path: String,
    /// The same text for every name of one VM, and of another VM another; empty where it does not tell.
    pub identity: String,
    /// SHA-256 of what was there before; `None` where there was nothing, or nothing to compute it with.
    pub sha256: Option<String>,
}

impl Probe {
    /// For a sentence: system, processor, C library.
    pub fn platform(&self) -> String {
        let libc = if self.libc == "unknown" { "an unknown C library" } else { &self.libc };
        format!("{} on {}, {libc}", self.system, self.machine)
    }
}

/// A `load_test` that can be brought to VMs. A clone shares the bytes.
#[derive(Debug, Clone)]
pub struct AgentBinary {
    pub path: PathBuf,
    /// SHA-256 of the bytes, in small hexadecimal digits.
    pub sha256: String,
    pub bytes: Arc<[u8]>,
    /// What `uname -m` says where it runs, such as `x86_64` or `aarch64`.
    pub machine: String,
    pub libc: Libc,
}

/// The C library that a binary needs where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Libc {
    /// glibc, no older than the floor where there is one.
    Glibc {
        /// The newest version that one of its symbols needs.
        floor: Option<(u32, u32)>,
    },
    Musl,
    /// None: it brings its own.
    Static,
}

#[derive(Debug, thiserror::Error)]
pub enum BinaryError {
    #[error("--agent-binary: {path} cannot be read ({source}): give the file of a load_test built for the VMs")]
    Unreadable { path: String, source: std::io::Error },
    #[error("--agent-binary: {path} is no Linux program ({what}): give the file of a load_test built for the VMs")]
    NotElf { path: String, what: String },
}

impl AgentBinary {
    /// Reads a file and what it is for.
    ///
    /// # Errors
    /// When it cannot be read or is not a program in ELF.
    pub fn read(path: &Path) -> Result<Self, BinaryError> {
        let shown = path.display().to_string();
        let unreadable = |source| BinaryError::Unreadable { path: shown.clone(), source };
        // A pipe would be waited for without end.
        if !fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(BinaryError::NotElf { path: shown, what: "not a regular file".into() });
        }
        let bytes: Arc<[u8]> = fs::read(path).map_err(unreadable)?.into();
        let (machine, libc) = match FileKind::parse(&*bytes) {
            Ok(FileKind::Elf64) => examine::<elf::FileHeader64<Endianness>>(&bytes),
            Ok(FileKind::Elf32) => examine::<elf::FileHeader32<Endianness>>(&bytes),
            Ok(_) => Err("a program of another system".to_owned()),
            Err(_) => Err("not in ELF format".to_owned()),
        }
        .map_err(|what| BinaryError::NotElf { path: shown, what })?;
        let sha256 = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { path: path.to_owned(), sha256, bytes, machine, libc })
    }

    /// Whether it can run on the VM, as far as both tell.
    ///
    /// # Errors
    /// What does not fit.
    pub fn fits(&self, probe: &Probe) -> Result<(), Mismatch> {
        let mismatch = |kind| {
            let (host, binary) = (probe.platform(), self.to_string());
            Err(Mismatch { kind, host, binary, remedy: remedy(kind, probe) })
        };
        if probe.system.is_empty() {
            return mismatch(MismatchKind::Unknown);
        }
        if probe.system != "Linux" {
            return mismatch(MismatchKind::System);
        }
        if canonical(&probe.machine) != self.machine {
            return mismatch(MismatchKind::Machine);
        }
        // What the host does not tell is left to the trial there.
        match (self.libc, probe.libc.as_str()) {
            (Libc::Glibc { .. }, "musl") => mismatch(MismatchKind::Libc),
            (Libc::Musl, theirs) if theirs.starts_with("glibc") => mismatch(MismatchKind::Libc),
            (Libc::Glibc { floor: Some(floor) }, theirs) if glibc(theirs).is_some_and(|version| version < floor) => {
                mismatch(MismatchKind::GlibcTooOld)
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for AgentBinary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.libc {
            Libc::Glibc { floor: Some((major, minor)) } => {
                write!(formatter, "{path} is for {} with glibc {major}.{minor} or later", self.machine)
            }
            Libc::Glibc { floor: None } => write!(formatter, "{path} is for {} with glibc", self.machine),
            Libc::Musl => write!(formatter, "{path} is for {} with musl", self.machine),
            Libc::Static => write!(formatter, "{path} is for {} with any C library", self.machine),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MismatchKind {
    /// The VM does not say what it is.
    Unknown,
    System,
    Machine,
    Libc,
    GlibcTooOld,
}

/// A binary and a VM on which it does not run. `Display` is a clause with what both are and the remedy.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the host is {host}, but {binary}: {remedy}")]
pub struct Mismatch {
    kind: MismatchKind,
    host: String,
    binary: String,
    remedy: String,
}

impl Mismatch {
    pub fn kind(&self) -> MismatchKind {
        self.kind
    }

    /// Where none of several binaries fits a VM: what each is, and the first's remedy.
    pub(super) fn of_all(mismatches: Vec<Self>) -> Option<Self> {
        let binaries: Vec<String> = mismatches.iter().map(|mismatch| mismatch.binary.clone()).collect();
        let first = mismatches.into_iter().next()?;
        Some(Self { binary: binaries.join(", "), ..first })
    }
}

fn remedy(kind: MismatchKind, probe: &Probe) -> String {
    if kind == MismatchKind::Unknown {
        return "its shell finds no uname; correct PATH in what the login shell reads there, or in its sshd_config (SetEnv)"
            .to_owned();
    }
    if kind == MismatchKind::System {
        return "load_test runs on Linux; leave the host out of --vms".to_owned();
    }
    let machine = canonical(&probe.machine);
    // It is to be put into a shell, and the VM may call itself anything.
    let tame = machine.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let machine = if tame { machine } else { "ARCHITECTURE" };
    let target = match probe.libc.as_str() {
        "musl" => format!("{machine}-unknown-linux-musl"),
        _ => format!("{machine}-unknown-linux-gnu.2.17"),
    };
    format!(
        "build one for it with cargo zigbuild --release --target {target} (see \"Building for other systems\" in docs/distributed.md) \
         and give it with --agent-binary FILE"
    )
}

/// One name for each kind of machine: systems and distributions differ.
fn canonical(machine: &str) -> &str {
    match machine {
        "amd64" | "x64" => "x86_64",
        "arm64" => "aarch64",
        "i386" | "i486" | "i586" | "i686" => "i686",
        other if other.starts_with("armv") => "arm",
        other => other,
    }
}

/// From `getconf GNU_LIBC_VERSION`, such as "glibc 2.36".
fn glibc(libc: &str) -> Option<(u32, u32)> {
    version(libc.strip_prefix("glibc ")?)
}

/// The first two numbers of "2.36" or "2.2.5".
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn examine<Header: FileHeader<Endian = Endianness>>(data: &[u8]) -> Result<(String, Libc), String> {
    let damaged = |error: object::Error| format!("its ELF structure is damaged: {error}");
    let header = Header::parse(data).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let machine = match header.e_machine(endian) {
        elf::EM_X86_64 => "x86_64".to_owned(),
        elf::EM_AARCH64 => "aarch64".to_owned(),
        elf::EM_386 => "i686".to_owned(),
        elf::EM_ARM => "arm".to_owned(),
        elf::EM_RISCV => "riscv64".to_owned(),
        elf::EM_S390 => "s390x".to_owned(),
        elf::EM_PPC64 if header.is_little_endian() => "ppc64le".to_owned(),
        elf::EM_PPC64 => "ppc64".to_owned(),
        other => format!("ELF machine {}", other.0),
    };
    let mut interpreter = None;
    for segment in header.program_headers(endian, data).map_err(damaged)? {
        interpreter = interpreter.or(segment.interpreter(endian, data).map_err(damaged)?);
    }
    let libc = match interpreter.map(String::from_utf8_lossy) {
        None => Libc::Static,
        Some(path) if path.contains("ld-musl") => Libc::Musl,
        Some(_) => Libc::Glibc { floor: glibc_floor::<Header>(header, endian, data).map_err(damaged)? },
    };
    Ok((machine, libc))
}

/// The newest version among the symbols that the program takes from shared libraries.
fn glibc_floor<Header: FileHeader<Endian = Endianness>>(
    header: &Header,
    endian: Endianness,
    data: &[u8],
) -> object::Result<Option<(u32, u32)>> {
    let sections = header.sections(endian, data)?;
    let Some((mut libraries, names)) = sections.gnu_verneed(endian, data)? else { return Ok(None) };
    let names = sections.strings(endian, data, names)?;
    let mut floor = None;
    while let Some((_, mut versions)) = libraries.next()? {
        while let Some(needed) = versions.next()? {
            let name = String::from_utf8_lossy(needed.name(endian, names)?);
            floor = floor.max(name.strip_prefix("GLIBC_").and_then(version));
        }
    }
    Ok(floor)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(system: &str, machine: &str, libc: &str) -> Probe {
        Probe {
            system: system.into(),
            machine: machine.into(),
            libc: libc.into(),
            path: "/load_test".into(),
            identity: String::new(),
            sha256: None,
        }
    }

    fn binary(machine: &str, libc: Libc) -> AgentBinary {
        let bytes = Arc::from(Vec::new());
        AgentBinary { path: "b".into(), sha256: String::new(), bytes, machine: machine.into(), libc }
    }

    #[test]
    fn a_remedy_holds_nothing_that_a_vm_calls_itself_to_be_run() {
        let text = remedy(MismatchKind::Machine, &probe("Linux", "x; reboot #", "musl"));
        assert!(text.contains("--target ARCHITECTURE-unknown-linux-musl (") && !text.contains("reboot"), "{text}");
    }

    #[test]
    fn what_fits_where() {
        use MismatchKind::{GlibcTooOld, Machine, System};
        let glibc = Libc::Glibc { floor: Some((2, 34)) };
        for (machine, libc, host, expected) in [
            ("x86_64", glibc, probe("Linux", "x86_64", "glibc 2.36"), None),
            ("x86_64", glibc, probe("Linux", "amd64", "glibc 2.34"), None),
            ("x86_64", glibc, probe("Linux", "x86_64", "glibc 2.31"), Some(GlibcTooOld)),
            ("x86_64", glibc, probe("Linux", "x86_64", "glibc 2.4"), Some(GlibcTooOld)),
            ("x86_64", glibc, probe("Linux", "x86_64", "glibc 3.0"), None),
            ("x86_64", glibc, probe("Linux", "x86_64", "musl"), Some(MismatchKind::Libc)),
            ("x86_64", glibc, probe("Linux", "x86_64", "unknown"), None),
            ("x86_64", Libc::Musl, probe("Linux", "x86_64", "musl"), None),
            ("x86_64", Libc::Musl, probe("Linux", "x86_64", "unknown"), None),
            ("x86_64", Libc::Musl, probe("Linux", "x86_64", "glibc 2.36"), Some(MismatchKind::Libc)),
            ("x86_64", Libc::Static, probe("Linux", "x86_64", "musl"), None),
            ("x86_64", Libc::Static, probe("Linux", "x86_64", "glibc 2.4"), None),
            ("x86_64", Libc::Static, probe("Linux", "aarch64", "musl"), Some(Machine)),
            ("aarch64", glibc, probe("Linux", "arm64", "glibc 2.36"), None),
            ("aarch64", glibc, probe("Darwin", "arm64", "unknown"), Some(System)),
            ("aarch64", glibc, probe("", "", "unknown"), Some(MismatchKind::Unknown)),
        ] {
            let found = binary(machine, libc).fits(&host).err().map(|mismatch| mismatch.kind());
            assert_eq!(found, expected, "{machine} {libc:?} {host:?}");
        }
    }

    #[test]
    fn a_mismatch_says_what_both_are_and_what_to_build() {
        let glibc = Libc::Glibc { floor: Some((2, 34)) };
        let text = binary("x86_64", glibc).fits(&probe("Linux", "arm64", "glibc 2.31")).unwrap_err().to_string();
        for part in ["Linux on arm64, glibc 2.31", "x86_64 with glibc 2.34", "--target aarch64-unknown-linux-gnu.2.17"]
        {
            assert!(text.contains(part), "{text}");
        }
        let text = binary("x86_64", glibc).fits(&probe("Linux", "x86_64", "musl")).unwrap_err().to_string();
        assert!(text.contains("--target x86_64-unknown-linux-musl"), "{text}");
    }

    #[test]
    fn this_very_program_is_read() {
        let program = std::env::current_exe().unwrap();
        let binary = AgentBinary::read(&program).unwrap();
        assert_eq!(binary.sha256.len(), 64);
        assert_eq!(binary.machine, std::env::consts::ARCH);
        if cfg!(target_env = "gnu") {
            assert!(matches!(binary.libc, Libc::Glibc { floor: Some(floor) } if floor >= (2, 2)), "{:?}", binary.libc);
        }
    }

    #[test]
    fn what_is_no_program_is_refused_with_the_flag() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("script");
        fs::write(&script, "#!/bin/sh\n").unwrap();
        let cut = folder.path().join("cut");
        fs::write(&cut, &fs::read(std::env::current_exe().unwrap()).unwrap()[..80]).unwrap();
        for path in [&script, &cut, folder.path(), &folder.path().join("missing")] {
            let text = AgentBinary::read(path).unwrap_err().to_string();
            assert!(text.starts_with("--agent-binary: "), "{text}");
        }
    }
}
