//! The CPU backend (being laid).
