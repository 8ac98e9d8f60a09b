//! A Docker engine for a test: the one of this machine, or a private one, with one container in it.
//!
//! Dropping it removes whatever it made, also when the test panics: the container and the image, or the whole private
//! engine with its processes (by id), its mounts and its directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::sleep;

use super::processes::{naming, send};
use super::take_part;

pub struct Engine {
    address: String,
    /// Name of the container and, with `:1`, of the image: nothing that anybody else would use.
    name: String,
    private: Option<Private>,
}

impl Engine {
    /// The machine's own engine if one answers, else a private one; otherwise why there is none.
    pub async fn find_or_start() -> Result<Self, String> {
        take_part();
        let name = format!("load-test-burner-{}", std::process::id());
        let address = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
        if answers(&address) {
            return Ok(Self { address, name, private: None });
        }
        let mut private = Private::start()?;
        let address = format!("unix://{}", private.path("docker.sock").display());
        private.wait_until_ready(&address).await?;
        Ok(Self { address, name, private: Some(private) })
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// Starts a container that keeps one core busy; returns its name.
    pub fn run_cpu_burner(&self) -> String {
        self.import_shell();
        // The first process of a container ignores TERM: stopping it would take ten seconds.
        let image = format!("{}:1", self.name);
        let options = ["run", "--detach", "--name", &self.name, "--stop-signal", "KILL", "--network", "host", &image];
        self.docker(&[options.as_slice(), &["/bin/sh", "-c", "while :; do :; done"]].concat());
        if let Some(private) = &self.private {
            let pid = self.docker(&["inspect", "--format", "{{.State.Pid}}", &self.name]);
            fs::write(private.path("container.pid"), pid).unwrap();
        }
        self.name.clone()
    }

    pub fn stop(&self, name: &str) {
        self.docker(&["stop", "--time", "0", name]);
    }

    fn docker(&self, arguments: &[&str]) -> String {
        run("docker", &[&["--host", &self.address], arguments].concat())
    }

    /// Makes an image of this machine's shell and the libraries it is linked with: no registry is needed.
    fn import_shell(&self) {
        let linked = run("ldd", &["/bin/sh"]);
        let libraries = linked.split_whitespace().filter(|word| word.starts_with('/'));
        let files: Vec<&str> = std::iter::once("/bin/sh").chain(libraries).map(|path| &path[1..]).collect();
        let directory = tempfile::tempdir().unwrap();
        let tar = directory.path().join("image.tar");
        let mut arguments = vec!["-C", "/", "--dereference", "-cf", tar.to_str().unwrap()];
        arguments.extend(files);
        run("tar", &arguments);
        self.docker(&["import", tar.to_str().unwrap(), &format!("{}:1", self.name)]);
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.private.is_some() {
            return;
        }
        for arguments in [["rm", "--force", &self.name], ["rmi", "--force", &format!("{}:1", self.name)]] {
            let _ = Command::new("docker").args(["--host", &self.address]).args(arguments).output();
        }
    }
}

fn answers(address: &str) -> bool {
    let version = Command::new("docker").args(["--host", address, "version"]).output();
    version.is_ok_and(|output| output.status.success())
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A `dockerd` with everything it owns in one temporary directory.
struct Private {
    dockerd: Child,
    directory: TempDir,
}

impl Private {
    fn start() -> Result<Self, String> {
        // Not under $TMPDIR: the path of a socket is limited to some hundred bytes.
        let directory = tempfile::Builder::new().prefix("dockerd-").tempdir_in("/tmp").map_err(|e| e.to_string())?;
        let path = |name: &str| directory.path().join(name);
        let log = fs::File::create(path("log")).map_err(|e| e.to_string())?;
        // setpriv: if this process is killed before it can clean up, the engine goes with it.
        let dockerd = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "dockerd", "--storage-driver", "vfs", "--iptables=false", "--bridge=none"])
            .arg("--data-root")
            .arg(path("data"))
            .arg("--exec-root")
            .arg(path("exec"))
            .arg("--pidfile")
            .arg(path("dockerd.pid"))
            .arg("--host")
            .arg(format!("unix://{}", path("docker.sock").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("setpriv cannot be started: {error}"))?;
        Ok(Self { dockerd, directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn wait_until_ready(&mut self, address: &str) -> Result<(), String> {
        for _ in 0..300 {
            if answers(address) {
                return Ok(());
            }
            if self.dockerd.try_wait().map_err(|error| error.to_string())?.is_some() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        Err(format!("dockerd does not start: {}", log.lines().last().unwrap_or("it says nothing")))
    }

    /// Processes that belong to this engine, found by its private directory on their command lines.
    fn processes(&self) -> Vec<u32> {
        naming(&self.directory.path().display().to_string()).into_iter().map(|(pid, _)| pid).collect()
    }

    fn unmount_all(&self) {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
        let mut mine: Vec<&Path> = points.filter(|point| point.starts_with(self.directory.path())).collect();
        mine.reverse();
        for point in mine {
            let _ = Command::new("umount").arg("-l").arg(point).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // On TERM the engine stops its container and its containerd by itself.
        send(self.dockerd.id(), Signal::TERM);
        for _ in 0..200 {
            if !matches!(self.dockerd.try_wait(), Ok(None)) {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.dockerd.kill();
        let _ = self.dockerd.wait();
        for pid in self.processes() {
            send(pid, Signal::KILL);
        }
        if let Ok(pid) = fs::read_to_string(self.path("container.pid")) {
            let pid = pid.trim().parse().unwrap_or(1);
            // The number may have passed on to another process by now: it must still run what was started here.
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if command.ends_with(b"while :; do :; done\0") {
                send(pid, Signal::KILL);
            }
        }
        self.unmount_all();
    }
}
