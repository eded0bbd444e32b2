//! Which of cuBLASLt's algorithms does a product: the fastest of what it proposes, measured once a form, kept on disk and in
//! checkpoints. A product's bits hang on its algorithm, and on nothing else: algorithms whose partial sums meet in the order in
//! which they happen to be done are left out.

use super::products::{Descriptors, Form, Library};
use super::queue::Event;
use super::{cache, probe};
use crate::backend::cuda::driver::{Precision, Product, Ptr};
use crate::fsio;
use cudarc::cublaslt::result;
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulAlgo_t, cublasLtMatmulAlgoConfigAttributes_t as Config, cublasLtMatmulHeuristicResult_t as Candidate,
    cublasLtMatmulPreferenceAttributes_t as Preference, cublasLtReductionScheme_t as Reduction, cublasStatus_t as Status,
};
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// How many algorithms are tried for a form.
const CANDIDATES: usize = 16;
/// How often one is timed, at most.
const RUNS: usize = 5;

/// An algorithm that was settled on.
pub(super) struct Chosen {
    pub algorithm: cublasLtMatmulAlgo_t,
}

/// The same in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    /// The library's own description, opaque.
    algorithm: String,
    /// What of it can be read.
    what: String,
    /// Median milliseconds, where it was timed.
    ms: Option<f64>,
}

/// Where plans hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Setting {
    pub device: String,
    pub driver: i32,
    pub cublaslt: usize,
    pub precision: String,
}

#[derive(Serialize, Deserialize)]
struct File {
    setting: Setting,
    products: BTreeMap<String, Kept>,
}

/// All choices.
pub(super) struct Plans {
    setting: Setting,
    path: Option<PathBuf>,
    known: RefCell<BTreeMap<String, Kept>>,
    /// Forms that this program multiplied, or that a checkpoint names: what the next checkpoint carries.
    used: RefCell<BTreeSet<String>>,
    changed: Cell<bool>,
}

impl Plans {
    /// With what is on disk.
    pub fn open(device: &probe::Device, cublaslt: usize, precision: Precision) -> Self {
        let precision = format!("{precision:?}").to_lowercase();
        let setting = Setting { device: device.info.name.clone(), driver: device.driver, cublaslt, precision };
        let name = cache::hash(&[serde_json::to_string(&setting).expect("plain strings and numbers").as_bytes()]);
        let path = cache::folder().map(|folder| folder.join(format!("plans-{name}.json")));
        let read = path.as_ref().and_then(|p| serde_json::from_slice::<File>(&std::fs::read(p).ok()?).ok());
        let known = read.filter(|file| file.setting == setting).map(|file| file.products).unwrap_or_default();
        Self { setting, path, known: RefCell::new(known), used: RefCell::default(), changed: Cell::new(false) }
    }

    /// The choices made for what was multiplied, for a checkpoint.
    pub fn used(&self) -> serde_json::Value {
        let (known, used) = (self.known.borrow(), self.used.borrow());
        let products = used.iter().filter_map(|form| Some((form.clone(), known.get(form)?.clone()))).collect();
        serde_json::to_value(File { setting: self.setting.clone(), products }).expect("plain strings and numbers")
    }

    /// Takes up what a checkpoint carries; what is of another device is left aside, and said.
    pub fn set(&self, plans: &serde_json::Value) {
        let Ok(file) = File::deserialize(plans) else {
            eprintln!("device: the checkpoint's algorithms of matrix products cannot be read; they are chosen anew");
            return;
        };
        if file.setting != self.setting {
            let Setting { device, driver, cublaslt, precision } = &file.setting;
            eprintln!(
                "device: the checkpoint's algorithms of matrix products were chosen in {precision} on {device} (driver {}, cuBLASLt {cublaslt}), and this is another setting: they are chosen anew, and last bits may differ from a run that was not stopped",
                probe::version(*driver)
            );
            return;
        }
        self.used.borrow_mut().extend(file.products.keys().cloned());
        self.known.borrow_mut().extend(file.products);
    }

    /// Writes to disk what is new; that it cannot be written costs time at the next start and nothing else.
    pub fn keep(&self) {
        let Some(path) = self.path.as_ref().filter(|_| self.changed.get()) else { return };
        self.changed.set(false);
        let file = File { setting: self.setting.clone(), products: self.known.borrow().clone() };
        let text = serde_json::to_string_pretty(&file).expect("plain strings and numbers");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).ok();
        }
        fsio::write_bytes(path, text.as_bytes()).ok();
    }

    /// The algorithm for a form, with descriptors of its own; `None` where the library has none.
    pub fn choose(&self, library: &Library, form: &Form, descriptors: &Descriptors, p: &Product) -> Option<Chosen> {
        let name = form.to_string();
        let known = self.known.borrow().get(&name).cloned();
        self.used.borrow_mut().insert(name.clone());
        if let Some(kept) = known {
            match kept.algorithm().filter(|algorithm| can(library, descriptors, algorithm)) {
                Some(algorithm) => return Some(Chosen { algorithm }),
                None => eprintln!("device: cuBLASLt refuses the algorithm kept for {name} ({}); it is chosen anew", kept.what),
            }
        }
        let candidates = candidates(library, form, descriptors);
        let (algorithm, ms) = fastest(library, form, descriptors, p, &candidates)?;
        self.known.borrow_mut().insert(name, Kept { algorithm: hex(&algorithm), what: readable(&algorithm), ms });
        self.changed.set(true);
        Some(Chosen { algorithm })
    }
}

impl Drop for Plans {
    fn drop(&mut self) {
        self.keep();
    }
}

impl Kept {
    fn algorithm(&self) -> Option<cublasLtMatmulAlgo_t> {
        let text = self.algorithm.as_bytes();
        let word = |i: usize| u64::from_str_radix(std::str::from_utf8(text.get(16 * i..16 * i + 16)?).ok()?, 16).ok();
        let mut data = [0; 8];
        for (i, to) in data.iter_mut().enumerate() {
            *to = word(i)?;
        }
        (text.len() == 128).then_some(cublasLtMatmulAlgo_t { data })
    }
}

fn hex(algorithm: &cublasLtMatmulAlgo_t) -> String {
    algorithm.data.iter().map(|word| format!("{word:016x}")).collect()
}

/// A number of an algorithm's configuration.
fn config(algorithm: &cublasLtMatmulAlgo_t, which: Config) -> Option<u32> {
    let (mut value, mut written) = (0u32, 0);
    // SAFETY: all attributes asked for here are 32 bits wide.
    let status =
        unsafe { sys::cublasLtMatmulAlgoConfigGetAttribute(algorithm, which, (&raw mut value).cast(), size_of::<u32>(), &raw mut written) };
    (status == Status::CUBLAS_STATUS_SUCCESS).then_some(value)
}

fn readable(algorithm: &cublasLtMatmulAlgo_t) -> String {
    let parts = [
        ("algorithm", Config::CUBLASLT_ALGO_CONFIG_ID),
        ("tile", Config::CUBLASLT_ALGO_CONFIG_TILE_ID),
        ("stages", Config::CUBLASLT_ALGO_CONFIG_STAGES_ID),
        ("split", Config::CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
        ("reduction", Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME),
    ];
    let told = parts.iter().filter_map(|(name, which)| Some(format!("{name} {}", config(algorithm, *which)?)));
    told.collect::<Vec<_>>().join(", ")
}

/// Whether an algorithm from elsewhere can do this here.
fn can(library: &Library, descriptors: &Descriptors, algorithm: &cublasLtMatmulAlgo_t) -> bool {
    let [left, right, result] = descriptors.layouts;
    let mut told = nothing();
    // SAFETY: all are alive.
    let status =
        unsafe { sys::cublasLtMatmulAlgoCheck(library.handle, descriptors.desc, left, right, result, result, algorithm, &raw mut told) };
    status == Status::CUBLAS_STATUS_SUCCESS && told.workspaceSize <= library.workspace.1
}

const fn nothing() -> Candidate {
    let algo = cublasLtMatmulAlgo_t { data: [0; 8] };
    Candidate { algo, workspaceSize: 0, state: Status::CUBLAS_STATUS_NOT_SUPPORTED, wavesCount: 0.0, reserved: [0; 4] }
}

/// What the library proposes, best guess first.
fn candidates(library: &Library, form: &Form, descriptors: &Descriptors) -> Vec<cublasLtMatmulAlgo_t> {
    let Ok(preference) = result::create_matmul_pref() else { return vec![] };
    let set = |which, value: *const std::ffi::c_void, bytes| {
        // SAFETY: the preference is alive; the value has the attribute's type.
        unsafe { result::set_matmul_pref_attribute(preference, which, value, bytes) }.ok();
    };
    let room = library.workspace.1 as u64;
    set(Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (&raw const room).cast(), 8);
    // Partial sums are kept apart in f32 and added in order, or there are none.
    let reductions = Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
    set(Preference::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (&raw const reductions).cast(), 4);
    let [a, b, c, y] = form.alignment;
    for (which, bytes) in [
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
        (Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y),
    ] {
        set(which, (&raw const bytes).cast(), 4);
    }
    let [left, right, result] = descriptors.layouts;
    let (mut found, mut count) = ([nothing(); CANDIDATES], 0);
    // SAFETY: all are alive; there is room for as many as are asked for.
    let status = unsafe {
        sys::cublasLtMatmulAlgoGetHeuristic(
            library.handle,
            descriptors.desc,
            left,
            right,
            result,
            result,
            preference,
            CANDIDATES as i32,
            found.as_mut_ptr(),
            &raw mut count,
        )
    };
    // SAFETY: it is not used again.
    unsafe { result::destroy_matmul_pref(preference) }.ok();
    if status != Status::CUBLAS_STATUS_SUCCESS {
        return vec![];
    }
    let in_order = |algorithm: &cublasLtMatmulAlgo_t| {
        let scheme = config(algorithm, Config::CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
        scheme.is_none_or(|s| s == 0 || s == Reduction::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32)
    };
    let fits = |c: &&Candidate| c.state == Status::CUBLAS_STATUS_SUCCESS && c.workspaceSize <= library.workspace.1 && in_order(&c.algo);
    found[..count.max(0) as usize].iter().filter(fits).map(|c| c.algo).collect()
}

/// The fastest candidate and its median time. It is not measured while a region is recorded, when nothing may be waited for.
fn fastest(
    library: &Library,
    form: &Form,
    descriptors: &Descriptors,
    p: &Product,
    candidates: &[cublasLtMatmulAlgo_t],
) -> Option<(cublasLtMatmulAlgo_t, Option<f64>)> {
    let first = *candidates.first()?;
    if candidates.len() == 1 || library.queue.recording() {
        return Some((first, None));
    }
    // What is added to must not be added to many times.
    let y = if form.in_place {
        match library.memory.allocate(form.bytes(library.precision)) {
            Ok(elsewhere) => elsewhere,
            Err(_) => return Some((first, None)), // no room to try in
        }
    } else {
        p.y
    };
    let mut best: Option<(cublasLtMatmulAlgo_t, f64)> = None;
    for &algorithm in candidates {
        if let Some(ms) = median(library, descriptors, p, y, &Chosen { algorithm }, best.map_or(f64::INFINITY, |(_, ms)| ms))
            && best.is_none_or(|(_, least)| ms < least)
        {
            best = Some((algorithm, ms));
        }
    }
    if form.in_place {
        library.memory.release(y);
    }
    Some(best.map_or((first, None), |(algorithm, ms)| (algorithm, Some(ms))))
}

/// Median milliseconds of a few runs; of one where that is hopeless beside `least`.
fn median(library: &Library, descriptors: &Descriptors, p: &Product, y: Ptr, chosen: &Chosen, least: f64) -> Option<f64> {
    let (from, to) = (Event::new().ok()?, Event::new().ok()?);
    // The first run loads the code.
    library.multiply(descriptors, chosen, p, y).ok()?;
    let mut times = vec![];
    while times.len() < RUNS {
        from.record(&library.queue);
        library.multiply(descriptors, chosen, p, y).ok()?;
        to.record(&library.queue);
        library.queue.wait(&to).ok()?;
        times.push(from.until(&to).ok()?);
        if times[0] > 2.0 * least {
            break;
        }
    }
    times.sort_by(f64::total_cmp);
    Some(times[times.len() / 2])
}
