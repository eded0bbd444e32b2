//! How good a model is, said beside what is reached without one.

pub mod baselines;
pub mod metrics;
pub mod report;
pub mod score;

pub use metrics::Confusion;
pub use report::Report;
