//! TinyLLM: GPT-2 models of 1 to 124 million parameters that read sensors.
//!
//! `tinyllm-train` prepares data, pre-trains, fine-tunes, evaluates and exports GGUF;
//! `tinyllm-run` runs such a file on a small board. Both are thin programs over this library.
//!
//! # The map
//!
//! Imports only go down; `tests/floors.rs` fails on one that goes up or sideways.
//!
//! | floor | module | what |
//! | --- | --- | --- |
//! | 0 | [`rng`] [`fsio`] [`mmap`] [`progress`] [`cores`] [`team`] | counter-based random numbers; whole files or none; mapped files; what a user sees; fast cores, and threads that work together |
//! | 1 | [`simd`] | inner loops and their run-time dispatch |
//! | 2 | [`quant`] [`gguf`] | block formats and their scalar truth; the container (which may use `quant`) |
//! | 3 | [`backend`] | the decoder's kernels: trait, `Reference` (f64), `Cpu` (f32) |
//! | 4 | [`model`] [`data`] | the model as a tree over its leaf; tokenizer, recipes, shards (`data` may use `model`) |
//! | 5 | [`train`] [`infer`] | a run, its checkpoints; a session, its sampler and label scores |
//! | 6 | [`eval`] | metrics, baselines, reports; perplexity, divergence, mixes of formats |
//! | 7 | `bin/` | the programs, one file a subcommand |
//!
//! # Letters
//!
//! `B` sequences of `T` positions make `N = B T` rows; `C` channels (`n_embd`), `H` heads of `D`
//! channels, `L` layers, `F` hidden channels of the MLP (`n_ff`), `V` tokens in the vocabulary, `R`
//! the rank of a LoRA pair. Matrices are row-major and a weight is `(out, in)`. A gradient is `d`
//! and the name of what it belongs to.
//!
//! # The `+=` rule
//!
//! A kernel adds to the gradients of parameters, to the loss, and where its name or its formula says so (`linear_add`,
//! `axpy`, `norm_backward` into the residual stream's gradient); it overwrites every other output. A kernel's outputs
//! come first among its arguments.
//!
//! Start reading at [`model::decoder`], then [`backend::Backend`], then [`train::learner`], where a training step is.

pub mod cores;
pub mod fsio;
pub mod mmap;
pub mod progress;
pub mod rng;
pub mod team;

pub mod simd;

pub mod gguf;
pub mod quant;

pub mod backend;

pub mod data;
pub mod model;

pub mod infer;
pub mod train;

pub mod eval;
