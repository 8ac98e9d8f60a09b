//! The four writes: their SQL, and how the contents of a request are bound to it.
//!
//! Each write changes exactly one row; anything else is an error. Types are given explicitly, so that the unnamed
//! statements of `--no-prepared-statements` need no extra round trip.

use tokio_postgres::types::Type;

use super::Workload;
use super::request::{INPUT_MESSAGES, MODEL_OUTPUT, Request, RequestMaker};
use crate::workload::batch::{Bind, Statement};
use crate::workload::payload::{Cut, HEAD, TAIL};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::workload) enum Write {
    ChatInference,
    ModelInference,
    ResourceBucket,
    VariantByEpisode,
}

impl Write {
    pub(super) const ALL: [Self; 4] =
        [Self::ChatInference, Self::ModelInference, Self::ResourceBucket, Self::VariantByEpisode];

    pub(in crate::workload) fn table(self) -> &'static str {
        super::TABLES[self as usize].name
    }
}

const UUID: Type = Type::UUID;
const TEXT: Type = Type::TEXT;
const JSONB: Type = Type::JSONB;
const INT4: Type = Type::INT4;
const INT8: Type = Type::INT8;

/// Two cuts as offset and length each, then the pool's key.
const CUTS: [Type; 6] = [INT4, INT4, INT4, INT4, INT8, INT4];

impl Workload {
    pub(in crate::workload) fn statement(&self, write: Write) -> Statement {
        let (text, types) = match write {
            Write::ChatInference => {
                let columns = "chat_inference (id, function_name, variant_name, episode_id, inference_params, tags, \
                               processing_time_ms, timestamp, input, output)";
                let given = vec![UUID, TEXT, TEXT, UUID, JSONB, JSONB, INT4];
                self.insert(columns, "$1, $2, $3, $4, $5, $6, $7, now()", given, JSONB)
            }
            Write::ModelInference => {
                let columns = "model_inference (id, inference_id, model_name, model_provider_name, input_tokens, \
                               output_tokens, response_time_ms, input_messages, output, timestamp, raw_request, \
                               raw_response)";
                let given = vec![UUID, UUID, TEXT, TEXT, INT4, INT4, INT4, JSONB, JSONB];
                self.insert(columns, "$1, $2, $3, $4, $5, $6, $7, $8, $9, now()", given, TEXT)
            }
            Write::ResourceBucket => (
                "INSERT INTO resource_bucket AS bucket (key, tickets, balance_as_of) VALUES ($1, 1000, now()) \
                 ON CONFLICT (key) DO UPDATE SET tickets = bucket.tickets - 1, balance_as_of = excluded.balance_as_of"
                    .to_owned(),
                vec![TEXT],
            ),
            Write::VariantByEpisode => (
                "INSERT INTO variant_by_episode (function_name, episode_id, variant_name) VALUES ($1, $2, $3) \
                 ON CONFLICT (function_name, episode_id) DO UPDATE SET variant_name = excluded.variant_name"
                    .to_owned(),
                vec![TEXT, UUID, TEXT],
            ),
        };
        Statement { text, types }
    }

    /// An insertion whose last two columns are documents of the type `document`; the parameters before them are `given`.
    fn insert(&self, columns: &str, values: &str, given: Vec<Type>, document: Type) -> (String, Vec<Type>) {
        let (mut types, next) = (given.clone(), given.len() + 1);
        if !self.server_side_data {
            types.extend([document.clone(), document]);
            return (format!("INSERT INTO {columns} VALUES ({values}, ${next}, ${})", next + 1), types);
        }
        types.extend(CUTS);
        // Put together as the client would, so the rows are the same byte for byte.
        let cut = |at: usize| {
            let content = format!("convert_from(substr(body, ${at}, ${}), 'UTF8')", at + 1);
            format!("('{HEAD}' || {content} || '{TAIL}')::{document}")
        };
        let (input, output, seed, length) = (cut(next), cut(next + 2), next + 4, next + 5);
        let from = format!("FROM loadtest_payload_pool WHERE seed = ${seed} AND length = ${length}");
        (format!("INSERT INTO {columns} SELECT {values}, {input}, {output} {from}"), types)
    }
}

impl RequestMaker {
    /// Binds the parameters of a write, in the order of [`Workload::statement`].
    pub(in crate::workload) fn bind(&self, write: Write, r: &Request, bind: &mut Bind<'_>) {
        match write {
            Write::ChatInference => {
                bind.uuid(&r.inference_id);
                bind.text(r.function_name);
                bind.text(r.variant_name);
                bind.uuid(&r.episode_id);
                bind.jsonb(&r.inference_params);
                bind.jsonb(&r.tags);
                bind.int4(r.processing_time_ms);
                self.bind_documents(bind, [r.input, r.output], Bind::jsonb_document);
            }
            Write::ModelInference => {
                bind.uuid(&r.model_inference_id);
                bind.uuid(&r.inference_id);
                bind.text(r.model_name);
                bind.text(r.model_provider_name);
                bind.int4(r.input_tokens);
                bind.int4(r.output_tokens);
                bind.int4(r.response_time_ms);
                bind.jsonb(INPUT_MESSAGES);
                bind.jsonb(MODEL_OUTPUT);
                self.bind_documents(bind, [r.raw_request, r.raw_response], Bind::text_document);
            }
            Write::ResourceBucket => bind.text(r.bucket_key),
            Write::VariantByEpisode => {
                bind.text(r.function_name);
                bind.uuid(&r.episode_id);
                bind.text(r.variant_name);
            }
        }
    }

    /// The parameters behind those that are given, as [`Workload::insert`] has them.
    fn bind_documents<'a>(&self, bind: &mut Bind<'a>, cuts: [Cut; 2], document: fn(&mut Bind<'a>, Cut)) {
        if !self.workload.server_side_data {
            return cuts.into_iter().for_each(|cut| document(bind, cut));
        }
        for cut in cuts {
            bind.int4(cut.sql_offset());
            bind.int4(cut.sql_length());
        }
        bind.int8(self.seed as i64);
        bind.int4(self.pool().sql_length());
    }
}
