//! How good a model is, said beside what is reached without one.

pub mod auto;
pub mod baselines;
pub mod calibration;
pub mod metrics;
pub mod perplexity;
pub mod report;
pub mod score;
pub mod windows;

pub use metrics::Confusion;
pub use report::Report;
pub use windows::Windows;
