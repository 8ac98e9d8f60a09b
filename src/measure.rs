//! What a run writes down about its requests. Pure.
//!
//! - [`counters`]: all counts, with one `add`. [`durations`]: a histogram. [`figures`]: the histograms of the window, as
//!   recorded and as text ([`encoded`]). [`timeline`]: how many requests were completed when.
//! - [`recorder`]: all of these for one thread and one second. [`record`]: what a whole run leaves behind.
//! - [`outcome`]: database errors in classes. [`outages`]: times in which something was due and nothing was acknowledged.
//!   [`stalls`]: times in which the generator stood still.

pub mod bins;
pub mod counters;
pub mod durations;
pub mod encoded;
pub mod figures;
pub mod outages;
pub mod outcome;
pub mod record;
pub mod recorder;
pub mod stalls;
pub mod timeline;
