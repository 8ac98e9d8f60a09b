//! The messages are compared with those of postgres-protocol's own encoder and tokio-postgres' own conversions.

use std::io::IoSlice;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use proptest::prelude::*;
use tokio_postgres::types::{IsNull, ToSql, Type};

use super::request::{INPUT_MESSAGES, MODEL_OUTPUT};
use super::*;
use crate::workload::batch::{Batch, MAX_SLICES, Outgoing};
use crate::workload::payload::{Cut, HEAD, MIN_BYTES, TAIL};
use crate::workload::script::{Script, SessionOptions, Step, phase_names};

const NONCE: u64 = 0xabc;

const SEED: u64 = 7;

fn workload(size: usize, server_side_data: bool) -> Workload {
    let [least, size] = [MIN_BYTES, size].map(|bytes| bytes as f64 / 1024.0);
    Workload { input_size_kb: least, raw_request_size_kb: least + 0.001, server_side_data, ..Workload::of_kb(size) }
}

fn options(prepared: bool, pipeline: bool) -> SessionOptions {
    SessionOptions { prepared, pipeline, statement_timeout: None, isolation: None, idle_in_transaction: None }
}

/// JSON text as jsonb in binary.
#[derive(Debug)]
struct Json(Vec<u8>);

impl ToSql for Json {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&[1]);
        out.extend_from_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::JSONB
    }

    tokio_postgres::types::to_sql_checked!();
}

fn document(pool: &Pool, cut: Cut) -> Vec<u8> {
    [HEAD.as_bytes(), pool.content(cut), TAIL.as_bytes()].concat()
}

/// The parameters of a write, as values that tokio-postgres converts.
fn parameters(write: Write, r: &Request, pool: &Pool, workload: &Workload) -> Vec<Box<dyn ToSql + Sync>> {
    let text = |cut| String::from_utf8(document(pool, cut)).unwrap();
    let mut parameters: Vec<Box<dyn ToSql + Sync>> = match write {
        Write::ChatInference => vec![
            Box::new(r.inference_id),
            Box::new(r.function_name),
            Box::new(r.variant_name),
            Box::new(r.episode_id),
            Box::new(Json(r.inference_params.clone().into_bytes())),
            Box::new(Json(r.tags.clone().into_bytes())),
            Box::new(r.processing_time_ms),
        ],
        Write::ModelInference => vec![
            Box::new(r.model_inference_id),
            Box::new(r.inference_id),
            Box::new(r.model_name),
            Box::new(r.model_provider_name),
            Box::new(r.input_tokens),
            Box::new(r.output_tokens),
            Box::new(r.response_time_ms),
            Box::new(Json(INPUT_MESSAGES.into())),
            Box::new(Json(MODEL_OUTPUT.into())),
        ],
        Write::ResourceBucket => return vec![Box::new(r.bucket_key)],
        Write::VariantByEpisode => {
            return vec![Box::new(r.function_name), Box::new(r.episode_id), Box::new(r.variant_name)];
        }
    };
    let is_chat = write == Write::ChatInference;
    let cuts = if is_chat { [r.input, r.output] } else { [r.raw_request, r.raw_response] };
    for cut in cuts {
        match (workload.server_side_data, is_chat) {
            (true, _) => parameters.extend([cut.sql_offset(), cut.sql_length()].map(|n| Box::new(n) as _)),
            (false, true) => parameters.push(Box::new(Json(document(pool, cut)))),
            (false, false) => parameters.push(Box::new(text(cut))),
        }
    }
    if workload.server_side_data {
        parameters.push(Box::new(SEED as i64));
        parameters.push(Box::new(pool.sql_length()));
    }
    parameters
}

/// The same request by other means: the parts, each as one piece.
fn reference(options: &SessionOptions, workload: &Workload, request: &Request, pool: &Pool) -> Vec<Vec<u8>> {
    let (mut parts, mut out) = (Vec::new(), BytesMut::new());
    let name = |what: &str| if options.prepared { format!("loadtest_{NONCE:x}_{what}") } else { String::new() };
    let statement = |out: &mut BytesMut, name: &str, text: &str, types: &[Type], values: &[Box<dyn ToSql + Sync>]| {
        if !options.prepared {
            frontend::parse(name, text, types.iter().map(Type::oid), out).unwrap();
        }
        let formats = (!values.is_empty()).then_some(1);
        let serialize = |(value, ty): (&(dyn ToSql + Sync), &Type), out: &mut BytesMut| {
            value.to_sql_checked(ty, out).map(|_| postgres_protocol::IsNull::No)
        };
        frontend::bind("", name, formats, values.iter().map(|value| &**value).zip(types), serialize, [], out)
            .unwrap_or_else(|_| panic!());
        frontend::execute("", 0, out).unwrap();
    };
    statement(&mut out, &name("begin"), "BEGIN", &[], &[]);
    if let Some(timeout) = options.statement_timeout {
        let text = format!("SET LOCAL statement_timeout = {}", timeout.as_millis());
        statement(&mut out, &name("timeout"), &text, &[], &[]);
    }
    if let Some(timeout) = options.idle_in_transaction.filter(|_| !options.pipeline) {
        let text = format!("SET LOCAL idle_in_transaction_session_timeout = {}", timeout.as_millis());
        statement(&mut out, &name("idle"), &text, &[], &[]);
    }
    for (at, write) in workload.writes().enumerate() {
        let (sql, values) = (workload.statement(write), parameters(write, request, pool, workload));
        statement(&mut out, &name(&at.to_string()), &sql.text, &sql.types, &values);
        if !options.pipeline {
            frontend::sync(&mut out);
            parts.push(std::mem::take(&mut out).to_vec());
        }
    }
    statement(&mut out, &name("commit"), "COMMIT", &[], &[]);
    frontend::sync(&mut out);
    parts.push(out.to_vec());
    parts
}

/// What is left to send after the first `sent` bytes.
fn joined(outgoing: &Outgoing<'_>, sent: usize) -> Vec<u8> {
    let mut slices = [IoSlice::new(&[]); MAX_SLICES];
    let count = outgoing.slices(sent, &mut slices);
    slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn the_messages_are_those_of_the_other_encoder(
        prepared: bool,
        pipeline: bool,
        server_side_data: bool,
        (timeout, idle) in (prop::option::of(1u64..100_000), prop::option::of(1u64..100_000)),
        (rate_limiting, experimentation) in any::<(bool, bool)>(),
        size in MIN_BYTES..3_000usize,
        slot: u64,
    ) {
        let statement_timeout = timeout.map(Duration::from_millis);
        let idle_in_transaction = idle.map(Duration::from_millis);
        let options = SessionOptions { statement_timeout, idle_in_transaction, ..options(prepared, pipeline) };
        let workload =
            Workload { rate_limiting, experimentation, ..workload(size, server_side_data) };
        let pool = workload.pool(SEED);
        let maker = RequestMaker::new(workload, SEED, pool.clone(), 3);
        let script = Script::new(&options, &workload, NONCE);
        let (mut request, mut batch) = (Request::default(), Batch::default());
        // What an earlier request left in the batch must not show.
        for slot in [slot.wrapping_add(1), slot] {
            maker.fill(&mut request, slot, 1_700_000_000_123);
            script.encode(&maker, &request, &mut batch);
        }
        let expected = reference(&options, &workload, &request, &pool);
        prop_assert_eq!(script.parts().len(), expected.len());
        for (part, expected) in expected.iter().enumerate() {
            let outgoing = batch.outgoing(part, &pool);
            prop_assert_eq!(outgoing.length(), expected.len());
            prop_assert!(joined(&outgoing, 0) == *expected, "part {part} differs");
            for sent in [1, expected.len() / 2, expected.len() - 1, expected.len()] {
                prop_assert!(joined(&outgoing, sent) == expected[sent..], "part {part} after {sent} bytes");
            }
        }
    }
}

#[test]
fn commit_has_not_been_sent_before_its_first_byte() {
    for pipeline in [false, true] {
        let workload = workload(500, false);
        let pool = workload.pool(SEED);
        let maker = RequestMaker::new(workload, SEED, pool.clone(), 3);
        let script = Script::new(&options(true, pipeline), &workload, NONCE);
        let (mut request, mut batch) = (Request::default(), Batch::default());
        maker.fill(&mut request, 5, 0);
        script.encode(&maker, &request, &mut batch);
        let last = script.parts().len() - 1;
        let outgoing = batch.outgoing(last, &pool);
        let commit_bytes = reference(&options(true, false), &workload, &request, &pool).pop().unwrap().len();
        assert!(!outgoing.may_commit_after(outgoing.length() - commit_bytes));
        assert!(outgoing.may_commit_after(outgoing.length() - commit_bytes + 1));
        assert!((0..last).all(|part| {
            let outgoing = batch.outgoing(part, &pool);
            !outgoing.may_commit_after(outgoing.length())
        }));
    }
}

#[test]
fn every_round_trip_has_a_name_unless_there_is_only_one() {
    let workload = Workload { experimentation: false, ..workload(100, false) };
    let script = Script::new(&options(true, false), &workload, NONCE);
    let names = |pipeline| phase_names(pipeline, &workload);
    assert_eq!(names(false), ["chat_inference", "model_inference", "resource_bucket", "commit"]);
    assert_eq!(names(false).len(), script.parts().len());
    assert_eq!(script.parts()[0], [Step::Begin, Step::Write("chat_inference")]);
    assert_eq!(script.parts()[3], [Step::Commit]);
    let pipelined = Script::new(&options(true, true), &workload, NONCE);
    assert_eq!((names(true).len(), pipelined.parts().len()), (0, 1));
    assert_eq!(pipelined.parts()[0].len(), 5);
}

#[test]
fn preparing_parses_every_statement_once() {
    let script = Script::new(&options(true, true), &workload(100, false), NONCE);
    let messages = script.preparation().unwrap();
    let (mut at, mut types) = (0, Vec::new());
    while at < messages.len() {
        types.push(messages[at]);
        at += 1 + u32::from_be_bytes(messages[at + 1..at + 5].try_into().unwrap()) as usize;
    }
    assert_eq!(types, b"PPPPPPS");
    assert!(Script::new(&options(false, true), &workload(100, false), NONCE).preparation().is_none());
}

#[test]
fn both_schema_files_are_alike_but_for_the_kind_of_tables_and_some_indexes() {
    let statements = |file: &'static str| {
        let lines = file.lines().skip_while(|line| *line != "BEGIN;").filter(|line| !line.starts_with("CREATE INDEX"));
        lines.map(|line| line.replace("UNLOGGED ", "").replace(", unlogged;", ", logged;")).collect::<Vec<_>>()
    };
    assert_eq!(statements(SCHEMA), statements(SCHEMA_UNLOGGED));
    assert!(SCHEMA_UNLOGGED.lines().filter(|line| line.starts_with("CREATE INDEX")).all(|line| SCHEMA.contains(line)));
    for table in TABLES {
        assert!(SCHEMA.contains(&format!("CREATE TABLE {} (", table.name)), "{}", table.name);
    }
}
