//! (being laid)

pub mod tokenizer;
