//! Stretches of work that are recorded and replayed: a micro-step is some three hundred launches, and one as a graph.
//!
//! A region runs plainly the first time: code is loaded, workspaces are found, products are timed. The second time it is
//! recorded, and from then on replayed. A recording is of the sizes and places it was made with. The driver does not see what
//! they are: it goes by the key alone, and whoever makes the key puts every size into it (`train::learner` does: sequences,
//! positions, counted rows, and the number of the learner, whose memory it is).

use super::memory::Memory;
use super::queue::{Order, Queue, words};
use cudarc::driver::sys::{self, CUgraphExec, CUresult, CUstreamCaptureMode};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// Recordings kept; the one not used for longest goes first.
const KEPT: usize = 64;

/// A graph ready to be launched.
struct Graph(CUgraphExec);

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: nobody else has it; the driver waits for one under way.
        unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}

enum State {
    /// It ran once.
    Seen,
    Recorded {
        graph: Graph,
        last: Option<Order>,
    },
}

struct Region {
    state: State,
    used: u64,
}

pub(super) struct Regions {
    queue: Rc<Queue>,
    /// Whether regions are recorded at all.
    on: Cell<bool>,
    clock: Cell<u64>,
    regions: RefCell<HashMap<u64, Region>>,
}

impl Regions {
    pub fn new(queue: Rc<Queue>) -> Self {
        let off = std::env::var_os("TINYLLM_CUDA_GRAPHS").is_some_and(|v| v == "0");
        let on = Cell::new(!off && !queue.each);
        Self { queue, on, clock: Cell::new(0), regions: RefCell::default() }
    }

    pub fn region(&self, memory: &Memory, key: u64, work: &mut dyn FnMut()) {
        if !self.on.get() || self.queue.recording() || !self.queue.well() {
            return work();
        }
        self.clock.set(self.clock.get() + 1);
        let mut regions = self.regions.borrow_mut();
        match regions.get_mut(&key) {
            None => {
                if regions.len() >= KEPT {
                    let oldest = *regions.iter().min_by_key(|(_, r)| r.used).expect("there are some").0;
                    regions.remove(&oldest);
                }
                regions.insert(key, Region { state: State::Seen, used: self.clock.get() });
                drop(regions);
                work();
            }
            Some(region) => {
                region.used = self.clock.get();
                if let State::Seen = region.state {
                    match self.record(memory, work) {
                        Ok((graph, last)) => region.state = State::Recorded { graph, last },
                        Err(reason) => {
                            self.on.set(false);
                            eprintln!("device: steps are not recorded but launched kernel by kernel, which is slower: {reason}");
                            return work();
                        }
                    }
                }
                if let State::Recorded { graph, last } = &region.state {
                    // SAFETY: the graph is alive, and so is the memory it works on, as long as its key is used.
                    let code = unsafe { sys::cuGraphLaunch(graph.0, self.queue.stream()) };
                    self.queue.replayed(code, *last);
                }
            }
        }
    }

    /// Records `work`, which runs on the host alone; why it could not be, otherwise.
    fn record(&self, memory: &Memory, work: &mut dyn FnMut()) -> Result<(Graph, Option<Order>), String> {
        let stream = self.queue.stream();
        // SAFETY: the stream is this driver's and not being recorded.
        let begun = unsafe { sys::cuStreamBeginCapture_v2(stream, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) };
        if begun != CUresult::CUDA_SUCCESS {
            return Err(words(begun));
        }
        let before = self.queue.last();
        self.queue.set_recording(true);
        work();
        self.queue.set_recording(false);
        let mut graph = std::ptr::null_mut();
        // SAFETY: ends what was begun; the graph is this function's alone.
        let ended = unsafe { sys::cuStreamEndCapture(stream, &raw mut graph) };
        let spoilt = self.queue.take_spoilt();
        let mut executable = std::ptr::null_mut();
        let mut made = ended;
        if !graph.is_null() {
            // SAFETY: the graph is whole, and not needed once it is instantiated.
            unsafe {
                if ended == CUresult::CUDA_SUCCESS && spoilt.is_none() {
                    made = sys::cuGraphInstantiateWithFlags(&raw mut executable, graph, 0);
                }
                sys::cuGraphDestroy(graph);
            }
        }
        memory.release_pending();
        match (spoilt, made) {
            (Some(reason), _) => Err(reason),
            (None, CUresult::CUDA_SUCCESS) if !executable.is_null() => Ok((Graph(executable), self.queue.last().or(before))),
            (None, code) => Err(words(code)),
        }
    }
}
