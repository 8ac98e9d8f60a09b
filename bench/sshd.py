"""One private sshd on loopback: own keys, own home, gone at the end. Each of 127.0.1.1, 127.0.1.2 … is a host."""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from server import BenchError, end_with_parent


class Sshd:
    """A running sshd with its defaults. `config` is for ssh -F."""

    def __init__(self, folder, addresses):
        self.folder, self.addresses = folder, addresses
        self.config = os.path.join(folder, "ssh_config")
        self.process = None

    def start(self):
        program = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/sbin")
        if program is None:
            raise BenchError("sshd is missing: install openssh-server")
        if os.geteuid() == 0:
            # Where sshd separates privileges; otherwise its service makes it.
            os.makedirs("/run/sshd", exist_ok=True)
        os.mkdir(os.path.join(self.folder, "home"))
        for name in ("host_key", "key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f",
                            os.path.join(self.folder, name)], check=True)
        log = os.path.join(self.folder, "log")
        # Between finding a free port and taking it, somebody else can.
        for _ in range(5):
            with socket.create_server(("", 0)) as free:
                port = free.getsockname()[1]
            self.configure(port)
            with open(log, "wb") as output:
                self.process = subprocess.Popen(
                    [program, "-D", "-e", "-f", os.path.join(self.folder, "sshd_config")], stdin=subprocess.DEVNULL,
                    stdout=output, stderr=output, start_new_session=True, preexec_fn=end_with_parent)
            deadline = time.monotonic() + 10
            while self.process.poll() is None and time.monotonic() < deadline:
                with open(log) as output:
                    if "Server listening" in output.read():
                        return
                time.sleep(0.05)
            self.stop()
        with open(log) as output:
            raise BenchError("sshd did not start:\n" + output.read()[-2000:])

    def configure(self, port):
        folder, user = self.folder, pwd.getpwuid(os.geteuid()).pw_name
        with open(os.path.join(folder, "sshd_config"), "w") as file:
            # It listens on sixteen addresses at most, so on all; and lets nobody in from outside.
            file.write(f"""Port {port}
ListenAddress 0.0.0.0
AllowUsers {user}@127.0.0.0/8
HostKey "{folder}/host_key"
AuthorizedKeysFile "{folder}/key.pub"
PidFile none
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM no
PrintMotd no
SetEnv "HOME={folder}/home"
""")
        with open(self.config, "w") as file:
            file.write(f"""Host *
    Port {port}
    User {user}
    IdentityFile "{folder}/key"
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile "{folder}/known_hosts"
    GlobalKnownHostsFile /dev/null
""")

    def stop(self):
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self.process is None or self.process.poll() is not None:
                return
            self.process.send_signal(sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)


@contextlib.contextmanager
def local_sshd(addresses):
    """Starts an sshd and removes every trace of it afterwards."""
    folder = tempfile.mkdtemp(prefix="sshd-bench-")
    sshd = Sshd(folder, addresses)
    try:
        sshd.start()
        yield sshd
    finally:
        sshd.stop()
        shutil.rmtree(folder, ignore_errors=True)
