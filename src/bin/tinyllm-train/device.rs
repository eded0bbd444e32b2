//! Which device to train on.

use clap::ValueEnum;

/// What `--device` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// The fastest this machine has; today that is the CPU.
    Auto,
    /// This machine's processor, in f32.
    Cpu,
}

impl Device {
    /// The device's name in `config.toml`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto | Self::Cpu => "cpu",
        }
    }
}
