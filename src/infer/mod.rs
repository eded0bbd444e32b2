//! Running a model from a GGUF file.
//!
//! A [`Model`] is the weights, used where they lie in the mapped file; a [`Session`] reads tokens with them and keeps
//! what attention needs of those it has read; a [`Sampler`] chooses the next token from the session's logits.
//!
//! ```no_run
//! use tinyllm::infer::{Model, Sampler, Sampling, Session};
//!
//! let model = Model::open("model.gguf".as_ref())?;
//! let mut session = Session::new(&model);
//! let mut sampler = Sampler::new(Sampling::default(), model.config.vocab());
//! let prompt = model.prompt("Ax: 47 52")?;
//! sampler.accept(&prompt);
//! session.feed(&prompt)?;
//! for _ in 0..16 {
//!     let token = sampler.next(session.logits());
//!     if token == model.tokenizer.end_token() {
//!         break;
//!     }
//!     print!("{}", model.tokenizer.decode(&[token]));
//!     session.feed(&[token])?;
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A session has a team of threads of its own, as many as the rayon pool it is made in ([`pool`]) or the team it is given; reading, it
//! allocates nothing. Rayon's threads pack the matrices when a model is opened, unless they are packed already, in a file of their own
//! ([`Model::with_packed`]). [`Need`] says what a model takes of memory.
//! This is a second reading of the model, apart from the trainer's, and tests hold the two together.

mod importance;
mod kernels;
mod labels;
mod memory;
mod packed;
mod pass;
mod prefix;
mod replace;
mod sampler;
mod session;
mod store;
mod weights;

pub use crate::simd::cache::{CacheType, KvCache};
pub use importance::{ImportanceError, importance};
pub use labels::{continue_greedily, label_log_probs};
pub use memory::{Available, Need, TooLarge, available, peak};
pub use packed::{Activations, Input, Kind, Packed};
pub use prefix::PrefixError;
pub use sampler::{Sampler, Sampling, log_softmax, most_likely};
pub use session::{CHUNK, Session, SessionError};
pub use store::{PackError, Told, default_path as packed_path, pack};
pub use weights::{Block, Linear, Model, ModelError, Norm};

/// A pool of `threads` threads to run sessions in: `pool(2)?.install(|| ...)`.
pub fn pool(threads: usize) -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("tinyllm-{i}")).build()
}
