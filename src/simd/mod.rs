//! Inner loops in `f32`, and their choice at run time.
//!
//! An algorithm is written once, generic over a [`Simd`] token, as a struct that holds its arguments and
//! implements [`Op`]. [`Isa::run`] is the one door: it enters a function compiled with the instruction set's
//! features and hands the token in. A token can be made nowhere else, so whoever holds one may use its
//! instructions, and the loops themselves need no `unsafe` for them.
//!
//! What is parallel is cut along outputs, and every sum has one order that depends on sizes alone: results
//! have the same bits whatever the number of threads. They may differ in the last bits between instruction sets.
//!
//! - [`gemm`]: matrix products; [`attention`]: in tiles; [`cache`]: over keys and values kept; [`choose`]: the highest of many; [`elements`], [`norm`], [`softmax`], [`dropout`], [`adamw`]: the rest
//! - [`math`]: `exp` and GELU over vectors
#![allow(unsafe_code)] // Intrinsics, and tiles of one output written by several threads.

pub mod adamw;
pub mod attention;
pub mod cache;
pub mod choose;
pub mod dropout;
pub mod elements;
pub mod gemm;
pub mod math;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod norm;
pub mod panel;
pub mod parallel;
mod plain;
pub mod softmax;
mod vector;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use vector::{Simd, Tile};

/// An algorithm with its arguments, to be run under some instruction set.
pub trait Op {
    /// What it returns.
    type Out;
    /// The algorithm. Mark implementations `#[inline(always)]`, and whatever generic code they call: only what is
    /// inlined into the entry is compiled with its features.
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// An instruction set that this machine was found to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "aarch64")]
    Neon,
}

/// The environment variable that names the instruction set to use: "avx512", "avx2", "neon" or "plain".
pub const ISA_VARIABLE: &str = "TINYLLM_ISA";

/// An instruction set was asked for that this machine lacks.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{ISA_VARIABLE}={asked}: this machine has {available}; unset the variable to get the best")]
pub struct IsaError {
    /// The variable's value.
    pub asked: String,
    /// What there is instead.
    pub available: String,
}

impl Isa {
    /// All that this machine has, the best first; "plain" is always there, last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            if avx2 && is_x86_feature_detected!("avx512f") {
                all.push(Self(Kind::Avx512));
            }
            if avx2 {
                all.push(Self(Kind::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self(Kind::Neon));
        }
        all.push(Self(Kind::Plain));
        all
    }

    /// The best that this machine has.
    #[must_use]
    pub fn detect() -> Self {
        static BEST: std::sync::OnceLock<Isa> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| Self::available()[0])
    }

    /// The one that [`ISA_VARIABLE`] names, or the best where it is not set.
    pub fn from_env() -> Result<Self, IsaError> {
        match std::env::var(ISA_VARIABLE) {
            Err(_) => Ok(Self::detect()),
            Ok(asked) => Self::available().into_iter().find(|isa| isa.name() == asked).ok_or_else(|| IsaError {
                asked,
                available: Self::available().iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// "avx512", "avx2", "neon" or "plain".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Plain => "plain",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => "neon",
        }
    }

    /// Runs `op` with this instruction set.
    #[inline]
    pub fn run<O: Op>(self, op: O) -> O::Out {
        match self.0 {
            Kind::Plain => plain::enter(op),
            // SAFETY: an `Isa` of this kind is made by `available` alone, after it found the features.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { x86::enter_avx2(op) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { x86::enter_avx512(op) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { neon::enter(op) },
        }
    }
}
