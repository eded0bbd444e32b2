//! A team of threads for work that comes in short phases one after the other, as a token's pass through a model does.
//!
//! Entering a rayon pool costs some 12 microseconds, a token has about sixty phases, and a small model's phase takes as long
//! as that. Here a phase costs a fraction of a microsecond to begin. Its work is cut into chunks that the members claim one by one:
//! a fast core takes more of them than a slow one, and a member that the system has put aside is not waited for, unless it holds
//! a chunk just then. Whoever finds no chunk left spins for a moment and then sleeps, which frees its core for that very member; so
//! other programs on the same cores slow the team down as they must, and no more.
//!
//! Between two jobs the members spin a moment, too: a next token finds them awake. What a chunk computes depends on
//! its number alone, so that results are the same with any number of members.
#![allow(unsafe_code)] // A job is borrowed from its caller's stack by threads that outlive the call.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a member spins for the end of a phase or the next job before it sleeps: longer than a phase of a small model,
/// shorter than what waking up costs twice over.
const SPIN: Duration = Duration::from_micros(40);

/// Phases of a job, at most.
pub const PHASES: usize = 512;

/// What the members do: `work(phase, chunk, member)`.
pub type Work<'a> = dyn Fn(usize, usize, usize) + Sync + 'a;

/// Threads that work together. The caller of [`run`](Self::run) is one of them.
pub struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// One phase's state; a word of its own cache line each, since all members write it.
#[repr(align(64))]
#[derive(Default)]
struct Phase {
    /// A [`word`] of the chunks that were claimed.
    claimed: AtomicU64,
    /// A [`word`] of the chunks that are done.
    done: AtomicU64,
}

struct Shared {
    phases: Vec<Phase>,
    /// The number of the job at hand; a futex for those who wait for the next.
    job: AtomicU32,
    /// Goes up when a phase ends while somebody sleeps; a futex.
    bell: AtomicU32,
    /// Members asleep on either.
    asleep: AtomicUsize,
    /// Phases of the job.
    count: AtomicUsize,
    work: UnsafeCell<Option<*const Work<'static>>>,
    /// The first panic in a chunk.
    broken: AtomicBool,
    quit: AtomicBool,
}

// SAFETY: `work` is written by the caller of `run` alone, while no claim of the job before is outstanding and none of the next can be
// made, and read by who holds a claim alone: claims are made against a word with the job's number, set (Release) after it was written.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `work` is to something `Sync`, as `Work` says.
unsafe impl Send for Shared {}

/// A job's number, the chunks of a phase, and how many of them are claimed or done, in one word: whoever compares it knows them all
/// to be of one job.
const fn word(job: u32, chunks: u16) -> u64 {
    (job as u64) << 32 | (chunks as u64) << 16
}
const fn of_job(word: u64, job: u32) -> bool {
    (word >> 32) as u32 == job
}
/// Whether all chunks are claimed or done.
const fn whole(word: u64) -> bool {
    word as u16 >= (word >> 16) as u16
}

impl Team {
    /// `members` threads, the caller among them, but no more than the cores that this process may run on; at least one.
    #[must_use]
    pub fn new(members: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let members = members.clamp(1, cores);
        let shared = Arc::new(Shared {
            phases: (0..PHASES).map(|_| Phase::default()).collect(),
            job: AtomicU32::new(0),
            bell: AtomicU32::new(0),
            asleep: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            work: UnsafeCell::new(None),
            broken: AtomicBool::new(false),
            quit: AtomicBool::new(false),
        });
        let threads = (1..members)
            .map(|member| {
                let shared = shared.clone();
                let thread = std::thread::Builder::new().name(format!("tinyllm-{member}")).stack_size(512 << 10);
                thread.spawn(move || shared.serve(member)).expect("a thread can be started")
            })
            .collect();
        Self { shared, threads }
    }

    /// How many members there are.
    #[must_use]
    pub fn members(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `work(phase, chunk, member)` for every chunk of phase 0, then, when all of them are done, of phase 1, and so on;
    /// `chunks[phase]` says how many there are. What a phase wrote is seen by the next ones.
    ///
    /// # Panics
    /// If there are more than [`PHASES`] phases, and if `work` panics.
    pub fn run(&mut self, chunks: &[u16], work: &Work<'_>) {
        assert!(chunks.len() <= PHASES, "{} phases, and there is room for {PHASES}", chunks.len());
        if self.threads.is_empty() {
            for (phase, &chunks) in chunks.iter().enumerate() {
                (0..usize::from(chunks)).for_each(|chunk| work(phase, chunk, 0));
            }
            return;
        }
        let shared = &*self.shared;
        let job = shared.job.load(Ordering::Relaxed).wrapping_add(1);
        // SAFETY: no claim is outstanding (`&mut self`: the job before has ended, which takes all its chunks), so that nobody reads it.
        unsafe {
            *shared.work.get() = Some(std::mem::transmute::<*const Work<'_>, *const Work<'static>>(std::ptr::from_ref(work)));
        }
        shared.count.store(chunks.len(), Ordering::Relaxed);
        for (phase, &chunks) in shared.phases.iter().zip(chunks) {
            phase.done.store(word(job, chunks), Ordering::Relaxed);
            phase.claimed.store(word(job, chunks), Ordering::Release);
        }
        shared.job.store(job, Ordering::SeqCst);
        shared.ring(&shared.job);
        shared.take_part(job, 0);
        if shared.broken.swap(false, Ordering::Relaxed) {
            panic!("a member of the team panicked; its message stands above");
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.quit.store(true, Ordering::SeqCst);
        self.shared.job.fetch_add(1, Ordering::SeqCst);
        futex::wake(&self.shared.job);
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

impl Shared {
    /// What a member does until the team is dropped.
    fn serve(&self, member: usize) {
        let mut seen = 0;
        loop {
            self.wait(&self.job, || self.job.load(Ordering::Acquire) != seen);
            seen = self.job.load(Ordering::Acquire);
            if self.quit.load(Ordering::Acquire) {
                return;
            }
            self.take_part(seen, member);
        }
    }

    /// Works at all phases of `job`, as long as that is the job at hand; returns when its last phase is done.
    fn take_part(&self, job: u32, member: usize) {
        let count = self.count.load(Ordering::Relaxed);
        for (number, phase) in self.phases[..count].iter().enumerate() {
            if !self.work_at(phase, number, job, member) {
                return;
            }
            let ended = || {
                let done = phase.done.load(Ordering::Acquire);
                !of_job(done, job) || whole(done)
            };
            if !ended() {
                self.wait(&self.bell, ended);
            }
        }
    }

    /// Claims chunks of a phase until none is left; false if the job has ended.
    fn work_at(&self, phase: &Phase, number: usize, job: u32, member: usize) -> bool {
        let mut claimed = phase.claimed.load(Ordering::Acquire);
        while of_job(claimed, job) {
            if whole(claimed) {
                return true;
            }
            match phase.claimed.compare_exchange_weak(claimed, claimed + 1, Ordering::AcqRel, Ordering::Acquire) {
                Err(now) => claimed = now,
                Ok(_) => {
                    // SAFETY: the claim is outstanding until `done` counts it, and `run` returns only when all chunks are done: the work
                    // that the pointer is to lives.
                    let work = unsafe { &*(*self.work.get()).expect("a job has work") };
                    let chunk = usize::from(claimed as u16);
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(number, chunk, member))).is_err() {
                        self.broken.store(true, Ordering::Relaxed);
                    }
                    if whole(phase.done.fetch_add(1, Ordering::SeqCst) + 1) {
                        self.bell.fetch_add(1, Ordering::SeqCst);
                        self.ring(&self.bell);
                    }
                    claimed = phase.claimed.load(Ordering::Acquire);
                }
            }
        }
        false
    }

    /// Spins for a moment until `over`, then sleeps on `bell`, which rings after that becomes true.
    fn wait(&self, bell: &AtomicU32, over: impl Fn() -> bool) {
        let start = Instant::now();
        loop {
            for _ in 0..32 {
                if over() {
                    return;
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        self.asleep.fetch_add(1, Ordering::SeqCst);
        loop {
            // Read before the last look: whoever ends the phase after that look raises it, and the sleep does not begin.
            let heard = bell.load(Ordering::SeqCst);
            if over() {
                break;
            }
            futex::wait(bell, heard);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    fn ring(&self, bell: &AtomicU32) {
        if self.asleep.load(Ordering::SeqCst) > 0 {
            futex::wake(bell);
        }
    }
}

/// Sleeping until a word changes.
mod futex {
    use std::sync::atomic::AtomicU32;

    /// Sleeps while `word` is `value`; may return early.
    pub fn wait(word: &AtomicU32, value: u32) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        rustix::thread::futex::wait(word, rustix::thread::futex::Flags::PRIVATE, value, None).ok();
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        {
            let _ = (word, value);
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    }

    /// Wakes all who sleep on `word`.
    pub fn wake(word: &AtomicU32) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        rustix::thread::futex::wake(word, rustix::thread::futex::Flags::PRIVATE, u32::MAX >> 1).ok();
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = word;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn every_chunk_is_done_once_and_after_the_phase_before() {
        for members in 1..=4 {
            let mut team = Team::new(members);
            for round in 0..2000u32 {
                let chunks: Vec<u16> = (0..7).map(|p| ((round * 7 + p * 5) % 11) as u16).collect();
                let done: Vec<AtomicU32> = chunks.iter().map(|_| AtomicU32::new(0)).collect();
                let seen = Mutex::new(vec![]);
                team.run(&chunks, &|phase, chunk, member| {
                    assert!(member < 4);
                    for before in 0..phase {
                        assert_eq!(
                            done[before].load(Ordering::Relaxed),
                            u32::from(chunks[before]),
                            "phase {phase} began before {before} ended"
                        );
                    }
                    seen.lock().unwrap().push((phase, chunk));
                    done[phase].fetch_add(1, Ordering::Relaxed);
                });
                let mut seen = seen.into_inner().unwrap();
                seen.sort_unstable();
                let all: Vec<_> = chunks.iter().enumerate().flat_map(|(p, &n)| (0..usize::from(n)).map(move |c| (p, c))).collect();
                assert_eq!(seen, all);
            }
        }
    }

    #[test]
    fn members_that_slept_come_back() {
        let mut team = Team::new(2);
        let sum = AtomicU32::new(0);
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            team.run(&[2, 2], &|_, chunk, _| {
                std::thread::sleep(Duration::from_micros(200 * chunk as u64));
                sum.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(sum.load(Ordering::Relaxed), 80);
    }

    #[test]
    fn a_panic_is_told_and_the_team_lives_on() {
        let mut team = Team::new(2);
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            team.run(&[4], &|_, chunk, _| assert!(chunk != 2, "this panic is meant"));
        }));
        assert!(failed.is_err());
        let sum = AtomicU32::new(0);
        team.run(&[4], &|_, chunk, _| _ = sum.fetch_add(chunk as u32, Ordering::Relaxed));
        assert_eq!(sum.load(Ordering::Relaxed), 6);
    }
}
