//! VMs on the loopback addresses of one sshd, and a coordinator that runs a test on them.

use std::path::{Path, PathBuf};

use crate::harness::processes::naming;
use crate::harness::sshd::TestSshd;
use crate::harness::{
    PASSWORD, Program, Ran, SMALL, Started, TestServer, coordinator, entries, public_folder, small_binary, wait_until,
};

/// One sshd that answers on every 127.x.y.z, and a database on TCP with a password.
pub struct TestFleet {
    pub sshd: TestSshd,
    pub server: TestServer,
    /// The coordinator's own temporary folder, so that a test sees what it leaves there.
    pub tmp: tempfile::TempDir,
}

impl TestFleet {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With further lines of `sshd_config`.
    pub fn start_with(extra: &str) -> Self {
        Self::of(TestSshd::start_with(extra), TestServer::setup().tables().tcp(PASSWORD).start())
    }

    /// With this server.
    pub fn of(sshd: TestSshd, server: TestServer) -> Self {
        Self { sshd, server, tmp: public_folder() }
    }

    /// The coordinator with this fleet's SSH configuration, and the connection string in its environment.
    pub fn command(&self, vms: &str, arguments: &[&str]) -> Program {
        let mut program = coordinator(&["--vms", vms, "--ssh-config"]);
        program.env("POSTGRES_URL", self.server.url()).env("TMPDIR", self.tmp.path());
        program.arg(self.sshd.config()).arg("--agent-binary").arg(small_binary());
        program.args(SMALL).args(["--workers", "2"]).args(arguments);
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
        wait_until("all processes and connections are gone", || {
            self.agents().is_empty() && processes_naming(tmp).is_empty() && self.connections() == 0
        });
        wait_until("the coordinator's temporary folder is empty", || entries(self.tmp.path()).is_empty());
        let mut left = walk(&self.sshd.home());
        left.retain(|path| !path.file_name().unwrap().to_string_lossy().starts_with("load_test"));
        assert!(left.is_empty(), "left on the VMs: {left:?}");
    }
}

/// Processes whose command line names a path, apart from sshd, whose configuration is in the same folder.
pub fn processes_naming(path: &str) -> Vec<u32> {
    let processes = naming(path).into_iter().filter(|(_, line)| !line.contains("sshd_config"));
    processes.map(|(pid, _)| pid).collect()
}

/// All files below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let paths = entries(folder).into_iter().map(|name| folder.join(name));
    let (folders, mut files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| walk(folder)));
    files
}
