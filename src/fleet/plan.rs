//! What a test on many VMs is to be, resolved from the command line. All faults are found, and reported at once.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::cli::all_or_faults;
use crate::cli::options::{CoordinatorOptions, DeployMode, FleetOptions, LoadTestOptions, OnHostLoss};
use crate::cli::plan::{self, Plan};
use crate::cli::values::{Fault, RATE_REMEDY, TargetRate};
use crate::postgres::conninfo::{ConnectionSpec, Environment};
use crate::schedule::Share;

use super::hosts::{self, Host};
use super::ssh::SshOptions;

/// Everything that a test on many VMs needs to know. No `Debug`: the options hold the connection string.
#[derive(Clone)]
pub struct FleetPlan {
    /// The VMs; VM i of n runs share i of n.
    pub hosts: Vec<Host>,
    /// What each is told; the rate is that of all together.
    pub options: LoadTestOptions,
    /// The same resolved here, for the whole schedule: what the coordinator itself reads from it is the schedule, the
    /// sizes and the limits.
    pub plan: Plan,
    /// `PGPASSWORD` of our surroundings.
    pub pgpassword: Option<String>,
    /// Where the connection string came from: to be said in the header.
    pub url_from: String,
    /// The rate of one VM where that was given.
    pub rps_per_vm: Option<f64>,
    pub ssh: SshOptions,
    pub remote_path: String,
    pub deploy: DeployMode,
    /// Programs to send; the one beside this program where empty.
    pub agent_binaries: Vec<PathBuf>,
    /// What to do when a VM is lost; absent: stop before the load, continue once it runs.
    pub on_host_loss: Option<OnHostLoss>,
}

impl FleetPlan {
    /// Resolves the options. `read_file` reads `--vms @FILE`.
    ///
    /// # Errors
    /// All faults together.
    pub fn resolve(
        options: &CoordinatorOptions,
        environment: &Environment,
        now_unix_ns: u64,
        read_file: &dyn Fn(&std::path::Path) -> std::io::Result<String>,
    ) -> Result<Self, Vec<Fault>> {
        let fleet = &options.fleet;
        let mut faults = Vec::new();
        let mut add = |flag: &str, problem: String, remedy: &str| faults.push(Fault::new(flag, problem, remedy));
        let hosts = match &fleet.vms {
            None => {
                add("--vms", "no VMs are given".to_owned(), "give for example --vms vm1,vm2 or --vms @hosts.txt");
                Vec::new()
            }
            Some(text) => hosts::parse(text, read_file).unwrap_or_else(|problems| {
                problems.into_iter().for_each(|problem| add("--vms", problem, "see --help for the forms"));
                Vec::new()
            }),
        };
        let mut options_of_one = options.load_test_options();
        let ssh = ssh(fleet);
        for (name, same) in same_vm(&hosts, &ssh) {
            add("--vms", format!("'{name}' and '{same}' are the same user, VM and port"), "leave out one of them");
        }
        let rps_per_vm = total_rate(fleet, &mut options_of_one, hosts.len().max(1) as u64, &mut add);
        let plan = all_or_faults(faults, Plan::resolve(&options_of_one, environment, now_unix_ns, 1))?;
        // The VMs' own variables say nothing of this test. Files that are named are the VMs' own.
        let given = plan::given_target(&options_of_one, environment);
        let url_from = match given.from {
            None => "from --postgres-url".to_owned(),
            Some(from) => match from.strip_prefix("the default") {
                Some(more) => format!("the default, seen from each VM{more}"),
                None => from,
            },
        };
        if let Ok(text) = ConnectionSpec::portable(given.text, environment) {
            options_of_one.target.postgres_url = Some(text.expose().to_owned());
        }
        Ok(Self {
            hosts,
            options: options_of_one,
            plan,
            pgpassword: environment.variable("PGPASSWORD").map(str::to_owned),
            url_from,
            rps_per_vm,
            ssh,
            remote_path: fleet.remote_path.clone(),
            deploy: fleet.deploy,
            agent_binaries: fleet.agent_binary.clone(),
            on_host_loss: fleet.on_host_loss,
        })
    }

    pub fn share(&self, index: usize) -> Share {
        Share { index: index as u64, of: self.hosts.len() as u64 }
    }
}

/// VMs that are the same once the options have filled in what `--vms` leaves out. What an SSH configuration says is
/// not known here.
fn same_vm<'a>(hosts: &'a [Host], ssh: &SshOptions) -> Vec<(&'a str, &'a str)> {
    let mut seen = HashMap::new();
    let mut same = Vec::new();
    for host in hosts {
        let user = host.user.as_ref().or(ssh.user.as_ref());
        let key = (user, host.address.to_ascii_lowercase(), host.port.or(ssh.port).unwrap_or(22));
        if let Some(earlier) = seen.insert(key, host.name.as_str()) {
            same.push((earlier, host.name.as_str()));
        }
    }
    same
}

/// Sets the options' rate to that of all VMs. Returns the rate of one, where that was given.
fn total_rate(
    fleet: &FleetOptions,
    options: &mut LoadTestOptions,
    vms: u64,
    add: &mut impl FnMut(&str, String, &str),
) -> Option<f64> {
    if let Some(total) = fleet.total_rps {
        options.load.rps = TargetRate::PerSecond(total);
        return None;
    }
    let TargetRate::PerSecond(rate) = options.load.rps else { return None };
    match rate.times(vms) {
        Ok(total) => options.load.rps = TargetRate::PerSecond(total),
        Err(problem) => add("--rps", format!("'{rate}' {problem}"), RATE_REMEDY),
    }
    Some(rate.per_second())
}

fn ssh(fleet: &FleetOptions) -> SshOptions {
    SshOptions {
        user: fleet.ssh_user.clone(),
        port: fleet.ssh_port,
        keyfile: fleet.ssh_key.clone(),
        config: fleet.ssh_config.clone(),
        host_keys: fleet.host_keys,
        connect_timeout: fleet.connect_timeout,
        concurrency: fleet.ssh_concurrency,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(arguments: &[&str]) -> Result<FleetPlan, Vec<Fault>> {
        let arguments = std::iter::once(&"coordinator").chain(arguments).map(std::ffi::OsString::from);
        let (mut options, faults) = CoordinatorOptions::parse_from_arguments(arguments).unwrap();
        // The test must not depend on the environment that it runs in.
        options.target.postgres_url = None;
        let no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let environment = Environment::of_user("me");
        all_or_faults(faults, FleetPlan::resolve(&options, &environment, 1_800_000_000_000_000_000, &no_files))
    }

    #[test]
    fn the_rate_is_that_of_all_vms() {
        let rate = |arguments: &[&str]| match resolve(arguments).ok().unwrap().options.load.rps {
            TargetRate::Max => "max".to_owned(),
            TargetRate::PerSecond(rate) => rate.to_string(),
        };
        assert_eq!(rate(&["--vms", "a,b,c", "--rps", "33.333333"]), "99.999999");
        assert_eq!(rate(&["--vms", "a,b,c", "--total-rps", "100"]), "100");
        assert_eq!(rate(&["--vms", "a,b,c", "--rps", "max"]), "max");
        assert_eq!(rate(&["--vms", "a,b,c"]), "300");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let wrong = [
            "--rps=fast",
            "--ssh-port=0",
            "--host-keys=maybe",
            "--ssh-concurrency=0",
            "--connect-timeout=10ms",
            "--deploy=perhaps",
            "--on-host-loss=weep",
            "--ssh-user=-x",
            "--workers=0",
            "--remote-path=a\nb",
        ];
        let faults = resolve(&wrong).err().unwrap();
        let flags: Vec<&str> = faults.iter().map(|fault| fault.flag.as_str()).collect();
        for flag in wrong.iter().map(|wrong| wrong.split('=').next().unwrap()).chain(["--vms"]) {
            assert!(flags.contains(&flag), "{flag} is missing from {flags:?}");
        }
    }
}
