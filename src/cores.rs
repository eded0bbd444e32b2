//! Which of a machine's cores are worth running a model on.
//!
//! Boards mix fast and slow cores (four Cortex-A76 beside four A55, say). A token's pass has some sixty phases that each end when the
//! last chunk is done, so that slow cores cost more than they bring: on such a board a model runs on its fast cores alone. Two
//! threads of one core share its arithmetic and count as one.

use std::fs;
use std::path::Path;

/// A core with at least this share of the fastest one's capacity is fast. Capacities are measured at the highest clock: an A55 has
/// 0.4 to 0.55 of an A76 or A78, and of a "prime" core the other big ones 0.8 and more.
const SHARE_OF_CAPACITY: f64 = 0.7;
/// The same for clocks, known where capacities are not. They say less of a slow core: 1.8 GHz beside 2.4 GHz, 0.75.
const SHARE_OF_CLOCK: f64 = 0.85;

/// The processors (threads of cores, as the system numbers them) that a model is to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fast {
    /// Fast processors that this process may use.
    pub processors: Vec<usize>,
    /// Threads that are worth starting on them: one a core, and no more than the time that this process is granted.
    pub threads: usize,
    /// Whether there are slower processors beside them that it may use.
    pub mixed: bool,
}

/// The fast processors of this machine. Where the system does not tell them apart, all are.
#[must_use]
pub fn fast() -> Fast {
    let granted = std::thread::available_parallelism().map_or(1, usize::from);
    let allowed = allowed().unwrap_or_else(|| (0..granted).collect());
    let fast = among(Path::new("/sys/devices/system/cpu"), &allowed);
    Fast { threads: fast.threads.clamp(1, granted), ..fast }
}

/// Keeps the calling thread, and those that it starts from here on, on the fast processors, if there are slower ones beside.
pub fn keep_to(fast: &Fast) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if fast.mixed {
        let mut set = rustix::thread::CpuSet::new();
        fast.processors.iter().filter(|&&p| p < rustix::thread::CpuSet::MAX_CPU).for_each(|&p| set.set(p));
        // A system that refuses leaves us where we are, which costs time and nothing else.
        rustix::thread::sched_setaffinity(None, &set).ok();
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = fast;
}

/// The processors that this process may use.
fn allowed() -> Option<Vec<usize>> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let set = rustix::thread::sched_getaffinity(None).ok()?;
        Some((0..rustix::thread::CpuSet::MAX_CPU).filter(|&p| set.is_set(p)).collect())
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    None
}

/// The fast ones of some processors, by what the system says in `sys` (`/sys/devices/system/cpu`).
fn among(sys: &Path, allowed: &[usize]) -> Fast {
    let numbers = |file: &str| -> Option<Vec<f64>> {
        let number = |p: &usize| fs::read_to_string(sys.join(format!("cpu{p}/{file}"))).ok()?.trim().parse().ok().filter(|x| *x > 0.0);
        allowed.iter().map(number).collect()
    };
    let fastest_of = |speeds: Vec<f64>, share: f64| -> Vec<usize> {
        let most = speeds.iter().copied().fold(0.0, f64::max);
        allowed.iter().zip(&speeds).filter(|(_, s)| **s >= share * most).map(|(p, _)| *p).collect()
    };
    let processors = if let Some(capacities) = numbers("cpu_capacity") {
        fastest_of(capacities, SHARE_OF_CAPACITY)
    } else if let Some(clocks) = numbers("cpufreq/cpuinfo_max_freq") {
        fastest_of(clocks, SHARE_OF_CLOCK)
    } else {
        allowed.to_vec()
    };
    // Threads of one core name the same list of siblings.
    let core = |p: &usize| fs::read_to_string(sys.join(format!("cpu{p}/topology/thread_siblings_list"))).unwrap_or_else(|_| p.to_string());
    let mut cores: Vec<String> = processors.iter().map(core).collect();
    cores.sort_unstable();
    cores.dedup();
    Fast { threads: cores.len(), mixed: processors.len() < allowed.len(), processors }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a system says of each processor: `(file, number)`.
    fn machine(processors: &[&[(&str, &str)]]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (p, says) in processors.iter().enumerate() {
            for (file, text) in *says {
                let path = dir.path().join(format!("cpu{p}/{file}"));
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, format!("{text}\n")).unwrap();
            }
        }
        dir
    }

    const A55: &[(&str, &str)] = &[("cpu_capacity", "530"), ("cpufreq/cpuinfo_max_freq", "1800000")];
    const A76: &[(&str, &str)] = &[("cpu_capacity", "1024"), ("cpufreq/cpuinfo_max_freq", "2400000")];

    #[test]
    fn big_cores_of_a_mixed_board() {
        let rk3588 = machine(&[A55, A55, A55, A55, A76, A76, A76, A76]);
        let all: Vec<usize> = (0..8).collect();
        assert_eq!(among(rk3588.path(), &all), Fast { processors: vec![4, 5, 6, 7], threads: 4, mixed: true });
        // A process that may use some of them alone.
        assert_eq!(among(rk3588.path(), &[0, 1]), Fast { processors: vec![0, 1], threads: 2, mixed: false });
        assert_eq!(among(rk3588.path(), &[1, 5]), Fast { processors: vec![5], threads: 1, mixed: true });
        // A kernel that knows clocks alone; a phone's three kinds.
        let clocks = machine(&[&A55[1..], &A76[1..], &[("cpufreq/cpuinfo_max_freq", "2256000")]]);
        assert_eq!(among(clocks.path(), &[0, 1, 2]).processors, [1, 2]);
        let phone = machine(&[A55, &[("cpu_capacity", "870")], A76]);
        assert_eq!(among(phone.path(), &[0, 1, 2]).processors, [1, 2]);
    }

    #[test]
    fn equal_cores_and_threads_of_a_core() {
        let same = machine(&[A76, A76, A76, A76]);
        assert_eq!(among(same.path(), &[0, 1, 2, 3]), Fast { processors: vec![0, 1, 2, 3], threads: 4, mixed: false });
        let list = "topology/thread_siblings_list";
        let hyper = machine(&[&[(list, "0,2")], &[(list, "1,3")], &[(list, "0,2")], &[(list, "1,3")]]);
        assert_eq!(among(hyper.path(), &[0, 1, 2, 3]), Fast { processors: vec![0, 1, 2, 3], threads: 2, mixed: false });
        // A system that says nothing.
        let silent = machine(&[]);
        assert_eq!(among(silent.path(), &[0, 1]), Fast { processors: vec![0, 1], threads: 2, mixed: false });
    }

    #[test]
    fn this_machine_has_one() {
        let fast = fast();
        assert!(fast.threads >= 1 && !fast.processors.is_empty());
    }
}
