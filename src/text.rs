//! How values become words and back: the ground floor, which knows nobody.
//!
//! - [`terminal`]: text from elsewhere, made safe to show. [`words`]: numbers, times and names as people read them.
//! - [`grouped`]: what several VMs say alike, said once. [`number`]: decimal numbers as people type them.

pub mod grouped;
pub mod number;
pub mod terminal;
pub mod words;
