//! The example for Kubernetes: what its fields say, and that its pods' command does what it is there for.

use serde_json::Value;

use super::{merge, soon};
use crate::harness::{Program, TestServer, assert_rows_match, count, python, text};

const PODS: u64 = 4;

#[test]
fn the_pods_of_the_example_run_one_schedule() {
    let read = "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/kubernetes-job.yaml");
    let job: Value =
        serde_json::from_str(&Program::new(python()).args(["-c", read, file]).run().expect(0).stdout).unwrap();
    assert_eq!((&job["apiVersion"], &job["kind"]), (&"batch/v1".into(), &"Job".into()));
    let spec = &job["spec"];
    assert_eq!(spec["completionMode"], "Indexed");
    assert_eq!((&spec["completions"], &spec["parallelism"]), (&PODS.into(), &PODS.into()));
    assert_eq!((&spec["backoffLimit"], &spec["template"]["spec"]["restartPolicy"]), (&0.into(), &"Never".into()));
    let container = &spec["template"]["spec"]["containers"][0];
    let variable = |name: &str| {
        let env = container["env"].as_array().unwrap();
        env.iter().find(|variable| variable["name"] == name).unwrap_or_else(|| panic!("no {name}")).clone()
    };
    assert_eq!(variable("PARTS")["value"], PODS.to_string());
    assert_eq!(variable("START_AT")["value"], "@START_AT@");
    assert!(variable("POSTGRES_URL")["valueFrom"]["secretKeyRef"]["key"].is_string());

    // As in the pods, but slower: a busy test machine has all of them.
    let command: Vec<&str> =
        container["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let script = command[2].replace("--rps 1000 --duration 60 --workers 16", "--rps 40 --duration 2 --workers 2");
    assert_ne!(script, command[2]);
    let server = TestServer::with_tables();
    let start_at = soon();
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_load_test")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let logs: Vec<_> = (0..PODS).map(|index| folder.path().join(format!("r{index}.json"))).collect();
    let pods: Vec<_> = logs
        .iter()
        .enumerate()
        .map(|(index, log)| {
            // A pod's log holds both streams.
            let log = std::fs::File::create(log).unwrap();
            let mut pod = Program::new(command[0]);
            pod.args([command[1], &script]).env("PATH", &path).env("PARTS", PODS.to_string());
            pod.env("START_AT", &start_at).env("POSTGRES_URL", server.url());
            pod.env("JOB_COMPLETION_INDEX", index.to_string()).stdout(log.try_clone().unwrap()).stderr(log).start()
        })
        .collect();
    // Whether a share passed is up to the machine; the pod succeeds where there is a result.
    pods.into_iter().for_each(|pod| _ = pod.finish().expect(0));
    let files: Vec<&str> = logs.iter().map(|log| text(log)).collect();
    let json = merge(&[&["--json-output"], &files[..]].concat()).run().json();
    assert_eq!((count(&json, "scheduled"), &json["num_vms"], &json["success"]), (80, &PODS.into(), &true.into()));
    assert_rows_match(&server, &json);
}
