//! Tests of the fleet without SSH, and what a VM may say that cannot be believed. Shared with `fuzz/`.

pub mod hostile;

#[cfg(test)]
mod unit;
