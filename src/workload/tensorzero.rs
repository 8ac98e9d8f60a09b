//! The workload of TensorZero's first load test: each request is one transaction with up to four writes.
//!
//! Owns everything that is special to it: the tables and their schema, statements, documents, options, and what can be
//! counted afterwards. `schema.sql` describes the tables.

mod options;
mod request;
mod statements;

use serde::{Deserialize, Serialize};

use super::ids;
use super::payload::{self, Pool};
use super::table::{Count, Material, Role, Table, Total};
pub use options::DataOptions;
pub use request::{Request, RequestMaker};
pub(super) use statements::Write;

/// Each file is whole, since people run them by hand; a test sees to it that they differ only as they should.
const SCHEMA: &str = include_str!("../../schema.sql");
const SCHEMA_UNLOGGED: &str = include_str!("../../schema_unlogged.sql");

const TABLES: [Table; 5] = [
    Table { name: "chat_inference", role: Role::Inserted },
    Table { name: "model_inference", role: Role::Inserted },
    Table { name: "resource_bucket", role: Role::Shared },
    Table { name: "variant_by_episode", role: Role::Upserted },
    Table { name: "loadtest_payload_pool", role: Role::Source },
];

/// Requests that took a ticket since the tables were emptied: the first of a key leaves 1,000 tickets, and each further
/// one takes one of them.
pub const TOTAL: Total = Total {
    table: "resource_bucket",
    unit: "tickets",
    sql: "SELECT coalesce(sum(1001 - tickets), 0)::bigint FROM resource_bucket",
};

/// What requests write: the tables and the sizes of the documents. A part of `config` in the result.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Workload {
    /// Size of `chat_inference.input`; 1 KB is 1,024 bytes.
    input_size_kb: f64,
    /// Size of `chat_inference.output`.
    output_size_kb: f64,
    /// Size of `model_inference.raw_request`.
    raw_request_size_kb: f64,
    /// Size of `model_inference.raw_response`.
    raw_response_size_kb: f64,
    /// Whether the documents are cut from the pool in the database instead of being sent.
    server_side_data: bool,
    /// Whether `resource_bucket` is written.
    rate_limiting: bool,
    /// Whether `variant_by_episode` is written.
    experimentation: bool,
}

impl Workload {
    /// Which options make the documents smaller.
    pub const SIZE_FLAGS: &str =
        "the largest of --output-size-kb, --raw-response-size-kb, --input-size-kb, --raw-request-size-kb";

    /// Of the documents of a request, KB: input, output, raw_request, raw_response.
    fn sizes_kb(&self) -> [f64; 4] {
        [self.input_size_kb, self.output_size_kb, self.raw_request_size_kb, self.raw_response_size_kb]
    }

    /// The same in bytes.
    fn sizes(&self) -> [usize; 4] {
        self.sizes_kb().map(payload::bytes_of_kb)
    }

    /// Bytes of documents in one request, wherever they are made.
    pub fn document_bytes(&self) -> usize {
        // Sizes of a result from elsewhere may be anything.
        self.sizes().into_iter().fold(0, usize::saturating_add)
    }

    fn largest_document(&self) -> usize {
        self.sizes().into_iter().fold(0, usize::max)
    }

    /// Bytes of the pool that documents are cut from.
    pub fn pool_bytes(&self) -> usize {
        Pool::bytes_for(self.largest_document())
    }

    /// The pool of a run with this seed.
    pub fn pool(&self, seed: u64) -> Pool {
        Pool::generate(seed, self.largest_document())
    }

    /// All tables, in the order of the writes.
    pub fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    /// The tables that a run may write. They are emptied before it.
    pub fn written_tables(&self) -> impl Iterator<Item = &'static str> + Clone {
        TABLES.iter().filter(|table| table.role != Role::Source).map(|table| table.name)
    }

    /// The tables that requests write, as the options are.
    pub fn used_tables(&self) -> impl Iterator<Item = &'static str> {
        TABLES.iter().filter(|table| table.role != Role::Source && self.uses(table)).map(|table| table.name)
    }

    /// Whether requests use a table, as the options are.
    pub fn uses(&self, table: &Table) -> bool {
        match table.role {
            Role::Inserted => true,
            Role::Shared => self.rate_limiting,
            Role::Upserted => self.experimentation,
            Role::Source => self.server_side_data,
        }
    }

    /// SQL that makes all tables in a transaction. Where one is open already, it uses that, and commits it. `unlogged`:
    /// without write-ahead log.
    pub fn schema(&self, unlogged: bool) -> &'static str {
        if unlogged { SCHEMA_UNLOGGED } else { SCHEMA }
    }

    /// What must be in the database before the load, where documents are made there.
    pub fn material<'a>(&self, seed: u64, pool: &'a Pool) -> Option<Material<'a>> {
        let (seed, length) = (seed as i64, pool.sql_length());
        self.server_side_data.then(|| Material {
            what: "the pool for --server-side-data",
            find: format!("SELECT 1 FROM loadtest_payload_pool WHERE seed = {seed} AND length = {length}"),
            remove_others: "DELETE FROM loadtest_payload_pool",
            insert: format!(
                "INSERT INTO loadtest_payload_pool (seed, length, body) VALUES ({seed}, {length}, $1) ON CONFLICT DO NOTHING"
            ),
            bytes: pool.text(),
        })
    }

    /// Whether there is [`Self::material`].
    pub fn needs_material(&self) -> bool {
        self.server_side_data
    }

    /// What can be counted of one process's run.
    pub fn counts(&self) -> Vec<Count> {
        let ids = [("chat_inference", "id"), ("model_inference", "id"), ("variant_by_episode", "episode_id")];
        let written = ids.into_iter().take(if self.experimentation { 3 } else { 2 });
        written.map(|(name, id)| Count { name, sql: ids::count_sql(name, id) }).collect()
    }

    /// What can be counted of the whole test.
    pub fn total(&self) -> Option<Total> {
        self.rate_limiting.then_some(TOTAL)
    }

    /// All requests write the same few rows of this table, and wait for one another there.
    pub fn shared_table(&self) -> Option<&'static str> {
        TABLES.iter().find(|table| table.role == Role::Shared && self.uses(table)).map(|table| table.name)
    }

    /// SQL that counts the requests that committed, of those with the IDs in `$4`, a uuid[].
    pub fn committed_sql(&self) -> &'static str {
        "SELECT count(*) FROM chat_inference WHERE id = ANY($4::uuid[])"
    }

    /// Lines of the report's header.
    pub fn described(&self) -> Vec<(&'static str, String)> {
        let on = |on: bool| if on { "enabled" } else { "disabled" }.to_owned();
        let kb: f64 = self.sizes_kb().iter().sum();
        let made = if self.server_side_data { "server-side (SQL)" } else { "client-side" };
        vec![
            ("Rate limiting", on(self.rate_limiting)),
            ("Experimentation", on(self.experimentation)),
            ("Data per request", format!("{kb:.1} KB ({:.2} MB)", kb / 1024.0)),
            ("Data generation", made.to_owned()),
        ]
    }

    /// The writes of a request, in order.
    pub(super) fn writes(&self) -> impl Iterator<Item = Write> {
        Write::ALL.into_iter().filter(|write| self.uses(&TABLES[*write as usize]))
    }
}

#[cfg(test)]
impl Workload {
    /// All writes, and documents of one size.
    pub(crate) fn of_kb(kb: f64) -> Self {
        Self {
            input_size_kb: kb,
            output_size_kb: kb,
            raw_request_size_kb: kb,
            raw_response_size_kb: kb,
            server_side_data: false,
            rate_limiting: true,
            experimentation: true,
        }
    }

    /// The same with documents that are made in the database.
    pub(crate) fn with_material(self) -> Self {
        Self { server_side_data: true, ..self }
    }

    /// The same without the tables that not every run writes.
    pub(crate) fn without_upserts(self) -> Self {
        Self { rate_limiting: false, experimentation: false, ..self }
    }
}

#[cfg(test)]
mod tests;
