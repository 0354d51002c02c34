//! What `razorfs top` shows: [`model`] makes rates of counters, [`view`] draws them.

pub mod model;
pub mod view;
#[cfg(test)]
mod view_tests;
