//! From readings and texts to what a model learns from, and from raw readings to a prompt.
//!
//! | step | module |
//! | --- | --- |
//! | what a user writes, and what it becomes when checked | [`recipe`] [`plan`] |
//! | tables in, recordings, one rate, windows | [`csv`] [`readings`] [`resample`] [`sampling`] |
//! | who trains, who tests | [`split`] |
//! | readings to text: the only place | [`codec`] |
//! | text to prompt and answer; examples; labels to score | [`template`] [`example`] [`labels`] |
//! | text to tokens | [`tokenizer`] |
//! | documents for pre-training and their mix | [`corpus`] [`mix`] [`shard`] |
//! | all of it into a folder, and out again | [`prepare`] [`manifest`] [`prepared`] |
//! | batches for training | [`loader`] [`pack`] [`augment`] |

pub mod augment;
pub mod codec;
pub mod csv;
pub mod error;
pub mod example;
pub mod labels;
pub mod loader;
pub mod plan;
pub mod readings;
pub mod recipe;
pub mod resample;
pub mod sampling;
pub mod shard;
pub mod split;
pub mod template;
pub mod tokenizer;

pub use codec::Codec;
pub use error::DataError;
pub use example::Example;
pub use split::Split;
pub use tokenizer::Tokenizer;
