//! Gives the program a name for the sources that it was built from, so that the coordinator can tell whether two
//! machines run the same, also where they are of different architecture.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

fn main() {
    let mut files = vec![PathBuf::from("Cargo.toml"), PathBuf::from("Cargo.lock")];
    files.extend(["schema.sql", "schema_unlogged.sql"].map(PathBuf::from));
    collect(Path::new("src"), &mut files);
    files.sort();
    let mut hasher = Sha256::new();
    for file in &files {
        let Ok(contents) = fs::read(file) else { continue };
        hasher.update(file.to_string_lossy().as_bytes());
        hasher.update((contents.len() as u64).to_le_bytes());
        hasher.update(contents);
    }
    let build: String = hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    println!("cargo::rustc-env=POSTGRES_LOAD_TEST_BUILD={build}");
    for watched in ["src", "Cargo.toml", "Cargo.lock", "schema.sql", "schema_unlogged.sql"] {
        println!("cargo::rerun-if-changed={watched}");
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else {
            files.push(path);
        }
    }
}
