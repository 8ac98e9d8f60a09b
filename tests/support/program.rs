//! The `load_test` under test, as small as it can be had: tests send it over SSH.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The `load_test` under test, without what debuggers need: that is nine tenths of it.
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
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(unfinished, &path).unwrap();
        path
    })
}
