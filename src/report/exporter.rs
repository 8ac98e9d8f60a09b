//! What a format has to do.

use std::io::{self, Write};

use crate::measure::recorder::Interval;
use crate::result::RunResult;

/// Writes a run in one format. Each call may write nothing.
pub trait Exporter {
    /// The load begins. `t0_unix_ns` is T0 on the wall clock.
    fn begin(&mut self, _out: &mut dyn Write, _t0_unix_ns: u64) -> io::Result<()> {
        Ok(())
    }

    /// Second `index` since T0 is over: of warm-up, window or drain. With a coordinator, of all VMs together.
    fn second(&mut self, _out: &mut dyn Write, _index: u64, _interval: &Interval) -> io::Result<()> {
        Ok(())
    }

    /// The result is there.
    fn finish(&mut self, _out: &mut dyn Write, _result: &RunResult) -> io::Result<()> {
        Ok(())
    }
}
