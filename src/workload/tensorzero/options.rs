//! The options of the workload.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::Workload;

/// What a request writes.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[command(next_help_heading = "Data")]
pub struct DataOptions {
    /// Size of the output JSON in KB (chat_inference.output)
    #[arg(long, value_name = "KB", default_value = "2048")]
    pub output_size_kb: String,

    /// Size of the raw_response JSON in KB (model_inference.raw_response)
    #[arg(long, value_name = "KB", default_value = "2048")]
    pub raw_response_size_kb: String,

    /// Size of the input JSON in KB (chat_inference.input)
    #[arg(long, value_name = "KB", default_value = "1.5")]
    pub input_size_kb: String,

    /// Size of the raw_request JSON in KB (model_inference.raw_request)
    #[arg(long, value_name = "KB", default_value = "1.0")]
    pub raw_request_size_kb: String,

    /// Skip the rate limiting write (resource_bucket)
    #[arg(long)]
    pub no_rate_limiting: bool,

    /// Skip the experimentation write (variant_by_episode)
    #[arg(long)]
    pub no_experimentation: bool,

    /// Make the documents in SQL, from random text kept in the database: nearly nothing crosses the network
    #[arg(long)]
    pub server_side_data: bool,
}

impl DataOptions {
    /// What they mean. `size` reads the size, in KB, that was given for a flag.
    pub fn workload(&self, mut size: impl FnMut(&'static str, &str) -> f64) -> Workload {
        Workload {
            input_size_kb: size("--input-size-kb", &self.input_size_kb),
            output_size_kb: size("--output-size-kb", &self.output_size_kb),
            raw_request_size_kb: size("--raw-request-size-kb", &self.raw_request_size_kb),
            raw_response_size_kb: size("--raw-response-size-kb", &self.raw_response_size_kb),
            server_side_data: self.server_side_data,
            rate_limiting: !self.no_rate_limiting,
            experimentation: !self.no_experimentation,
        }
    }
}
