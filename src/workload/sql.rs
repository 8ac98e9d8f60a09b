//! The statements of a request, with the types of their parameters.
//!
//! `BEGIN`, the four writes, `COMMIT`: in this order. Each write changes exactly one row; anything else is an error.
//! Types are given explicitly, so that the unnamed statements of `--no-prepared-statements` need no extra round trip.

use tokio_postgres::types::Type;

use super::{TABLES, Workload};

/// One of the four writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Write {
    /// INSERT into `chat_inference`
    ChatInference,
    /// INSERT into `model_inference`
    ModelInference,
    /// UPSERT of `resource_bucket`
    ResourceBucket,
    /// UPSERT of `variant_by_episode`
    VariantByEpisode,
}

impl Write {
    /// All four, in the order in which a request makes them.
    pub const ALL: [Self; 4] =
        [Self::ChatInference, Self::ModelInference, Self::ResourceBucket, Self::VariantByEpisode];

    /// The table that it writes.
    pub fn table(self) -> &'static str {
        TABLES[self as usize]
    }
}

/// A statement and the types of its parameters.
#[derive(Clone, Copy, Debug)]
pub struct Sql {
    /// Which write it is.
    pub write: Write,
    /// Its text, with `$1` … as parameters.
    pub text: &'static str,
    /// The types of the parameters.
    pub types: &'static [Type],
}

/// The writes of a request of this workload, in order.
pub fn statements(workload: &Workload) -> Vec<Sql> {
    let mut statements = if workload.server_side_data {
        vec![CHAT_INFERENCE_SERVER_SIDE, MODEL_INFERENCE_SERVER_SIDE]
    } else {
        vec![CHAT_INFERENCE, MODEL_INFERENCE]
    };
    statements.extend(workload.rate_limiting.then_some(RESOURCE_BUCKET));
    statements.extend(workload.experimentation.then_some(VARIANT_BY_EPISODE));
    statements
}

const CHAT_INFERENCE: Sql = Sql {
    write: Write::ChatInference,
    text: "INSERT INTO chat_inference (id, function_name, variant_name, episode_id, inference_params, tags, \
           processing_time_ms, timestamp, input, output) \
           VALUES ($1, $2, $3, $4, $5, $6, $7, now(), $8, $9)",
    types: &[
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::UUID,
        Type::JSONB,
        Type::JSONB,
        Type::INT4,
        Type::JSONB,
        Type::JSONB,
    ],
};

const MODEL_INFERENCE: Sql = Sql {
    write: Write::ModelInference,
    text: "INSERT INTO model_inference (id, inference_id, model_name, model_provider_name, input_tokens, \
           output_tokens, response_time_ms, input_messages, output, timestamp, raw_request, raw_response) \
           VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now(), $10, $11)",
    types: &[
        Type::UUID,
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::INT4,
        Type::INT4,
        Type::INT4,
        Type::JSONB,
        Type::JSONB,
        Type::TEXT,
        Type::TEXT,
    ],
};

// The documents are put together from the pool exactly as the client would, so the rows are the same byte for byte.
const CHAT_INFERENCE_SERVER_SIDE: Sql = Sql {
    write: Write::ChatInference,
    text: "INSERT INTO chat_inference (id, function_name, variant_name, episode_id, inference_params, tags, \
           processing_time_ms, timestamp, input, output) \
           SELECT $1, $2, $3, $4, $5, $6, $7, now(), \
           ('{\"messages\":[{\"role\":\"user\",\"content\":\"' || convert_from(substr(body, $8, $9), 'UTF8') || '\"}]}')::jsonb, \
           ('{\"messages\":[{\"role\":\"user\",\"content\":\"' || convert_from(substr(body, $10, $11), 'UTF8') || '\"}]}')::jsonb \
           FROM loadtest_payload_pool WHERE seed = $12 AND length = $13",
    types: &[
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::UUID,
        Type::JSONB,
        Type::JSONB,
        Type::INT4,
        Type::INT4,
        Type::INT4,
        Type::INT4,
        Type::INT4,
        Type::INT8,
        Type::INT4,
    ],
};

const MODEL_INFERENCE_SERVER_SIDE: Sql = Sql {
    write: Write::ModelInference,
    text: "INSERT INTO model_inference (id, inference_id, model_name, model_provider_name, input_tokens, \
           output_tokens, response_time_ms, input_messages, output, timestamp, raw_request, raw_response) \
           SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, now(), \
           '{\"messages\":[{\"role\":\"user\",\"content\":\"' || convert_from(substr(body, $10, $11), 'UTF8') || '\"}]}', \
           '{\"messages\":[{\"role\":\"user\",\"content\":\"' || convert_from(substr(body, $12, $13), 'UTF8') || '\"}]}' \
           FROM loadtest_payload_pool WHERE seed = $14 AND length = $15",
    types: &[
        Type::UUID,
        Type::UUID,
        Type::TEXT,
        Type::TEXT,
        Type::INT4,
        Type::INT4,
        Type::INT4,
        Type::JSONB,
        Type::JSONB,
        Type::INT4,
        Type::INT4,
        Type::INT4,
        Type::INT4,
        Type::INT8,
        Type::INT4,
    ],
};

const RESOURCE_BUCKET: Sql = Sql {
    write: Write::ResourceBucket,
    text: "INSERT INTO resource_bucket AS bucket (key, tickets, balance_as_of) VALUES ($1, 1000, now()) \
           ON CONFLICT (key) DO UPDATE SET tickets = bucket.tickets - 1, balance_as_of = excluded.balance_as_of",
    types: &[Type::TEXT],
};

const VARIANT_BY_EPISODE: Sql = Sql {
    write: Write::VariantByEpisode,
    text: "INSERT INTO variant_by_episode (function_name, episode_id, variant_name) VALUES ($1, $2, $3) \
           ON CONFLICT (function_name, episode_id) DO UPDATE SET variant_name = excluded.variant_name",
    types: &[Type::TEXT, Type::UUID, Type::TEXT],
};
