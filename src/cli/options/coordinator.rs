//! The options of `coordinator`. Those that `load_test` has, too, are defined once.

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "the comments of fields are help texts, in which [default: …] is no link"
)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, Parser, ValueEnum};

use super::{
    CriteriaOptions, DataOptions, EXIT_CODES, FORMS, LoadOptions, LoadTestOptions, LocalOptions, OutputOptions,
    PartOptions, TargetOptions, VERSION,
};
use crate::cli::read::read;
use crate::cli::values::{self, Fault};
use crate::schedule::Rate;

/// What to do with the host keys of the VMs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostKeys {
    /// only those in the known hosts files
    Strict,
    /// remember unknown ones, refuse changed ones
    AcceptNew,
    /// compare and remember nothing
    Off,
}

/// When the program is sent to a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeployMode {
    /// where the VM lacks this very build
    Auto,
    /// to every VM
    Always,
    /// to none: what is there is run
    Never,
}

/// What to do when a VM is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnHostLoss {
    /// go on with the others, also where one fails before the load begins
    Continue,
    /// end the whole test
    Abort,
}

/// One load test on many VMs.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "coordinator",
    version = VERSION,
    max_term_width = 100,
    override_usage = "coordinator --vms <HOSTS> [OPTIONS]\n       coordinator merge [OPTIONS] <FILE>...",
    args_override_self = true,
    allow_negative_numbers = true,
    about = "Runs one Postgres load test on many VMs over SSH and merges the results exactly",
    long_about = "Runs one Postgres load test on many VMs. Each is reached over SSH, gets the load_test program where \
                  it lacks it, and runs its share of one schedule; all start at the same instant. The results are \
                  merged exactly: counts are summed, histograms added, percentiles computed from the sum.",
    after_long_help = format!(
        "{FORMS}\n\n{EXIT_CODES}\n\n\
         Time limits: to log in, --connect-timeout and 20 s; what a VM does before the load, 30 min a phase; a VM that \
         is not heard, 5 s; its result, 20 s after --drain (with --verify 80 s). Those of the database are \
         load_test's. docs/time-limits.md has all of them.\n\n\
         To merge results of runs that were started by other means: coordinator merge FILE... (see coordinator merge \
         --help)\n\n\
         Examples:\n  \
         POSTGRES_URL='postgres://…?sslmode=require' coordinator --vms vm1,vm2 --rps 250\n  \
         coordinator --vms 'ubuntu@vm[01-16].example.com' --ssh-key ~/.ssh/loadtest.pem --total-rps 4000\n  \
         coordinator --vms @hosts.txt --setup --duration 5m --workers 16 --json-output > result.json"
    )
)]
pub struct CoordinatorOptions {
    #[command(flatten)]
    pub fleet: FleetOptions,
    #[command(flatten)]
    pub target: TargetOptions,
    #[command(flatten)]
    pub load: LoadOptions,
    #[command(flatten)]
    pub data: DataOptions,
    #[command(flatten)]
    pub criteria: CriteriaOptions,
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Which VMs, and how they are reached.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "VMs")]
pub struct FleetOptions {
    /// The VMs: vm1,user@vm2:22,vm[03-16] or @FILE
    ///
    /// Names, addresses, [IPv6] or aliases of the SSH configuration, with commas or spaces between; ranges as in
    /// vm[01-16].example.com; or a file with one a line.
    #[arg(long, value_name = "HOSTS")]
    pub vms: Option<String>,

    /// Rate of all VMs together, in place of --rps
    ///
    /// Exact also where it does not divide.
    #[arg(long, value_name = "RATE", conflicts_with = "rps", value_parser = values::rate)]
    pub total_rps: Option<Rate>,

    /// User on the VMs
    ///
    /// [default: of the SSH configuration, else the current one]
    #[arg(long, value_name = "USER", value_parser = user)]
    pub ssh_user: Option<String>,

    /// Private key file
    ///
    /// Or the public key of one in the agent. [default: of the SSH configuration or agent]
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,

    /// Port of the SSH servers [default: of the SSH configuration, else 22]
    #[arg(long, value_name = "PORT", hide_short_help = true, value_parser = values::whole::<u16>(1..=65_535))]
    pub ssh_port: Option<u16>,

    /// SSH configuration to use instead of ~/.ssh/config (aliases, ProxyJump, …)
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub ssh_config: Option<PathBuf>,

    /// Which host keys to accept
    #[arg(long, value_name = "HOW", value_enum, default_value = "accept-new", hide_short_help = true)]
    pub host_keys: HostKeys,

    /// How many VMs to connect to, or to send the program to, at once
    #[arg(long, value_name = "N", default_value = "8", hide_short_help = true,
          value_parser = values::whole::<usize>(1..=1_000))]
    pub ssh_concurrency: usize,

    /// How long one attempt to connect may take; a VM that does not answer is tried four times
    #[arg(long, value_name = "DURATION", default_value = "10s", hide_short_help = true,
          value_parser = values::duration_within(Duration::from_secs(1)..=Duration::MAX, "give a second or more"))]
    pub connect_timeout: Duration,

    /// Folder on the VMs in which load_test is, or is put; or the program itself
    #[arg(long, value_name = "PATH", default_value = "~/postgres_load_test", hide_short_help = true,
          value_parser = remote_path)]
    pub remote_path: String,

    /// When to send the program to the VMs
    #[arg(long, value_name = "WHEN", value_enum, default_value = "auto", hide_short_help = true)]
    pub deploy: DeployMode,

    /// The load_test program for the VMs; may be given several times, one for each architecture
    ///
    /// [default: the one next to this program]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    pub agent_binary: Vec<PathBuf>,

    /// What to do when a VM is lost [default: stop before the load, continue once it runs]
    #[arg(long, value_name = "HOW", value_enum, hide_short_help = true)]
    pub on_host_loss: Option<OnHostLoss>,
}

fn user(text: &str) -> Result<String, String> {
    match text.starts_with('-') || text.contains(char::is_whitespace) {
        true => Err("is not a user's name; give the name of a user on the VMs".to_owned()),
        false => Ok(text.to_owned()),
    }
}

fn remote_path(text: &str) -> Result<String, String> {
    match text.contains(['\n', '\r', '\0']) {
        true => Err("is not a path; give a folder on the VMs, as ~/postgres_load_test".to_owned()),
        false => Ok(text.to_owned()),
    }
}

impl CoordinatorOptions {
    /// Reads a command line, the program's name included: the options, and all that is wrong with them.
    ///
    /// # Errors
    /// It cannot be understood; or help or version was asked for.
    pub fn parse_from_arguments(
        arguments: impl IntoIterator<Item = OsString>,
    ) -> Result<(Self, Vec<Fault>), clap::Error> {
        read(&Self::described(), arguments)
    }

    /// The shared options, where the coordinator means something else by them.
    pub(in crate::cli) fn described() -> clap::Command {
        const SIZE_KB: &str = "1024";
        Self::command()
            .mut_arg("output_size_kb", |argument| argument.default_value(SIZE_KB))
            .mut_arg("raw_response_size_kb", |argument| argument.default_value(SIZE_KB))
            .mut_arg("rps", |argument| {
                argument.help("Target rate of each VM, requests per second").long_help(
                    "Target rate of each VM, requests per second\n\nmax: each worker sends its next request at once.",
                )
            })
            .mut_arg("workers", |argument| argument.help("Number of workers of each VM"))
            .mut_arg("threads", |argument| {
                argument.help("Threads of each VM [default: number of processors, at most --workers]")
            })
            .mut_arg("postgres_url", |argument| {
                argument.help("The database: URL or key=value, as for psql").long_help(
                    "The database as the VMs reach it: URL or key=value, as for psql\n\n\
                     It is sent to them over SSH and stands in no argument, environment or file there. Better in the \
                     environment than on the command line, which a shell remembers. [default: as psql, where PGHOST, \
                     PGHOSTADDR, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGPASSFILE or PGSERVICE is set here, else \
                     postgresql://postgres:postgres@localhost:5432/tensorzero_loadtest, seen from each VM]",
                )
            })
    }

    /// As `load_test` would be called on one VM, but for its share.
    pub fn load_test_options(&self) -> LoadTestOptions {
        LoadTestOptions {
            target: self.target.clone(),
            local: LocalOptions::default(),
            load: self.load.clone(),
            data: self.data.clone(),
            part: PartOptions::default(),
            criteria: self.criteria.clone(),
            output: self.output.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::values::TargetRate;

    fn parse(arguments: &[&str]) -> Result<CoordinatorOptions, clap::Error> {
        let arguments = std::iter::once(&"coordinator").chain(arguments);
        CoordinatorOptions::parse_from_arguments(arguments.map(OsString::from)).map(|(options, faults)| {
            assert_eq!(faults, []);
            options
        })
    }

    #[test]
    fn every_option_of_load_test_that_concerns_the_load_is_there() {
        let of = |command: clap::Command| -> Vec<String> {
            command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect()
        };
        let (coordinator, load_test) = (of(CoordinatorOptions::described()), of(LoadTestOptions::command()));
        let local = of(PartOptions::augment_args(LocalOptions::augment_args(clap::Command::new("local"))));
        for option in load_test {
            assert_eq!(coordinator.contains(&option), !local.contains(&option), "--{option}");
        }
    }

    #[test]
    fn defaults_are_the_seeds() {
        let options = parse(&["--vms", "a,b"]).unwrap();
        assert_eq!((options.data.output_size_kb, options.data.raw_response_size_kb), (1024.0, 1024.0));
        assert_eq!(options.load.rps, TargetRate::PerSecond(Rate::parse("100").unwrap()));
        assert_eq!((options.load.duration, options.load.workers), (Duration::from_secs(60), 8));
        assert_eq!(options.fleet.remote_path, "~/postgres_load_test");
        assert!(options.fleet.ssh_user.is_none() && options.fleet.ssh_key.is_none());
        assert_eq!(options.fleet.host_keys, HostKeys::AcceptNew);
    }

    #[test]
    fn a_rate_is_given_in_one_way() {
        assert!(parse(&["--vms", "a", "--total-rps", "7"]).is_ok());
        let error = parse(&["--vms", "a", "--total-rps", "7", "--rps", "7"]).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
    }
}
