//! The model, written once: a tree of parameters, its passes over any [`Backend`](crate::backend::Backend),
//! its names and files.

pub mod batch;
pub mod block;
pub mod config;
pub mod decoder;
pub mod init;
pub mod io;
pub mod linear;
pub mod names;
pub mod norm;
pub mod pass;
pub mod tree;

pub use batch::HostBatch;
pub use config::{Config, ConfigError, Lora, Target};
pub use decoder::{Activations, Decoder, DeviceBatch, Init, Spec};
pub use pass::{Grad, Pass};
pub use tree::{Leaf, Tree};
