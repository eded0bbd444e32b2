//! Training: one step, a whole run, what is kept of it.

pub mod bench;
pub mod check;
pub mod checkpoint;
pub mod config;
pub mod feed;
pub mod learner;
pub mod metrics;
pub mod run;
pub mod rundir;
pub mod schedule;

pub use learner::{Adam, Learner, StepReport};
pub use schedule::Schedule;
