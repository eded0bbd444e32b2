//! What running a model takes of memory, part by part, and whether it is there.

use super::pass;
use super::weights::{ModelError, matrices, sizes};
use super::{CacheType, KvCache};
use crate::gguf::Gguf;
use crate::model::Config;
use crate::simd::panel::Layout;
use std::path::{Path, PathBuf};

/// Bytes that running a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Packed weights, norms and biases, in memory of the process's own; packed weights are nothing here where they are mapped.
    pub weights: usize,
    /// Weights that are used where they lie in a file: the system can drop them and read them again, and processes share them.
    pub mapped: usize,
    /// Keys and values of all positions, when the context is full.
    pub cache: usize,
    /// What a session and a sampler work in.
    pub room: usize,
    /// The program itself, the file's metadata and the tokenizer.
    pub program: usize,
    /// Positions that the cache has.
    pub positions: usize,
}

/// The program's pages, its heap and stacks.
const PROGRAM: usize = 4 << 20;

impl Need {
    /// What running the model in `file` takes on so many threads, over all of its positions, its matrices packed in this layout; `packed`:
    /// from a file of their own.
    pub fn of(file: &Gguf, layout: Layout, cache: CacheType, threads: usize, packed: bool) -> Result<Self, ModelError> {
        let config = sizes(file)?;
        let (mut own, mut mapped) = (0, 0);
        for m in matrices(file, &config)? {
            match m.panel_bytes(layout) {
                Some((quants, scales)) if packed => mapped += quants + scales,
                Some((quants, scales)) => own += quants + scales,
                None => mapped += m.tensor.len,
            }
        }
        let vectors = file.tensors().iter().filter(|t| t.dims.len() == 1).map(|t| t.dims[0] as usize * size_of::<f32>()).sum::<usize>();
        let metadata = file.tensors().iter().fold(file.file_len(), |rest, t| rest.saturating_sub(t.len));
        let Config { n_layer, n_head, n_ctx, .. } = config;
        Ok(Self {
            weights: own + vectors,
            mapped,
            cache: KvCache::bytes_of(cache, n_layer, n_head, n_ctx, config.head_dim()),
            room: pass::Room::bytes(&config, n_ctx, threads) + session(&config),
            // Tokens and merges are in the map; where each begins, and what finds it, take about as much again.
            program: PROGRAM + 2 * metadata,
            positions: n_ctx,
        })
    }

    /// All that must be there: what is mapped can be dropped.
    #[must_use]
    pub const fn total(&self) -> usize {
        self.weights + self.cache + self.room + self.program
    }

    /// An error if that is more than is available to this process. Where the system does not say how much is, it is taken to be enough.
    pub fn check(&self, model: &Path) -> Result<(), TooLarge> {
        match available() {
            Some(there) if there.bytes < self.total() as u64 => Err(TooLarge { model: model.into(), need: *self, there }),
            _ => Ok(()),
        }
    }
}

/// A session's own buffers and a sampler's: logits three times, a hidden state, the tokens.
fn session(config: &Config) -> usize {
    (3 * config.vocab() + config.n_embd + config.n_ctx) * size_of::<f32>()
}

/// A model that does not fit.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", model.display(), why(need, there))]
pub struct TooLarge {
    /// The model.
    pub model: PathBuf,
    /// What it takes.
    pub need: Need,
    /// What there is.
    pub there: Available,
}

fn why(need: &Need, there: &Available) -> String {
    let mb = |bytes: usize| bytes as f64 / 1e6;
    format!(
        "running it takes {:.1} MB of memory (weights {:.1}, cache of {} tokens {:.1}, working room {:.1}, program {:.1}), and {:.1} MB is \
         available {}: take a smaller cache (--cache q8), a model of a smaller type (tinyllm-run quantize), or map its weights (--packed)",
        mb(need.total()),
        mb(need.weights),
        need.positions,
        mb(need.cache),
        mb(need.room),
        mb(need.program),
        there.bytes as f64 / 1e6,
        there.to
    )
}

/// Memory that can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// How much.
    pub bytes: u64,
    /// To whom: "on this machine".
    pub to: &'static str,
}

/// Memory that this process can still take: the least that the system, its control groups and its own limits allow. `None` where none of
/// them says so.
#[must_use]
pub fn available() -> Option<Available> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let status = read("/proc/self/status");
    let all = [
        (of_system(&read("/proc/meminfo")), "on this machine"),
        (of_groups(&read("/proc/self/cgroup"), &read), "to this control group"),
        (of_limits(&read("/proc/self/limits"), &status), "under this process's limits (ulimit)"),
    ];
    all.into_iter().filter_map(|(bytes, to)| Some(Available { bytes: bytes?, to })).min_by_key(|a| a.bytes)
}

/// The most memory that this process has had at once, shared pages included; `None` where the system does not say.
#[must_use]
pub fn peak() -> Option<u64> {
    kilobytes(&std::fs::read_to_string("/proc/self/status").ok()?, "VmHWM:")
}

/// A line `NAME 1234 kB` as bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What `/proc/meminfo` says is available, swap included: slow is not the same as impossible.
fn of_system(meminfo: &str) -> Option<u64> {
    Some(kilobytes(meminfo, "MemAvailable:")? + kilobytes(meminfo, "SwapFree:").unwrap_or(0))
}

/// What `/proc/self/limits` leaves over what `/proc/self/status` says is taken.
fn of_limits(limits: &str, status: &str) -> Option<u64> {
    let left = |limit: &str, taken: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(limit))?;
        let most: u64 = line.split_whitespace().next()?.parse().ok()?;
        Some(most.saturating_sub(kilobytes(status, taken)?))
    };
    [left("Max address space", "VmSize:"), left("Max data size", "VmData:")].into_iter().flatten().min()
}

/// What control groups leave: the tightest among the process's group and those around it. Pages of files count as free, as they can be dropped.
fn of_groups(own: &str, read: &dyn Fn(&str) -> String) -> Option<u64> {
    let mut least = None;
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let (root, most, taken) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => continue,
        };
        let mut path = path.trim_end_matches('/');
        loop {
            let file = |name: &str| read(&format!("{root}{path}/{name}"));
            let number = |name: &str| file(name).trim().parse::<u64>().ok();
            if let (Some(most), Some(taken)) = (number(most), number(taken)) {
                let stat = file("memory.stat");
                let pages = |name: &str| {
                    let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
                    line.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0)
                };
                let left = most.saturating_sub(taken.saturating_sub(pages("inactive_file") + pages("active_file")));
                least = Some(least.map_or(left, |l: u64| l.min(left)));
            }
            let Some(up) = path.rfind('/') else { break };
            path = &path[..up];
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_figures_are_read() {
        let meminfo = "MemTotal: 500000 kB\nMemFree:  20000 kB\nMemAvailable:  100 kB\nSwapFree: 24 kB\n";
        assert_eq!(of_system(meminfo), Some(124 * 1024));
        assert_eq!(of_system("MemFree: 3 kB\n"), None, "before Linux 3.14");
        assert_eq!(of_system(""), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax data size  unlimited  unlimited  bytes\nMax address space  3000000  unlimited  bytes\n";
        assert_eq!(of_limits(limits, "VmSize:\t 1000 kB\nVmData: 20 kB\n"), Some(3_000_000 - 1_024_000));
        assert_eq!(of_limits(limits, "VmSize:\t 1000000 kB\n"), Some(0));
        assert_eq!(of_limits("Max data size  unlimited  unlimited  bytes\n", "VmData: 20 kB\n"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let second = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/a/b/memory.max" => "max\n",
                "/sys/fs/cgroup/a/b/memory.current" => "10\n",
                "/sys/fs/cgroup/a/memory.max" => "1000\n",
                "/sys/fs/cgroup/a/memory.current" => "700\n",
                "/sys/fs/cgroup/a/memory.stat" => "anon 300\nfile 400\nactive_file 100\ninactive_file 250\n",
                _ => "",
            };
            text.to_owned()
        };
        assert_eq!(of_groups("0::/a/b\n", &second), Some(1000 - 350));
        assert_eq!(of_groups("0::/\n", &second), None);
        let first = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/memory/x/memory.limit_in_bytes" => "500",
                "/sys/fs/cgroup/memory/x/memory.usage_in_bytes" => "600",
                _ => "",
            };
            text.to_owned()
        };
        assert_eq!(of_groups("4:memory:/x\n3:cpuset:/\n0::/\n", &first), Some(0));
    }

    #[test]
    fn a_refusal_has_all_figures() {
        let need = Need { weights: 80_000_000, mapped: 3_000_000, cache: 20_000_000, room: 2_000_000, program: 8_000_000, positions: 1024 };
        let there = Available { bytes: 64_000_000, to: "on this machine" };
        let text = TooLarge { model: "m.gguf".into(), need, there }.to_string();
        for part in ["m.gguf", "takes 110.0 MB", "weights 80.0", "1024 tokens 20.0", "64.0 MB is available on this machine", "--cache q8"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
