//! The model, written once: a tree of parameters, its passes over any [`Backend`](crate::backend::Backend),
//! its names and files.

pub mod batch;
pub mod config;
pub mod tree;

pub use batch::HostBatch;
pub use config::{Config, ConfigError, Lora, Target};
pub use tree::{Leaf, Tree};
