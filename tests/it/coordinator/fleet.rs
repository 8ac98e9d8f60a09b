//! VMs on the loopback addresses of one sshd, and a coordinator that runs a test on them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::harness::processes::naming;
use crate::harness::sshd::TestSshd;
use crate::harness::{
    PASSWORD, Program, Ran, SMALL, Started, TestServer, coordinator, entries, public_folder, small_binary, wait_until,
    wait_until_gone,
};

/// One sshd that answers on every 127.x.y.z, and a database on TCP with a password.
pub struct TestFleet {
    pub sshd: TestSshd,
    pub server: TestServer,
    /// The coordinator's own temporary folder, so that a test sees what it leaves there.
    pub tmp: tempfile::TempDir,
    /// Whether the server's statistics are asked for, for which the end of a run waits longer than a second.
    pub is_watched: bool,
}

impl TestFleet {
    /// The program is on the VMs already, where the coordinator would send it.
    pub fn start() -> Self {
        let fleet = Self::start_empty();
        put_program(&fleet.sshd);
        fleet
    }

    /// The program has yet to be sent.
    pub fn start_empty() -> Self {
        Self::start_with("")
    }

    /// The same with further lines of `sshd_config`.
    pub fn start_with(extra: &str) -> Self {
        Self::of(TestSshd::start_with(extra), TestServer::setup().tables().tcp(PASSWORD).start())
    }

    /// With this server.
    pub fn of(sshd: TestSshd, server: TestServer) -> Self {
        Self { sshd, server, tmp: public_folder(), is_watched: false }
    }

    /// The coordinator with this fleet's SSH configuration, and the connection string in its environment.
    pub fn command(&self, vms: &str, arguments: &[&str]) -> Program {
        let mut program = coordinator(&["--vms", vms, "--ssh-config"]);
        program.env("POSTGRES_URL", self.server.url()).env("TMPDIR", self.tmp.path());
        program.arg(self.sshd.config()).arg("--agent-binary").arg(small_binary());
        program.args(SMALL).args(["--workers", "2"]);
        if !self.is_watched {
            program.arg("--no-server-stats");
        }
        program.args(arguments);
        program
    }

    /// Runs to the end.
    pub fn run(&self, vms: &str, arguments: &[&str]) -> Ran {
        self.command(vms, arguments).run()
    }

    /// Runs in the background.
    pub fn start_run(&self, vms: &str, arguments: &[&str]) -> Started {
        self.command(vms, arguments).start()
    }

    pub fn rows(&self, table: &str) -> u64 {
        self.server.rows(table)
    }

    pub fn sql(&self, sql: &str) -> String {
        self.server.sql(sql)
    }

    /// Connections of agents that the server still has.
    pub fn connections(&self) -> u64 {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'postgres_load_test'";
        self.server.sql(sql).parse().unwrap()
    }

    /// Waits until load has begun.
    pub fn wait_for_rows(&self) {
        self.server.wait_for_rows();
    }

    /// Processes of agents: those whose program is the one that was sent to this fleet's home.
    pub fn agents(&self) -> Vec<u32> {
        processes_naming(self.sshd.home().to_str().unwrap())
    }

    /// The next run removes the folder of the control sockets that a killed one has left. Nothing listens on its port.
    pub fn sweep(&self) {
        self.run("127.0.0.1:1", &["--rps", "1", "--duration", "1"]).expect(3);
    }

    /// No process of ours, no connection, no temporary file, on either side; waits a little for the last to go.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let tmp = self.tmp.path().to_str().unwrap();
        wait_until_gone("agents are", || processes_of(self.sshd.home().to_str().unwrap()));
        wait_until_gone("processes of the coordinator are", || processes_of(tmp));
        wait_until("no connection is left", || self.connections() == 0);
        wait_until_gone("temporary files of the coordinator are", || entries(self.tmp.path()));
        let mut left = walk(&self.sshd.home());
        left.retain(|path| !path.file_name().unwrap().to_string_lossy().starts_with("load_test"));
        assert!(left.is_empty(), "left on the VMs: {left:?}");
    }
}

/// Puts the program into a VM's home, where the coordinator looks for it.
pub fn put_program(sshd: &TestSshd) {
    static NAME: OnceLock<String> = OnceLock::new();
    let name = NAME.get_or_init(|| {
        let sum = Program::new("sha256sum").arg(small_binary()).run().expect(0).stdout;
        format!("load_test-{}", &sum[..16])
    });
    let folder = sshd.home().join("postgres_load_test");
    fs::create_dir(&folder).unwrap();
    fs::copy(small_binary(), folder.join(name)).unwrap();
}

/// Processes whose command line names a path, apart from sshd, whose configuration is in the same folder.
pub fn processes_naming(path: &str) -> Vec<u32> {
    processes_of(path).into_iter().map(|(pid, _)| pid).collect()
}

/// The same with their command lines.
fn processes_of(path: &str) -> Vec<(u32, String)> {
    naming(path).into_iter().filter(|(_, line)| !line.contains("sshd_config")).collect()
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let paths = entries(folder).into_iter().map(|name| folder.join(name));
    let (folders, mut files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| walk(folder)));
    files
}
