//! The result as one JSON document.

use std::io::{self, Write};

use super::exporter::Exporter;
use crate::result::RunResult;
use crate::text::terminal::printable_json;

/// A document for a file is indented, and one for a script that reads stdout is one line.
pub struct JsonDocument {
    pub is_indented: bool,
}

impl Exporter for JsonDocument {
    fn finish(&mut self, out: &mut dyn Write, result: &RunResult) -> io::Result<()> {
        let json = match self.is_indented {
            true => serde_json::to_string_pretty(result)?,
            false => serde_json::to_string(result)?,
        };
        out.write_all(format!("{}\n", printable_json(&json)).as_bytes())
    }
}
