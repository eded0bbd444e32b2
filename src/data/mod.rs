//! From readings and texts to what a model learns from, and from raw readings to a prompt.
//!
//! | step | module |
//! | --- | --- |
//! | what a user writes, and what it becomes when checked | [`recipe`] [`plan`] |
//! | tables in, recordings, one rate, windows | [`csv`] [`readings`] [`resample`] [`sampling`] |
//! | who trains, who tests; the examples | [`split`] [`task`] [`ready`] |
//! | readings to text: the only place | [`codec`] [`scale`] |
//! | text to prompt and answer; examples; labels to score | [`template`] [`example`] [`labels`] |
//! | text to tokens | [`tokenizer`] |
//! | documents for pre-training and their mix | [`corpus`] [`documents`] [`mix`] [`shard`] |
//! | all of it into a folder, and out again | [`prepare`](mod@prepare) [`manifest`] [`prepared`] |
//! | the data of `tinyllm-train quickstart` | [`quickstart`] |
//! | batches for training | [`loader`] [`pack`] [`augment`] |

pub mod augment;
pub mod codec;
pub mod corpus;
pub mod csv;
pub mod documents;
pub mod error;
pub mod example;
pub mod labels;
pub mod loader;
pub mod manifest;
pub mod mix;
pub mod pack;
pub mod plan;
pub mod prepare;
pub mod prepared;
pub mod quickstart;
pub mod readings;
pub mod ready;
pub mod recipe;
pub mod resample;
pub mod sampling;
pub mod scale;
pub mod shard;
pub mod split;
pub mod task;
pub mod template;
pub mod tokenizer;

pub use codec::Codec;
pub use error::DataError;
pub use example::Example;
pub use loader::{Loader, LoaderState};
pub use pack::{PackState, Packer, Packing};
pub use prepare::prepare;
pub use prepared::Prepared;
pub use split::Split;
pub use tokenizer::Tokenizer;
