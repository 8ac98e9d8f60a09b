//! The options of the workload.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::Workload;
use crate::workload::size::size_kb;

/// What a request writes.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Data")]
pub struct DataOptions {
    /// Size of chat_inference.output, in KB
    #[arg(long, value_name = "KB", default_value = "2048", value_parser = size_kb)]
    pub output_size_kb: f64,

    /// Size of model_inference.raw_response, in KB
    #[arg(long, value_name = "KB", default_value = "2048", hide_short_help = true, value_parser = size_kb)]
    pub raw_response_size_kb: f64,

    /// Size of chat_inference.input, in KB
    #[arg(long, value_name = "KB", default_value = "1.5", hide_short_help = true, value_parser = size_kb)]
    pub input_size_kb: f64,

    /// Size of model_inference.raw_request, in KB
    #[arg(long, value_name = "KB", default_value = "1.0", hide_short_help = true, value_parser = size_kb)]
    pub raw_request_size_kb: f64,

    /// Skip the rate limiting write (resource_bucket)
    #[arg(long, hide_short_help = true)]
    pub no_rate_limiting: bool,

    /// Skip the experimentation write (variant_by_episode)
    #[arg(long, hide_short_help = true)]
    pub no_experimentation: bool,

    /// Make the documents in SQL, from random text in the database: hardly anything crosses the network
    #[arg(long, hide_short_help = true)]
    pub server_side_data: bool,
}

impl DataOptions {
    /// What they mean.
    pub fn workload(&self) -> Workload {
        Workload {
            input_size_kb: self.input_size_kb,
            output_size_kb: self.output_size_kb,
            raw_request_size_kb: self.raw_request_size_kb,
            raw_response_size_kb: self.raw_response_size_kb,
            server_side_data: self.server_side_data,
            rate_limiting: !self.no_rate_limiting,
            experimentation: !self.no_experimentation,
        }
    }
}
