//! PgBouncer in front of a server. Ended when dropped.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{TestServer, free_port, public_folder, take_part, wait_until};

pub struct PgBouncer {
    child: Option<Child>,
    port: u16,
    folder: TempDir,
}

impl PgBouncer {
    /// For the user `postgres` with the password `secret`, in a pool mode, with so many connections to the server.
    pub fn before(server: &TestServer, mode: &str, pool: u32) -> Self {
        let databases = format!("* = host=127.0.0.1 port={} password=secret", server.port());
        let settings = format!(
            "auth_type = plain\nadmin_users = postgres\npool_mode = {mode}\ndefault_pool_size = {pool}\n\
             max_client_conn = 100\nserver_login_retry = 1\n"
        );
        Self::configured("\"postgres\" \"secret\"\n", &databases, &settings)
    }

    /// With the text of its file of users, its databases, and further settings.
    pub fn configured(users: &str, databases: &str, settings: &str) -> Self {
        take_part();
        let (folder, port) = (public_folder(), free_port());
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("users"), users).unwrap();
        let config = format!(
            "[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_file = {}\n{settings}",
            path("users").display(),
        );
        std::fs::write(path("bouncer.ini"), config).unwrap();
        let mut bouncer = Self { child: None, port, folder };
        bouncer.start();
        bouncer
    }

    /// Starts it again after [`Self::kill`].
    pub fn start(&mut self) {
        let mut command = Command::new("/usr/sbin/pgbouncer");
        command.arg(self.folder.path().join("bouncer.ini")).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.args(["-u", "postgres"]);
        }
        self.child = Some(command.spawn().expect("pgbouncer is not installed"));
        wait_until("PgBouncer listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok());
    }

    /// Ends it at once, and so all connections.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Has it do something, such as `PAUSE`, and waits until it is done.
    pub fn command(&self, server: &TestServer, text: &str) {
        let console = self.url().replace("/postgres?", "/pgbouncer?");
        server.psql(&console).args(["-c", text]).run().expect(0);
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("postgresql://postgres:secret@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        self.kill();
    }
}
