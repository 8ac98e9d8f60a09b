//! The command line of `coordinator`, as typed. What `load_test` has, too, is one and the same definition.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser};

use super::{
    CriteriaOptions, DataOptions, LoadOptions, LoadTestOptions, LocalOptions, OutputOptions, PartOptions,
    TargetOptions, VERSION,
};

/// One load test on many machines.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "coordinator",
    version = VERSION,
    max_term_width = 100,
    override_usage = "coordinator --vms <HOSTS> [OPTIONS]\n       coordinator merge [OPTIONS] <FILE>...",
    args_override_self = true,
    allow_negative_numbers = true,
    about = "Runs one Postgres load test on many machines over SSH and merges the results exactly",
    long_about = "Runs one Postgres load test on many machines. Each is reached over SSH, gets the load_test program \
                  where it lacks it, and runs its share of one schedule; all start at the same instant. The results \
                  are merged exactly: counts are summed, histograms added, percentiles computed from the sum.",
    after_help = "Numbers: 1000, .5, 1e3, 10k, 1.5M. Durations: 60, 60s, 500ms, 5m, 1h, 1m30s (seconds without a \
                  unit). Sizes: KB of 1,024 bytes, or with a unit: 10k, 1.5M.\n\n\
                  Exit codes: 0 PASSED; 1 DEGRADED, FAILED, INVALID or LOST WRITES; 2 wrong use; 3 it could not run; 130 interrupted.\n\n\
                  Time limits: to log in, --connect-timeout and 20 s; what a machine does before the load, 30 min a phase; \
                  one from which nothing is heard, 5 s; its result, 20 s after --drain (with --verify 80 s). Those of the \
                  database are load_test's. docs/time-limits.md has all of them.\n\n\
                  Results of runs that were started by other means are merged with: coordinator merge FILE... (see \
                  coordinator merge --help)\n\n\
                  Examples:\n  \
                  POSTGRES_URL='postgres://…?sslmode=require' coordinator --vms vm1,vm2 --rps 250\n  \
                  coordinator --vms 'ubuntu@vm[01-16].example.com' --ssh-key ~/.ssh/loadtest.pem --total-rps 4000\n  \
                  coordinator --vms @hosts.txt --setup --duration 5m --workers 16 --json-output > result.json"
)]
pub struct CoordinatorOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub fleet: FleetOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub target: TargetOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub load: LoadOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub data: DataOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub criteria: CriteriaOptions,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub output: OutputOptions,
}

/// Which machines, and how they are reached.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Machines")]
pub struct FleetOptions {
    /// The machines, with commas or spaces between: names, addresses, aliases of the SSH configuration, user@host:port, [IPv6],
    /// ranges as in vm[01-16].example.com, or @FILE with one a line
    #[arg(long, value_name = "HOSTS")]
    pub vms: Option<String>,

    /// Target rate of all machines together, instead of --rps for each; exact also where it does not divide
    #[arg(long, value_name = "RATE", conflicts_with = "rps")]
    pub total_rps: Option<String>,

    /// User on the machines [default: of the SSH configuration, else the current one]
    #[arg(long, value_name = "USER")]
    pub ssh_user: Option<String>,

    /// Private key file, or the public key of one in the agent [default: of the SSH configuration or agent]
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,

    /// Port of the SSH servers [default: of the SSH configuration, else 22]
    #[arg(long, value_name = "PORT")]
    pub ssh_port: Option<String>,

    /// SSH configuration to use instead of ~/.ssh/config (aliases, ProxyJump, …)
    #[arg(long, value_name = "FILE")]
    pub ssh_config: Option<PathBuf>,

    /// Host keys: strict (only known ones), accept-new (remember unknown ones, refuse changed ones), or off
    #[arg(long, value_name = "HOW", default_value = "accept-new")]
    pub host_keys: String,

    /// How many machines are being connected to, or sent the program, at once
    #[arg(long, value_name = "N", default_value = "8")]
    pub ssh_concurrency: String,

    /// How long one attempt to connect may take; a machine that does not answer is tried four times
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub connect_timeout: String,

    /// Folder on the machines in which load_test is, or is put; or the program itself
    #[arg(long, value_name = "PATH", default_value = "~/postgres_load_test")]
    pub remote_path: String,

    /// Send the program to the machines: auto (where they lack this very build), always, or never
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub deploy: String,

    /// The load_test program for the machines; may be given several times, one for each architecture
    /// [default: the one beside this program]
    #[arg(long, value_name = "FILE")]
    pub agent_binary: Vec<PathBuf>,

    /// What to do when a machine is lost: continue (also where one fails before the load begins), or abort the whole
    /// test [default: stop before the load, continue once it runs]
    #[arg(long, value_name = "HOW")]
    pub on_host_loss: Option<String>,
}

impl CoordinatorOptions {
    /// Reads a command line, the program's name included.
    ///
    /// # Errors
    /// It is none; or help or version was asked for.
    pub fn parse_from_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        super::read(Self::described(), arguments)
    }

    /// The shared options, where the coordinator means something else by them.
    fn described() -> clap::Command {
        let kb = "1024";
        Self::command()
            .mut_arg("output_size_kb", |argument| argument.default_value(kb))
            .mut_arg("raw_response_size_kb", |argument| argument.default_value(kb))
            .mut_arg("rps", |argument| {
                argument.help(
                    "Target rate of each machine in requests per second, or \"max\": every worker starts its next \
                     request at once",
                )
            })
            .mut_arg("workers", |argument| argument.help("Number of workers of each machine, with a connection each"))
            .mut_arg("threads", |argument| {
                argument.help("Threads of each machine [default: number of processors, at most --workers]")
            })
            .mut_arg("postgres_url", |argument| {
                argument.help(
                    "Where the database is, as the machines reach it: a URL or key=value string as psql takes it. It \
                     is sent to them over SSH and stands in no argument, environment or file. Better in the \
                     environment than on the command line, which a shell remembers. [default: as psql, where PGHOST, \
                     PGHOSTADDR, PGPORT, PGUSER, PGDATABASE, PGPASSWORD, PGPASSFILE or PGSERVICE is set here, else \
                     postgresql://postgres:postgres@localhost:5432/tensorzero_loadtest, seen from each machine]",
                )
            })
    }

    /// As one machine's `load_test` would be called, but for its share.
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

    fn parse(arguments: &[&str]) -> Result<CoordinatorOptions, clap::Error> {
        let arguments = std::iter::once(&"coordinator").chain(arguments);
        CoordinatorOptions::parse_from_arguments(arguments.map(OsString::from))
    }

    #[test]
    fn every_option_of_load_test_that_concerns_the_load_is_there() {
        let of = |command: clap::Command| -> Vec<String> {
            command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect()
        };
        let (coordinator, load_test) = (of(CoordinatorOptions::described()), of(LoadTestOptions::command()));
        let local = ["ephemeral", "docker-container", "share", "start-at", "agent"];
        for option in load_test {
            assert_eq!(coordinator.contains(&option), !local.contains(&option.as_str()), "--{option}");
        }
    }

    #[test]
    fn defaults_are_the_seeds() {
        let options = parse(&["--vms", "a,b"]).unwrap();
        assert_eq!(options.data.output_size_kb, "1024");
        assert_eq!(options.data.raw_response_size_kb, "1024");
        assert_eq!((options.load.rps.as_str(), options.load.duration.as_str()), ("100", "60"));
        assert_eq!(options.load.workers, "8");
        assert_eq!(options.fleet.remote_path, "~/postgres_load_test");
        assert!(options.fleet.ssh_user.is_none() && options.fleet.ssh_key.is_none());
        assert_eq!(options.fleet.host_keys, "accept-new");
    }

    #[test]
    fn a_rate_is_given_in_one_way() {
        assert!(parse(&["--vms", "a", "--total-rps", "7"]).is_ok());
        let error = parse(&["--vms", "a", "--total-rps", "7", "--rps", "7"]).unwrap_err();
        assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
    }
}
