//! What a test on many machines is to be, resolved from the command line. All faults are found, and reported at once.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::cli::handover::Secrets;
use crate::cli::options::{CoordinatorOptions, FleetOptions, LoadTestOptions};
use crate::cli::plan::{self, Fault, Plan};
use crate::postgres::conninfo::{ConnectionSpec, Environment};
use crate::schedule::{Rate, Share};
use crate::text::number::{Decimal, Misfit};

use super::deploy::DeployMode;
use super::hosts::{self, Host};
use super::ssh::{HostKeys, SshOptions};

/// What to do when a machine is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnHostLoss {
    /// Go on with the others, also before the load begins.
    Continue,
    Abort,
}

/// Everything that a test on many machines needs to know. No `Debug`: the options hold the connection string.
#[derive(Clone)]
pub struct FleetPlan {
    /// The machines; machine i of n runs share i of n.
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
    /// The rate of one machine where that was given.
    pub rps_per_vm: Option<f64>,
    pub ssh: SshOptions,
    pub remote_path: String,
    pub deploy: DeployMode,
    /// Programs to send; the one beside this program where empty.
    pub agent_binaries: Vec<PathBuf>,
    /// What to do when a machine is lost; absent: stop before the load, continue once it runs.
    pub on_host_loss: Option<OnHostLoss>,
}

impl FleetPlan {
    /// Resolves the options. `secrets` are those that were taken out of sight before, and back in `environment`;
    /// `read_file` reads `--vms @FILE`.
    ///
    /// # Errors
    /// All faults together.
    pub fn resolve(
        options: &CoordinatorOptions,
        secrets: &Secrets,
        environment: &Environment,
        now_unix_ns: u64,
        read_file: &dyn Fn(&std::path::Path) -> std::io::Result<String>,
    ) -> Result<Self, Vec<Fault>> {
        let fleet = &options.fleet;
        let mut faults = Vec::new();
        let mut add = |flag, problem: String, remedy: &str| {
            faults.push(Fault { flag, problem, remedy: remedy.to_owned() });
        };
        let hosts = match &fleet.vms {
            None => {
                add("--vms", "no machines are given".to_owned(), "give for example --vms vm1,vm2 or --vms @hosts.txt");
                Vec::new()
            }
            Some(text) => hosts::parse(text, read_file).unwrap_or_else(|problems| {
                problems.into_iter().for_each(|problem| add("--vms", problem, "see --help for the forms"));
                Vec::new()
            }),
        };
        let mut options_of_one = options.load_test_options();
        secrets.put_into(&mut options_of_one.target);
        let ssh = ssh(fleet, &mut add);
        for (name, same) in same_machine(&hosts, &ssh) {
            add("--vms", format!("'{name}' and '{same}' are the same user, machine and port"), "leave out one of them");
        }
        let rps_per_vm = total_rate(fleet, &mut options_of_one, hosts.len().max(1) as u64, &mut add);
        let deploy = keyword(
            fleet.deploy.as_str(),
            &[("auto", DeployMode::Auto), ("always", DeployMode::Always), ("never", DeployMode::Never)],
        );
        let deploy = deploy.unwrap_or_else(|| {
            add("--deploy", format!("'{}' is no way to deploy", fleet.deploy), "give auto, always or never");
            DeployMode::Auto
        });
        let on_host_loss = fleet.on_host_loss.as_deref().and_then(|given| {
            let known = [("continue", OnHostLoss::Continue), ("abort", OnHostLoss::Abort)];
            let parsed = keyword(given, &known);
            if parsed.is_none() {
                add("--on-host-loss", format!("'{given}' is not known"), "give continue or abort");
            }
            parsed
        });
        if fleet.remote_path.trim().is_empty() || fleet.remote_path.contains(['\n', '\r', '\0']) {
            add("--remote-path", "is no path".to_owned(), "give a folder on the machines, as ~/postgres_load_test");
        }
        let plan = Plan::resolve(&options_of_one, environment, now_unix_ns, 1);
        let plan = match plan {
            Ok(plan) if faults.is_empty() => plan,
            Ok(_) => return Err(faults),
            Err(more) => {
                // A wrong rate of all machines has been told already.
                let told = faults.iter().any(|fault| fault.flag == "--total-rps" || fault.flag == "--rps");
                faults.extend(more.into_iter().filter(|fault| !(told && fault.flag == "--rps")));
                return Err(faults);
            }
        };
        // The machines' own variables say nothing of this test. Files that are named are the machines' own.
        let given = plan::given_target(&options_of_one, environment);
        let url_from = match given.from {
            None => "from --postgres-url".to_owned(),
            Some(from) => match from.strip_prefix("the default") {
                Some(more) => format!("the default, seen from each machine{more}"),
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
            pgpassword: secrets.pgpassword.clone(),
            url_from,
            rps_per_vm,
            ssh,
            remote_path: fleet.remote_path.clone(),
            deploy,
            agent_binaries: fleet.agent_binary.clone(),
            on_host_loss,
        })
    }

    /// The part of machine `index`.
    pub fn share(&self, index: usize) -> Share {
        Share { index: index as u64, of: self.hosts.len() as u64 }
    }
}

/// Machines that are the same once the options have filled in what `--vms` leaves out. What an SSH configuration says is
/// not known here.
fn same_machine<'a>(hosts: &'a [Host], ssh: &SshOptions) -> Vec<(&'a str, &'a str)> {
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

/// Sets the options' rate to that of all machines. Returns the rate of one, where that was given.
fn total_rate(
    fleet: &FleetOptions,
    options: &mut LoadTestOptions,
    machines: u64,
    add: &mut impl FnMut(&'static str, String, &str),
) -> Option<f64> {
    let remedy = "give requests per second from 0.000001 to 10000000";
    if let Some(total) = &fleet.total_rps {
        match Rate::parse(total.trim()) {
            Ok(rate) => options.load.rps = rate.to_string(),
            Err(problem) => add("--total-rps", format!("'{total}' {problem}"), remedy),
        }
        return None;
    }
    // What is no rate is told with the other faults of the plan.
    let rate = Rate::parse(options.load.rps.trim()).ok()?;
    match rate.times(machines) {
        Ok(total) => options.load.rps = total.to_string(),
        Err(problem) => add("--rps", format!("'{}' {problem}", options.load.rps), remedy),
    }
    Some(rate.per_second())
}

fn ssh(fleet: &FleetOptions, add: &mut impl FnMut(&'static str, String, &str)) -> SshOptions {
    let port = fleet.ssh_port.as_deref().and_then(|given| {
        let port = given.trim().parse::<u16>().ok().filter(|port| *port > 0);
        if port.is_none() {
            add("--ssh-port", format!("'{given}' is no port"), "give a number from 1 to 65535");
        }
        port
    });
    let known = [("strict", HostKeys::Strict), ("accept-new", HostKeys::AcceptNew), ("off", HostKeys::Off)];
    let host_keys = keyword(&fleet.host_keys, &known).unwrap_or_else(|| {
        add("--host-keys", format!("'{}' is not known", fleet.host_keys), "give strict, accept-new or off");
        HostKeys::Strict
    });
    let concurrency = Decimal::parse_count(&fleet.ssh_concurrency).and_then(|number| match number.scaled(0) {
        Ok(number @ 1..=1_000) => Ok(number as usize),
        Err(Misfit::TooFine) => Err("is not a whole number".to_owned()),
        Ok(_) | Err(Misfit::TooLarge) => Err("is out of range".to_owned()),
    });
    let concurrency = concurrency.unwrap_or_else(|problem| {
        add("--ssh-concurrency", format!("'{}' {problem}", fleet.ssh_concurrency), "give a number from 1 to 1000");
        1
    });
    let connect_timeout = crate::cli::plan::parse_duration(&fleet.connect_timeout);
    let connect_timeout = connect_timeout.and_then(|timeout| match timeout < Duration::from_secs(1) {
        true => Err("is shorter than a second".to_owned()),
        false => Ok(timeout),
    });
    let connect_timeout = connect_timeout.unwrap_or_else(|problem| {
        add("--connect-timeout", format!("'{}' {problem}", fleet.connect_timeout), "give a duration such as 10s");
        Duration::from_secs(10)
    });
    let user = fleet.ssh_user.clone();
    if user
        .as_deref()
        .is_some_and(|user| user.is_empty() || user.starts_with('-') || user.contains(char::is_whitespace))
    {
        add("--ssh-user", "is no user's name".to_owned(), "give the name of a user on the machines");
    }
    SshOptions {
        user,
        port,
        keyfile: fleet.ssh_key.clone(),
        config: fleet.ssh_config.clone(),
        host_keys,
        connect_timeout,
        concurrency,
    }
}

fn keyword<T: Copy>(given: &str, known: &[(&str, T)]) -> Option<T> {
    known.iter().find_map(|(word, value)| (*word == given.trim()).then_some(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(arguments: &[&str]) -> Result<FleetPlan, Vec<Fault>> {
        let arguments = std::iter::once(&"coordinator").chain(arguments).map(std::ffi::OsString::from);
        let mut options = CoordinatorOptions::parse_from_arguments(arguments).unwrap();
        // The test must not depend on the environment that it runs in.
        options.target.postgres_url = None;
        let no_files = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
        let environment = Environment::of_user("me");
        FleetPlan::resolve(&options, &Secrets::default(), &environment, 1_800_000_000_000_000_000, &no_files)
    }

    #[test]
    fn the_rate_is_that_of_all_machines() {
        let rate = |arguments: &[&str]| resolve(arguments).map(|plan| plan.options.load.rps).unwrap_or_default();
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
        let flags: Vec<&str> = faults.iter().map(|fault| fault.flag).collect();
        for flag in wrong.iter().map(|wrong| wrong.split('=').next().unwrap()).chain(["--vms"]) {
            assert!(flags.contains(&flag), "{flag} is missing from {flags:?}");
        }
    }
}
